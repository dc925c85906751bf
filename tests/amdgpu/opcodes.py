# SPDX-License-Identifier: Apache-2.0
"""C functions of opcodes: from the pseudocode in the tinygrad wheel, or by name from own.c and matrix.c."""
import re

from expressions import tokens_of
from pseudocode import Translator
from values import Unknown, c_type

# Opcodes by pattern, without _E32 and _E64, whose functions are written by hand.
_OWN = [
    (r"S_(NOP|WAITCNT\w*|DELAY_ALU|CLAUSE|SET_INST_PREFETCH_DISTANCE|SETPRIO|ICACHE_INV|DCACHE_\w+|WAIT_IDLE|SETHALT|INCPERFLEVEL)",
     "nothing"),
    (r"(BUFFER_(INV|WBL2|GL[01]_INV)|S_GL1_INV|V_NOP)", "nothing"),
    (r"S_SLEEP", "sleep"), (r"S_ENDPGM", "end"), (r"S_BARRIER", "barrier"), (r"S_TRAP", "trap"), (r"S_SENDMSG", "sendmsg"),
    (r"S_(MEMTIME|MEMREALTIME)", "time"), (r"S_GETREG_B32", "getreg"), (r"S_SETREG_B32", "setreg"),
    (r"S_SETREG_IMM32_B32", "setreg_imm"),
    (r"V_READFIRSTLANE_B32", "readfirstlane"), (r"V_READLANE_B32", "readlane"), (r"V_WRITELANE_B32", "writelane"),
    (r"V_PERMLANE16_B32", "permlane16"), (r"V_PERMLANEX16_B32", "permlanex16"), (r"V_PERMLANE64_B32", "permlane64"),
    (r"DS_BPERMUTE_B32", "bpermute"), (r"DS_PERMUTE_B32", "permute"), (r"DS_SWIZZLE_B32", "swizzle"),
    (r"V_ACCVGPR_(READ|WRITE|MOV)(_B32)?", "accvgpr_move"),
    (r"V_MAD_U64_U32", "mad_u64_u32"), (r"V_MAD_I64_I32", "mad_i64_i32"), (r"V_PERM_B32", "perm"),
    (r"V_BCNT_U32_B32", "bcnt"),
    (r"V_ADD(_NC)?_U32", "add_u32"), (r"V_SUB(_NC)?_U32", "sub_u32"), (r"V_SUBREV(_NC)?_U32", "subrev_u32"),
    (r"V_MAX_F32", "max_f32"), (r"V_MIN_F32", "min_f32"), (r"V_MAX_F16", "max_f16"), (r"V_MIN_F16", "min_f16"),
    (r"V_MAX_F64", "max_f64"), (r"V_MIN_F64", "min_f64"),
    (r"V_RNDNE_F32", "rndne_f32"), (r"V_LDEXP_F32", "ldexp_f32"),
    (r"V_DIV_SCALE_F32", "div_scale_f32"), (r"V_DIV_FMAS_F32", "div_fmas_f32"),
    (r"V_DIV_SCALE_F64", "div_scale_f64"), (r"V_DIV_FMAS_F64", "div_fmas_f64"),
    (r"V_(FMA|MAD)_MIX_F32", "mix_f32"), (r"V_(FMA|MAD)_MIXLO_F16", "mixlo_f16"), (r"V_(FMA|MAD)_MIXHI_F16", "mixhi_f16"),
    (r"V_(MFMA|WMMA)_F32_(16X16X16|32X32X8)_(F16|BF16)|V_MFMA_F32_(16X16X4|32X32X2|4X4X1_16B)_F32|V_MFMA_F32_4X4X4_16B_(F16|BF16)",
     None),
]

# 16-bit results of gfx9 that leave the other half alone: those that have opsel (AMD GPU Usage; others clear it).
_PRESERVING = r"V_(FMA|MAD|DIV_FIXUP)_F16|V_MAD_[UI]16|V_(MAX3|MIN3|MED3)_[FUI]16|DS_|GLOBAL_|FLAT_|V_FMAC_F16"


def bare(name):
    return re.sub(r"_E(32|64)$", "", name)


def own_function(name):
    name = name.replace("V_DUAL_", "V_")
    for pattern, function in _OWN:
        if re.fullmatch(pattern, bare(name)):
            return "own_" + (function or bare(name)[2:].lower())
    return None


