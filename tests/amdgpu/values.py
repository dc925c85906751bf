# SPDX-License-Identifier: Apache-2.0
"""Values of AMD's pseudocode as C expressions. They have a kind and bits: u is unsigned, i signed, f and bf are floats."""


class Unknown(Exception):
    """What the pseudocode says and cannot be said in C: the opcode is an error where it is executed."""


class Value:
    def __init__(self, code, kind, bits, constant=None, is_literal=False):
        self.code, self.kind, self.bits, self.constant, self.is_literal = code, kind, bits, constant, is_literal


def c_type(kind, bits):
    if kind in ("f", "bf"):
        return "double" if bits == 64 else "float"
    if bits > 64:
        raise Unknown("%d bits" % bits)
    return ("int" if kind == "i" else "uint") + ("32_t" if bits <= 32 else "64_t")


def mask_of(bits):
    return "0x%xull" % ((1 << bits) - 1) if bits > 32 else "0x%xu" % ((1 << bits) - 1)


def raw(v):
    """The bits of a value, unsigned."""
    if v.kind == "f":
        return {16: "bits16(%s)", 32: "bits32(%s)", 64: "bits64(%s)"}[v.bits] % v.code
    if v.kind == "bf":
        return "(bits32(%s) >> 16)" % v.code
    if v.kind == "i":
        if v.bits in (32, 64):
            return "(uint%d_t)(%s)" % (v.bits, v.code)
        return "((uint%d_t)(%s) & %s)" % (32 if v.bits < 32 else 64, v.code, mask_of(v.bits))
    return v.code


def of_raw(code, kind, bits, source_bits):
    """The value of `bits` low bits of an unsigned C expression that has source_bits."""
    if kind == "f":
        if bits not in (16, 32, 64):
            raise Unknown("floats of %d bits" % bits)
        return Value({16: "f16_of(%s)", 32: "f32_of((uint32_t)(%s))", 64: "f64_of(%s)"}[bits] % code, "f", bits)
    if kind == "bf":
        if bits != 16:
            raise Unknown("bf%d" % bits)
        return Value("bf16_of((%s) & 0xffff)" % code, "bf", 16)
    if kind == "i":
        if bits == 64:
            wide = "(int64_t)(%s)" if source_bits >= 64 else "(int64_t)(uint64_t)(%s)"
            return Value("(" + wide % code + ")", "i", 64)
        if bits == 32:
            return Value("((int32_t)(%s))" % code, "i", 32)
        if bits in (8, 16):
            return Value("((int32_t)(int%d_t)(%s))" % (bits, code), "i", bits)
        if bits < 32:
            return Value("((int32_t)((uint32_t)(%s) << %d) >> %d)" % (code, 32 - bits, 32 - bits), "i", bits)
        raise Unknown("i%d" % bits)
    if bits > 64:
        raise Unknown("%d bits" % bits)
    if bits >= source_bits and (bits <= 32) == (source_bits <= 32):
        return Value(code, "u", bits)
    if bits == 64:
        return Value("((uint64_t)(%s))" % code, "u", 64)
    if bits == 32:
        return Value("((uint32_t)(%s))" % code, "u", 32)
    return Value("(%s(%s) & %s)" % ("(uint32_t)" if bits < 32 else "", code, mask_of(bits)), "u", bits)


def convert(v, kind, bits):
    """The same number in another type, as C converts it."""
    if kind == "f":
        if v.kind not in ("f", "bf"):
            if v.constant is None:
                raise Unknown("a cast of integers to floats")
            return of_raw("%s" % v.code, "f", bits, v.bits)
        if bits == 64:
            return Value("(double)(%s)" % v.code, "f", 64)
        if bits == 32:
            return Value("(float)(%s)" % v.code, "f", 32)
        return Value("f16_of(bits16(%s))" % v.code, "f", 16)
    if v.kind in ("f", "bf"):
        return of_raw(raw(v), kind, bits, v.bits)
    if v.kind == "i" and bits > v.bits:
        return of_raw("(uint%d_t)(int%d_t)(%s)" % (((64, 64) if bits > 32 else (32, 32)) + (v.code,)), kind, bits,
                      64 if bits > 32 else 32)
    return of_raw(raw(v), kind, bits, v.bits)


CALLS = {  # name: (C, kind, bits); arguments as they come
    "f16_to_f32": ("(%s)", "f", 32), "f32_to_f16": ("f16_of(bits16(%s))", "f", 16), "bf16_to_f32": ("(%s)", "f", 32),
    "u32_to_f32": ("(float)(%s)", "f", 32), "i32_to_f32": ("(float)(%s)", "f", 32),
    "f32_to_u32": ("to_u32(%s)", "u", 32), "f32_to_i32": ("to_i32(%s)", "i", 32),
    "f16_to_u16": ("to_u16(%s)", "u", 16), "f16_to_i16": ("to_i16(%s)", "i", 16),
    "u16_to_f16": ("f16_of(bits16(%s))", "f", 16), "i16_to_f16": ("f16_of(bits16(%s))", "f", 16),
    "f32_to_f64": ("(double)(%s)", "f", 64), "f64_to_f32": ("(float)(%s)", "f", 32),
    "u32_to_f64": ("(double)(%s)", "f", 64), "i32_to_f64": ("(double)(%s)", "f", 64),
    "f64_to_i32": ("to_i32(%s)", "i", 32), "f64_to_u32": ("to_u32(%s)", "u", 32),
    "u8_to_u32": ("(%s)", "u", 32), "u4_to_u32": ("(%s)", "u", 32), "i8_to_i32": ("(%s)", "i", 32),
    "v_max_f32": ("max_f32(%s, %s)", "f", 32), "v_min_f32": ("min_f32(%s, %s)", "f", 32),
    "v_max_f16": ("max_f32(%s, %s)", "f", 16), "v_min_f16": ("min_f32(%s, %s)", "f", 16),
    "v_max3_f32": ("max_f32(max_f32(%s, %s), %s)", "f", 32), "v_min3_f32": ("min_f32(min_f32(%s, %s), %s)", "f", 32),
}
for _k, _c, _t in (("i", "int", "i"), ("u", "uint", "u")):
    for _n, _o in (("max", ">"), ("min", "<")):
        for _b in (16, 32):
            _two = "({ %s32_t a_ = %%s, b_ = %%s; a_ %s b_ ? a_ : b_; })" % (_c, _o)
            _three = "({ %s32_t c_ = %s, d_ = %%s; c_ %s d_ ? c_ : d_; })" % (_c, _two, _o)
            CALLS["v_%s_%s%d" % (_n, _k, _b)] = _two, _t, _b
            CALLS["v_%s3_%s%d" % (_n, _k, _b)] = _three, _t, _b


class Register(Value):
    """Words of a vector register file from data or data2 on."""

    def __init__(self, field):
        super().__init__(None, "u", 128)
        self.field = field

    def word(self, i):
        return "w->v[in->%s - 256 + %d][l]" % (self.field, i)
