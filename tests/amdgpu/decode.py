# SPDX-License-Identifier: Apache-2.0
"""Instructions as machine.h's Inst, by the decoder in the tinygrad wheel."""
import struct

from tinygrad.renderer.amd import decode_inst

from opcodes import bare
from values import Unknown

_VCC, _EXEC = 106, 126


class Inst:
    """Fields of Inst in machine.h, and the opcode's encoding and name."""
    FORMAT = struct.Struct("<II10hiII8B4B")

    def __init__(self, size, kind, name):
        self.size, self.kind, self.name = size, kind, name
        self.function, self.dst, self.sdst, self.src = 0, -1, -1, [-1, -1, -1]
        self.addr = self.saddr = self.data = self.data2 = -1
        self.offset = self.literal = self.modifier = 0
        self.neg = self.abs = self.opsel = self.opsel_hi = self.neg_hi = self.clamp = self.omod = self.variant = 0
        self.bits, self.is_rdna, self.sub = 32, 0, 0
        self.halves = None

    def pack(self):
        return self.FORMAT.pack(self.function, self.size, self.dst, self.sdst, *self.src, self.addr, self.saddr, self.data,
                                self.data2, 0, self.offset, self.literal, self.modifier, self.neg, self.abs, self.opsel,
                                self.opsel_hi, self.neg_hi, self.clamp, self.omod, self.variant, self.bits, self.is_rdna,
                                self.sub, 0)


def _signed(x, bits):
    return x - (1 << bits) if x >> (bits - 1) else x


def _register(x, name):
    field = getattr(x, name, None)
    return -1 if field is None else field.offset


def _first(x, *names):
    for name in names:
        found = _register(x, name)
        if found >= 0:
            return found
    return -1


def _scalar(inst, x):
    inst.dst = _register(x, "sdst")
    inst.src[0], inst.src[1] = _register(x, "ssrc0"), _register(x, "ssrc1")
    inst.offset = getattr(x, "simm16", 0)
    if inst.kind == "SOPKOp":
        inst.src[0] = inst.dst


def _scalar_memory(inst, x):
    inst.dst, inst.addr = _register(x, "sdata"), _register(x, "sbase")
    if inst.is_rdna:
        inst.offset = _signed(x.offset, 21)
        inst.saddr = -1 if x.soffset.offset == 124 else x.soffset.offset
    elif x.imm:
        inst.offset = _signed(x.offset, 21)
        inst.saddr = x.soffset.offset if x.soffset_en else -1
    else:
        inst.saddr = x.soffset.offset if x.soffset_en else x.offset & 127


def _memory(inst, x):
    accumulates = 256 * getattr(x, "acc", 0)
    inst.dst, inst.addr = x.vdst.offset + accumulates, x.addr.offset
    inst.sub = getattr(x, "sc0", getattr(x, "glc", 0)) or "_RTN" in inst.name or inst.kind == "DSOp"
    if inst.kind == "DSOp":
        if x.gds:
            raise Unknown("GDS")
        inst.data, inst.data2 = x.data0.offset + accumulates, x.data1.offset + accumulates
        inst.offset = x.offset0 | x.offset1 << 8
        inst.sub = int("_RTN" in inst.name)
        return
    inst.data = x.data.offset + accumulates
    inst.offset = x.offset if inst.kind == "FLATOp" else _signed(x.offset, 13)
    if inst.kind != "FLATOp" and x.saddr.offset != (124 if inst.is_rdna else 127):
        inst.saddr = x.saddr.offset
    if inst.kind == "SCRATCHOp" and not x.sve:
        inst.addr = -1


def _modifiers(inst, x, variant):
    inst.neg, inst.abs = getattr(x, "neg", 0), getattr(x, "abs", 0)
    inst.opsel, inst.neg_hi = getattr(x, "opsel", 0), getattr(x, "neg_hi", 0)
    inst.opsel_hi = getattr(x, "opsel_hi", 0) | getattr(x, "opsel_hi2", 0) << 2
    inst.clamp, inst.omod = getattr(x, "clmp", 0), getattr(x, "omod", 0)
    if "DPP8" in variant:
        raise Unknown("DPP8")
    if "DPP16" in variant:
        inst.variant = 1
        inst.modifier = x.dpp | x.bc << 9 | getattr(x, "fi", 0) << 10 | x.row_mask << 12 | x.bank_mask << 16
    if "SDWA" in variant:
        inst.variant = 2
        inst.modifier = (getattr(x, "dst_sel", 6) | getattr(x, "dst_unused", 0) << 3 | x.src0_sel << 5 |
                         x.src0_sext << 8 | x.src1_sel << 9 | x.src1_sext << 12)
    if inst.variant:
        inst.neg |= getattr(x, "src0_neg", 0) | getattr(x, "src1_neg", 0) << 1
        inst.abs |= getattr(x, "src0_abs", 0) | getattr(x, "src1_abs", 0) << 1