def own_types(name):
    """What check_types asks: a literal is the upper half of a double."""
    return [("f", 64)] * 2 if bare(name).endswith("_F64") else []


class Pseudocode:
    """Texts by name: an opcode of one encoding whose text is missing has that of another."""

    def __init__(self, table):
        self.texts = {}
        for op, text in table.items():
            self.texts.setdefault((type(op).__name__, op.name), text)
        self.by_name = {}
        for (_, name), text in self.texts.items():
            self.by_name.setdefault(bare(name), text)

    def text(self, kind, name):
        if kind == "VOPDOp":
            name = name.replace("V_DUAL_", "V_")
        text = self.texts.get((kind, name)) or self.by_name.get(bare(name))
        if text is None:
            raise Unknown("no pseudocode")
        return text.replace("signext(SIMM16.i16 * 16'4)", "signext(SIMM16.i16) * 4LL")


def source_types(text):
    """Kind and bits of S0, S1, S2 as the text first uses them, and the bits that it reads of each."""
    types, widths = [], []
    for i in range(3):
        found = re.findall(r"\bS%d(?:\[(\d+) : (\d+)\])?(?:\.(bf|[buif])(\d+))?" % i, text)
        kinds = [(k, int(b)) for _, _, k, b in found if k]
        types.append(kinds[0] if kinds else ("b", 32))
        tops = [int(h) + 1 for h, _, _, _ in found if h] + [b for (h, _, _, _), (_, b) in zip(found, kinds) if not h]
        widths.append(64 if max(tops + [0]) > 32 else 32)
    return types, widths


def _variables(t):
    return ["%s %s = 0;" % (c_type(*t.variables[name]), name) for name in sorted(t.variables)]


def _result_bits(text):
    tops = [int(h) + 1 for h in re.findall(r"\bD0(?:\.[a-z]+\d+)?\[(\d+) :", text)]
    tops += [int(b) for b in re.findall(r"\bD0\.(?:bf|[buif])(\d+)(?!\d|\[laneId)", text)]
    return 64 if max(tops + [0]) > 32 else 32


def scalar_function(symbol, text, kind, is_rdna):
    if kind == "SOPKOp" and not is_rdna:
        text = text.replace("S1", "SIMM16") if "S1" in text else text.replace("S0", "SIMM16")
    types, widths = source_types(text)
    bits = _result_bits(text)
    t = Translator(text, "scalar", widths, bits, is_rdna)
    t.program()
    lines = ["const uint%d_t S%d = read_s%s(w, in, in->src[%d]);" % (widths[i], i, "64" if widths[i] == 64 else "", i)
             for i in range(3) if "S%d" % i in t.used]
    has_result = bool(re.search(r"\bD0\b[^=!<>]*=(?!=)", text))
    if has_result:
        lines.append("uint%d_t D = read_s%s(w, in, in->dst);" % (bits, "64" if bits == 64 else ""))
    lines += _variables(t) + t.lines
    if has_result:
        lines.append("write_s%s(w, in, in->dst, D);" % ("64" if bits == 64 else ""))
    return _function(symbol, lines), types


def _function(symbol, lines):
    return "static void %s(Wave *w, const Inst *in)\n{\n    (void)in;\n    %s\n}\n" % (symbol, "\n    ".join(lines))


def scalar_memory_function(symbol, text, is_rdna):
    t = Translator(text, "scalar", [32] * 3, 32, is_rdna)
    t.program()
    lines = ["const uint64_t a = (read_s64(w, in, in->addr) + (uint64_t)(int64_t)in->offset +",
             "                    (in->saddr >= 0 ? read_s(w, in, in->saddr) : 0)) & ~3ull;"]
    return _function(symbol, lines + [s.replace("SPACE", "SPACE_GLOBAL") for s in _variables(t) + t.lines])


def memory_function(symbol, text, kind, is_rdna):
    space = {"DSOp": "SPACE_LDS", "FLATOp": "SPACE_FLAT", "GLOBALOp": "SPACE_GLOBAL", "SCRATCHOp": "SPACE_SCRATCH"}[kind]
    t = Translator(text, "lane", [32] * 3, 32, is_rdna)
    t.program()
    body = [s.replace("SPACE", space).replace("ADDRESS(a[l])", "(a[l] + (uint32_t)in->offset)" if kind == "DSOp"
                                              else "a[l]") for s in _variables(t) + t.lines]
    if re.search(r"\btmp\b", text) and "RETURN_DATA" in text:  # an atomic returns only where it is asked to
        body = ["if (in->sub) { %s }" % s if "w->v[in->dst" in s.split("=")[0] else s for s in body]
    lines = ["uint64_t a[LANES];", "addresses(w, in, %s, a);" % space,
             "for (int l = 0; l < LANES && !w->error[0]; l++) {", "    if (!IS_ACTIVE(l))", "        continue;"]
    return _function(symbol, lines + ["    " + s for s in body] + ["}"])


_SIGNS = {("f", 16): "SIGN_16", ("f", 32): "SIGN_32", ("f", 64): "SIGN_64"}


def _fetch(i, name, is_packed, kind_bits, width):
    if is_packed:
        return "fetch_packed%s(w, in, %d, %d, s%d);" % ("64" if width == 64 else "", i, kind_bits[0] == "f", i)
    sign = "SIGN_32" if "CNDMASK" in name else _SIGNS.get(kind_bits, "SIGN_NONE")
    if width == 64:
        return "fetch64(w, in, %d, %s, s%d);" % (i, sign, i)
    return "fetch32(w, in, %d, %s, %d, s%d);" % (i, sign, kind_bits[1] == 16, i)


def vector_function(symbol, text, kind, name, is_rdna):
    types, widths = source_types(text)
    bits = _result_bits(text)
    is_packed = kind == "VOP3POp"
    if is_packed and not re.match(r"V_(PK|DOT2)_", name):
        raise Unknown("a packed opcode of another kind")
    t = Translator(text, "lane", widths, bits, is_rdna)
    t.program()
    used = [i for i in range(3) if "S%d" % i in t.used]
    lines = ["uint%d_t s%d[LANES];" % (widths[i], i) for i in used]
    lines += [_fetch(i, name, is_packed, types[i], widths[i]) for i in used]
    masks = [m for m in ("mask_D0", "mask_VCC", "mask_EXEC") if m in t.used]
    lines += ["uint64_t %s = 0;" % m for m in masks]
    if "carry" in t.used:
        lines.append("const uint64_t carry = read_mask(w, in, in->src[2]);")
    if t.results:
        lines.append("uint%d_t d[LANES];" % bits)
    lines.append("LOOP {")
    if t.results:
        old = "w->v[in->dst - 256][l]"
        old += " | (uint64_t)w->v[in->dst - 255][l] << 32" if bits == 64 else ""
        lines.append("    uint%d_t D = in->dst >= 256 ? %s : 0;" % (bits, old) if _reads_result(t, text) else
                     "    uint%d_t D = 0;" % bits)
    lines += ["    " + s for s in _variables(t) + t.lines]
    if t.results:
        lines.append("    d[l] = D;")
    lines.append("}")
    if t.results:
        lines.append(_store(t, name, bits, is_rdna))
    lines += ["write_mask(w, in, in->sdst, %s & w->exec);" % m for m in masks if m != "mask_EXEC"]
    if "mask_EXEC" in masks:
        lines.append("w->exec &= mask_EXEC;")
    return _function(symbol, lines), types


def _reads_result(t, text):
    return "D0" in t.used or re.search(r"\bif\b", text)


def _store(t, name, bits, is_rdna):
    kinds = {k for k, _, _ in t.results}
    if all(b == 16 and low == 0 for _, b, low in t.results):
        clears = not is_rdna and not re.match(_PRESERVING, bare(name))
        return "store16(w, in, %d, %d, d);" % (kinds == {"f"}, clears)
    return "store%d(w, in, %d, d);" % (bits, bits if kinds == {"f"} else 0)


def make_function(symbol, kind, name, pseudocode, is_rdna):
    """(C text, types of sources)"""
    text = pseudocode.text(kind, name)
    tokens_of(text)
    if kind == "SMEMOp":
        return scalar_memory_function(symbol, text, is_rdna), []
    if kind.startswith("SOP"):
        return scalar_function(symbol, text, kind, is_rdna)
    if kind in ("DSOp", "FLATOp", "GLOBALOp", "SCRATCHOp"):
        return memory_function(symbol, text, kind, is_rdna), []
    if kind.startswith("VOP"):
        return vector_function(symbol, text, kind, name, is_rdna)
    raise Unknown("instructions of %s" % kind)