def _vector(inst, x):
    variant = type(x).__name__
    _modifiers(inst, x, variant)
    inst.dst = _register(x, "vdst")
    inst.src = [_first(x, "vsrc0", "src0") if inst.variant else _register(x, "src0"), _first(x, "src1", "vsrc1"),
                _register(x, "src2")]
    inst.sdst = _register(x, "sdst")
    if "SDWA" in variant:  # scalar registers where the bit says so
        inst.src[0] -= 256 if x.s0 else 0
        inst.src[1] -= 256 if inst.src[1] >= 0 and x.s1 else 0
    if inst.kind == "VOPCOp":
        inst.sdst = x.sdst.offset if getattr(x, "sd", 0) else _VCC
    elif variant.startswith("VOP3_SDST"):
        inst.sdst = inst.dst
        inst.dst = -1
    elif inst.kind in ("VOP1Op", "VOP2Op"):
        inst.sdst, inst.src[2] = _VCC, _VCC  # of carries
    if "SDST" in variant and inst.name.startswith("V_READ"):
        inst.dst = x.vdst.offset
    if inst.name.startswith(("V_READLANE", "V_READFIRSTLANE")) and inst.dst >= 256:
        inst.dst -= 256
    if variant.startswith("VOP3P_MFMA"):
        inst.src = [s + 256 * (bit if s >= 256 else 0)
                    for s, bit in zip(inst.src, (x.acc & 1, x.acc >> 1, x.acc_cd))]
        inst.dst += 256 * x.acc_cd
        inst.neg = inst.opsel = inst.opsel_hi = inst.neg_hi = inst.clamp = 0
        if x.blgp:
            raise Unknown("lanes of a matrix in another order")
        inst.sub, inst.offset = x.cbsz, x.abid
    if inst.name.startswith("V_ACCVGPR"):
        inst.neg = inst.opsel = inst.opsel_hi = inst.neg_hi = inst.clamp = 0
        inst.src[0] += 256 if inst.name.startswith(("V_ACCVGPR_READ", "V_ACCVGPR_MOV")) else 0
        inst.dst += 256 if inst.name.startswith(("V_ACCVGPR_WRITE", "V_ACCVGPR_MOV")) else 0


def _pair(inst, x):
    inst.halves = []
    for half, op in (("x", x.opx), ("y", x.opy)):
        part = Inst(0, "VOPDOp", op.name)
        part.is_rdna = 1
        part.dst = _register(x, "vdst" + half)
        part.src = [_register(x, "src%s0" % half), _register(x, "vsrc%s1" % half), _VCC]
        part.sdst = _VCC
        part.literal = getattr(x, "literal", 0)
        inst.halves.append(part)


def _decode_missing(data, is_rdna):
    """Cache controls of RDNA 3, whose encoding the wheel has no decoder for."""
    word = int.from_bytes(data[:4], "little")
    if is_rdna and word >> 26 == 0b111000 and word >> 18 & 255 in (0x2b, 0x2c):
        return Inst(8, "MUBUFOp", "BUFFER_GL%d_INV" % ((word >> 18 & 255) - 0x2b))
    return None


def decode(data, is_rdna):
    """The instruction that data starts with (data has 16 bytes at least)."""
    inst = _decode_missing(data, is_rdna)
    if inst:
        return inst
    try:
        x = decode_inst(data, "rdna3" if is_rdna else "cdna")
    except ValueError as error:
        raise Unknown(str(error)) from error
    if hasattr(x, "opx"):
        inst = Inst(x.size(), "VOPDOp", "PAIR")
        _pair(inst, x)
        return inst
    inst = Inst(x.size(), type(x.op).__name__, x.op.name)
    inst.is_rdna = int(is_rdna)
    inst.literal = getattr(x, "literal", 0)
    if inst.kind == "SMEMOp":
        _scalar_memory(inst, x)
    elif inst.kind.startswith("SOP"):
        _scalar(inst, x)
    elif inst.kind in ("DSOp", "FLATOp", "GLOBALOp", "SCRATCHOp"):
        _memory(inst, x)
    elif inst.kind.startswith("VOP"):
        _vector(inst, x)
    elif inst.kind != "MUBUFOp":
        raise Unknown("instructions of %s" % inst.kind)
    return inst


def check_types(inst, types):
    """What the function's sources are made of: how constants are written, and what is not known of 16 bits."""
    if not types:
        return
    if any(t == ("f", 64) for t in types):
        inst.bits = 64
    elif any(t == ("i", 64) for t in types):
        inst.bits = 63
    elif any(t[0] in ("f", "bf") and t[1] == 16 for t in types[:2]):
        inst.bits = 16
    halves = [t[1] == 16 for t in types]
    if inst.kind in ("VOP1Op", "VOP2Op", "VOPCOp"):
        if inst.is_rdna and any(h and s >= 384 for h, s in zip(halves, inst.src[:2])):
            raise Unknown("the upper half of a register")
    elif inst.kind == "VOP3Op" and inst.opsel & 7 and not bare(inst.name).startswith("V_PERMLANE"):
        if any(inst.opsel >> i & 1 and not h for i, h in enumerate(halves)):
            raise Unknown("opsel of 32 bits")
