# SPDX-License-Identifier: Apache-2.0
"""AMD's pseudocode of an opcode as C statements for one lane, or for a scalar instruction.

Values have a kind and bits: u and b are unsigned, i signed, f and bf floats. What the pseudocode says and this cannot say in C
raises Unknown: the opcode is then an error where it is executed.
"""
import re

_TOKEN = re.compile(r"""\s*(?:
    (?P<cast>\d+'[BUIF])|
    (?P<sized>\d+'(?:0x[0-9a-fA-F]+|\d+\.\d+|\d+)U?)|
    (?P<number>0x[0-9a-fA-F]+(?:ULL|LL|U)?|\d+\.\d+F?|\d+(?:ULL|LL|U|F)?)|
    (?P<name>[A-Za-z_][A-Za-z_0-9]*)|
    (?P<op>\*\*|<<|>>|<=|>=|<>|==|!=|&&|\|\||\+=|-=|\+:|[-+*/%&|^~!<>=?:;,.()\[\]{}])
)""", re.X)

_BINARY = [["||"], ["&&"], ["|"], ["^"], ["&"], ["==", "!=", "<>"], ["<", ">", "<=", ">="], ["<<", ">>"], ["+", "-"],
           ["*", "/", "%"], ["**"]]


class Unknown(Exception):
    pass


def tokens_of(text):
    text = re.sub(r"//[^\n]*", "", text).strip()
    at, found = 0, []
    while at < len(text):
        m = _TOKEN.match(text, at)
        if not m:
            raise Unknown("text: %r" % text[at:at + 20])
        found.append((m.lastgroup, m.group(m.lastgroup)))
        at = m.end()
        while at < len(text) and text[at].isspace():
            at += 1
    return found


class Value:
    def __init__(self, code, kind, bits, constant=None, is_literal=False):
        self.code, self.kind, self.bits, self.constant, self.is_literal = code, kind, bits, constant, is_literal


def c_type(kind, bits):
    if kind in ("f", "bf"):
        return "double" if bits == 64 else "float"
    if bits > 64:
        raise Unknown("%d bits" % bits)
    return ("int" if kind == "i" else "uint") + ("32_t" if bits <= 32 else "64_t")


def _mask(bits):
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
        return "((uint%d_t)(%s) & %s)" % (32 if v.bits < 32 else 64, v.code, _mask(v.bits))
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
    return Value("(%s(%s) & %s)" % ("(uint32_t)" if bits < 32 else "", code, _mask(bits)), "u", bits)


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


_CALLS = {  # name: (C, kind, bits); arguments as they come
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
            _CALLS["v_%s_%s%d" % (_n, _k, _b)] = _two, _t, _b
            _CALLS["v_%s3_%s%d" % (_n, _k, _b)] = _three, _t, _b


class Translator:
    """context: "lane" or "scalar". sources: bits of S0, S1, S2. Statements are in .lines, variables in .variables."""

    def __init__(self, text, context, sources, result_bits, is_rdna):
        self.tokens, self.at = tokens_of(text), 0
        self.context, self.sources, self.result_bits, self.is_rdna = context, sources, result_bits, is_rdna
        self.lines, self.variables, self.constants = [], {}, {}
        self.used, self.results = set(), set()
        self.address = "a[l]" if context == "lane" else "a"
        if context == "lane" and "Calc" not in text and " + OFFSET" not in text:
            self.address = "ADDRESS(a[l])"  # with the offset of LDS instructions

    # ---- tokens ----
    def peek(self, ahead=0):
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else None

    def next(self, expected=None):
        if self.at >= len(self.tokens):
            raise Unknown("the end")
        kind, text = self.tokens[self.at]
        if expected and text != expected:
            raise Unknown("%r where %r was expected" % (text, expected))
        self.at += 1
        return kind, text

    def emit(self, line):
        self.lines.append(line)

    # ---- statements ----
    def program(self):
        while self.at < len(self.tokens):
            self.statement()

    def block(self, *ends):
        while self.peek() not in ends:
            self.statement()

    def statement(self):
        token = self.peek()
        if token == ";":
            self.next()
        elif token == "if":
            self.if_statement()
        elif token == "for":
            self.for_statement()
        elif token == "break":
            self.next()
            self.emit("break;")
        elif token == "declare":
            self.declaration()
        elif self.tokens[self.at][0] == "name":
            self.assignment()
        else:
            raise Unknown("a statement that starts with %r" % token)

    def if_statement(self):
        self.next("if")
        self.emit("if (%s) {" % self.expression().code)
        self.next("then")
        self.block("elsif", "else", "endif")
        while self.peek() == "elsif":
            self.next()
            self.emit("} else if (%s) {" % self.expression().code)
            self.next("then")
            self.block("elsif", "else", "endif")
        if self.peek() == "else":
            self.next()
            self.emit("} else {")
            self.block("endif")
        self.next("endif")
        self.emit("}")

    def for_statement(self):
        self.next("for")
        _, name = self.next()
        self.next("in")
        first, _ = self.expression(), self.next(":")
        last = self.expression()
        self.next("do")
        begin = self.at
        depth, end = 1, begin
        while depth:
            depth += {"for": 1, "endfor": -1}.get(self.tokens[end][1], 0)
            end += 1
        body = " ".join(t for _, t in self.tokens[begin:end - 1])
        if re.search(r"\[[^\]]*\b%s\b[^\]]*(:|\+:)" % name, body) and "break" not in body:
            for i in range(first.constant, last.constant + 1):
                self.at, self.constants[name] = begin, i
                self.block("endfor")
            del self.constants[name]
        else:
            self.variables[name] = ("i", 32)
            self.emit("for (%s = %s; %s <= %s; %s++) {" % (name, first.code, name, last.code, name))
            self.block("endfor")
            self.emit("}")
        self.next("endfor")

    def declaration(self):
        self.next("declare")
        _, name = self.next()
        self.next(":")
        kind, text = self.next()
        if kind == "sized" and self.peek() == "U":  # 1'U is a type, too
            self.next()
        if kind not in ("cast", "sized") or self.peek() == "[":
            raise Unknown("the declaration of %s" % name)
        bits, to = text.split("'")
        if int(bits) > 64:
            raise Unknown("%s bits" % bits)
        self.variables[name] = ({"B": "u", "U": "u", "I": "i", "F": "f"}[to], int(bits))

    def assignment(self):
        targets = [self.target()]
        operator = self.next()[1]
        if operator not in ("=", "+=", "-="):
            raise Unknown("%r after a target" % operator)
        while True:
            mark = self.at
            if operator == "=" and self.tokens[self.at][0] == "name" and self.peek() in ("D0", "VCC", "EXEC"):
                try:
                    target = self.target()
                    if self.peek() == "=":
                        self.next()
                        targets.append(target)
                        continue
                except Unknown:
                    pass
                self.at = mark
            break
        value = self.expression()
        for target in targets:
            self.assign(target, value if operator == "=" else self.arithmetic(operator[0], self.read(target), value))

    def target(self):
        """(name, parts): parts are ("type", kind, bits), ("slice", high, low), ("index", value)."""
        _, name = self.next()
        parts = []
        while self.peek() in (".", "["):
            if self.next()[1] == ".":
                parts.append(("type",) + self.type_name(self.next()[1]))
                continue
            first = self.expression()
            if self.peek() == ":":
                self.next()
                low = self.expression()
                if first.constant is None or low.constant is None:
                    raise Unknown("a result's place that is computed")
                parts.append(("slice", first.constant, low.constant))
            else:
                parts.append(("index", first))
            self.next("]")
        return name, parts

    @staticmethod
    def type_name(text):
        m = re.fullmatch(r"(bf|[buif])(\d+)", text)
        if not m:
            raise Unknown("type %s" % text)
        return "u" if m.group(1) == "b" else m.group(1), int(m.group(2))

    def read(self, target):
        name, parts = target
        value = self.name_value(name, parts[0][1] if name == "MEM" else None, parts)
        for part in parts[1:] if name == "MEM" else parts:
            if name == "MEM":
                continue
            value = self.apply(value, part)
        return value

    def apply(self, value, part):
        if part[0] == "type":
            return self.retype(value, part[1], part[2])
        if part[0] == "slice":
            return self.slice(value, part[1], part[2])
        return self.bit(value, part[1])

    # ---- results ----
    def assign(self, target, value):
        name, parts = target
        kinds = [p[0] for p in parts]
        if name == "MEM":
            kind, bits = parts[1][1:]
            self.emit("store(w, SPACE, l, %s, %d, %s);" % (parts[0][1].code, bits // 8, self.as_bits(value, kind, bits)))
        elif name in ("RETURN_DATA", "VDATA", "SDATA"):
            self.assign_register(name, parts, value)
        elif "index" in kinds and self.context == "lane" and name in ("D0", "VCC", "EXEC") and \
                parts[-1][1].code == "l":
            self.used.add("mask_" + name)
            self.emit("mask_%s |= (uint64_t)((%s) != 0) << l;" % (name, value.code))
        elif name == "SCC":
            self.emit("w->scc = (%s) != 0;" % value.code)
        elif name in ("EXEC", "EXEC_LO") and self.context == "scalar":
            bits = parts[0][2] if parts else 64
            keep = "" if bits == 64 and name == "EXEC" else "(w->exec & ~0xffffffffull) | "
            self.emit("w->exec = (%s(uint64_t)(%s)) & ALL_LANES;" % (keep, self.as_bits(value, "u", bits)))
        elif name == "PC" and self.context == "scalar":
            self.emit("w->next = (uint64_t)(%s);" % value.code)
        elif name in ("D0", "D1"):
            if name == "D1":
                raise Unknown("D1")
            self.assign_bits("D", self.result_bits, parts, value, True)
        elif re.fullmatch(r"[a-z][A-Za-z_0-9]*|MaskedValue|ThreadMask", name):
            self.assign_variable(name, parts, value)
        else:
            raise Unknown("a result in %s" % name)

    def as_bits(self, value, kind, bits):
        if value.kind in ("f", "bf") and kind in ("f", "bf") and (value.kind, value.bits) != (kind, bits):
            value = convert(value, kind, bits)
        elif value.kind in ("i", "u") and kind in ("i", "u"):
            value = convert(value, kind, bits)
        elif value.is_literal and kind == "f":
            raise Unknown("an integer as a float")
        text = raw(value)
        return text if value.bits >= bits or value.kind != "i" else raw(convert(value, "i", bits))

    def assign_register(self, name, parts, value):
        slices = [p for p in parts if p[0] == "slice"]
        types = [p for p in parts if p[0] == "type"]
        high, low = slices[0][1:] if slices else ((types[0][2] if types else value.bits) - 1, 0)
        bits = high - low + 1
        text = self.as_bits(value, types[-1][1] if types else "u", types[-1][2] if types else bits)
        scalar = name == "SDATA"
        for word in range(max(1, bits // 32)):
            at = low // 32 + word
            part = text if bits <= 32 else "(uint32_t)((uint64_t)(%s) >> %d)" % (text, 32 * word)
            if scalar:
                self.emit("write_s(w, in, in->dst + %d, %s);" % (at, part))
                continue
            place = "w->v[in->dst - 256 + %d][l]" % at
            if bits < 32:
                self.emit("%s = (%s & ~(%s << %d)) | (uint32_t)(%s) << %d;" %
                          (place, place, _mask(bits), low % 32, part, low % 32))
            else:
                self.emit("%s = %s;" % (place, part))

    def assign_bits(self, name, width, parts, value, is_result):
        """Into an unsigned C variable of `width` bits, or a part of it."""
        low, bits, kind, index = 0, None, "u", None
        for part in parts:
            if part[0] == "slice":
                if part[1] < part[2]:
                    raise Unknown("a slice upside down")
                low, bits = part[2], part[1] - part[2] + 1
            elif part[0] == "index":
                index = part[1]
            else:
                kind = part[1]
                bits = part[2] if bits is None else min(bits, part[2])
        bits = bits or width
        if is_result:
            self.results.add((kind, bits, low))
        if index is not None:
            self.used.add("D0")
            self.emit("%s = (%s & ~((uint64_t)1 << (%s))) | (uint64_t)((%s) & 1) << (%s);" %
                      (name, name, index.code, value.code, index.code))
            return
        text = self.as_bits(value, kind, bits)
        if low == 0 and bits >= width:
            self.emit("%s = %s;" % (name, text))
            return
        self.used.add("D0" if is_result else name)
        mask, wide = _mask(bits), "uint64_t" if width > 32 else "uint32_t"
        self.emit("%s = (%s & ~((%s)%s << %d)) | ((%s)(%s) & %s) << %d;" %
                  (name, name, wide, mask, low, wide, text, mask, low))

    def assign_variable(self, name, parts, value):
        if not parts:
            if name not in self.variables:
                kind = value.kind
                bits = 32 if value.bits < 32 and kind != "f" and kind != "bf" else value.bits
                if value.is_literal:
                    kind = "i" if kind == "i" else "u"
                self.variables[name] = (kind, bits)
            kind, bits = self.variables[name]
            if kind in ("f", "bf"):
                value = convert(value, kind, bits)
            elif value.kind in ("f", "bf"):
                raise Unknown("a float in an integer variable")
            else:
                value = convert(value, kind, bits)
            self.emit("%s = %s;" % (name, value.code))
            return
        if name not in self.variables:
            tops = [p[1] for p in parts if p[0] == "slice"] + [p[2] - 1 for p in parts if p[0] == "type"]
            text = " ".join(t for _, t in self.tokens)
            most = [int(x) for x in re.findall(r"\b%s \[ (\d+) :" % name, text)]
            self.variables[name] = ("u", 64 if max(tops + most + [0]) > 31 else 32)
        kind, bits = self.variables[name]
        if kind != "u":
            raise Unknown("a part of a variable that is signed")
        self.assign_bits(name, bits, parts, value, False)

    # ---- expressions ----
    def expression(self):
        condition = self.binary(0)
        if self.peek() != "?":
            return condition
        self.next()
        yes = self.expression()
        self.next(":")
        no = self.expression()
        yes, no = self.same(yes, no)
        return Value("((%s) ? %s : %s)" % (condition.code, yes.code, no.code), yes.kind, yes.bits)

    def binary(self, level):
        if level == len(_BINARY):
            return self.unary()
        left = self.binary(level + 1)
        while self.peek() in _BINARY[level] and self.tokens[self.at][0] == "op":
            operator = self.next()[1]
            left = self.arithmetic(operator, left, self.binary(level + 1))
        return left

    def same(self, a, b):
        """Both in one type."""
        if a.kind in ("f", "bf") or b.kind in ("f", "bf"):
            if a.kind not in ("f", "bf") or b.kind not in ("f", "bf"):
                raise Unknown("a float and an integer")
            bits = max((v.bits for v in (a, b) if not v.is_literal), default=32)
            kind = "f" if "f" in (a.kind, b.kind) else "bf"
            return tuple(v if v.bits == bits else Value("(%s)" % v.code if v.is_literal and bits < 64
                                                        else "(%s)(%s)" % (c_type(kind, bits), v.code), kind, bits)
                         for v in (a, b))
        if a.is_literal != b.is_literal:
            typed = b if a.is_literal else a
            bits, kind = max(typed.bits, 32 if typed.bits > 16 else typed.bits), typed.kind
            literal = a if a.is_literal else b
            if literal.constant is not None and literal.bits > bits:
                bits = literal.bits
        else:
            bits = max(a.bits, b.bits)
            kind = a.kind if a.kind == b.kind else "u" if a.bits == b.bits else (a if a.bits > b.bits else b).kind
        return convert(a, kind, bits), convert(b, kind, bits)

    def arithmetic(self, operator, a, b):
        if operator == "**":
            if a.constant != 2.0 and a.code not in ("2.0f", "2.0"):
                raise Unknown("a power")
            return Value("ldexp%s(1, %s)" % ("f" if a.bits == 32 else "", b.code), "f", a.bits)
        if operator in ("&&", "||"):
            return Value("((%s) %s (%s))" % (a.code, operator, b.code), "u", 1)
        if operator in ("<<", ">>"):
            bits = a.bits if not a.is_literal or a.bits > 32 else 32
            a = convert(a, a.kind, bits)
            code = "(%s)%s(%s, %s, %d)" % (c_type(a.kind, bits), "SHL" if operator == "<<" else "SHR", a.code, b.code, bits)
            constant = None
            if a.constant is not None and b.constant is not None:
                constant = a.constant << b.constant if operator == "<<" else a.constant >> b.constant
            return self.wrapped("(%s)" % code, a.kind, bits, constant)
        a, b, folded = *self.same(a, b), self.fold(operator, a, b)
        if operator in ("==", "!=", "<>", "<", ">", "<=", ">="):
            operator = "!=" if operator == "<>" else operator
            if operator == "!=" and a.kind in ("f", "bf"):
                pass
            return Value("((%s) %s (%s))" % (a.code, operator, b.code), "u", 1)
        if operator in ("/", "%") and a.kind not in ("f", "bf") and folded is None and b.constant is None:
            raise Unknown("a division of integers")
        code = "(%s %s %s)" % (a.code, operator, b.code)
        if a.kind == "f" and a.bits == 16:
            return Value("f16_of(bits16(%s))" % code, "f", 16)
        if a.kind == "bf":
            raise Unknown("bf16 arithmetic")
        if a.kind == "f":
            return Value(code, "f", a.bits)
        return self.wrapped(code, a.kind, a.bits, folded)

    @staticmethod
    def fold(operator, a, b):
        if not isinstance(a.constant, int) or not isinstance(b.constant, int):
            return None
        return {"+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y}.get(
            operator, lambda x, y: None)(a.constant, b.constant)

    @staticmethod
    def wrapped(code, kind, bits, constant=None):
        """Sums of less than 32 bits wrap, too."""
        if constant is not None:
            return Value("(%d)" % constant if constant >= 0 else "(%d)" % constant, kind, bits, constant)
        if bits in (32, 64):
            return Value(code, kind, bits)
        return of_raw("(uint%d_t)%s" % (32 if bits < 32 else 64, code), kind, bits, 32 if bits < 32 else 64)

    def unary(self):
        token = self.peek()
        if self.tokens[self.at][0] == "op" and token in ("-", "+", "~", "!"):
            self.next()
            v = self.unary()
            if token == "+":
                return v
            if token == "!":
                return Value("!(%s)" % v.code, "u", 1)
            constant = -v.constant if token == "-" and v.constant is not None else None
            code = "(%s%s)" % (token, v.code)
            if v.kind in ("f", "bf"):
                return Value(code, v.kind, v.bits, constant, v.is_literal)
            if v.is_literal:
                return Value(code, "i" if token == "-" else v.kind, v.bits, constant, True)
            return self.wrapped(code, v.kind, v.bits)
        return self.postfix(self.primary())

    def postfix(self, v):
        while self.peek() in (".", "["):
            if self.next()[1] == ".":
                v = self.retype(v, *self.type_name(self.next()[1]))
                continue
            first = self.expression()
            if self.peek() == ":":
                self.next()
                low = self.expression()
                if first.constant is None or low.constant is None:
                    raise Unknown("a slice that is computed")
                v = self.slice(v, first.constant, low.constant)
            elif self.peek() == "+:":
                raise Unknown("+:")
            else:
                v = self.bit(v, first)
            self.next("]")
        return v

    def retype(self, v, kind, bits):
        if v.kind == kind and v.bits == bits:
            return v
        if isinstance(v.constant, float) and kind == "f":
            return Value(v.code, "f", bits)
        return of_raw(raw(v), kind, bits, v.bits)

    def slice(self, v, high, low):
        if high < low:
            if (high, low) == (0, v.bits - 1) and v.bits in (32, 64):
                return Value("reverse%d(%s)" % (v.bits, raw(v)), "u", v.bits)
            raise Unknown("a slice upside down")
        if high >= max(v.bits, 32 if v.bits <= 32 else 64):
            raise Unknown("bits %d:%d of %d" % (high, low, v.bits))
        text = raw(v)
        return of_raw("(%s >> %d)" % (text, low) if low else text, "u", high - low + 1, v.bits)

    def bit(self, v, index):
        if v.code == "MASK":
            return v
        return Value("(%s >> (%s) & 1)" % (raw(v), index.code), "u", 1)

    def primary(self):
        kind, text = self.next()
        if kind == "number":
            return self.number(text)
        if kind == "sized":
            bits, digits = text.split("'")
            digits = digits.rstrip("U")
            if "." in digits:
                return Value(digits + "f", "f", int(bits), float(digits))
            value = int(digits, 0)
            return Value("%d%s" % (value, "u" if int(bits) <= 32 else "ull"), "u", int(bits), value)
        if kind == "cast":
            self.next("(")
            v = self.expression()
            self.next(")")
            bits, to = text.split("'")
            return convert(v, {"B": "u", "U": "u", "I": "i", "F": "f"}[to], int(bits))
        if text == "(":
            v = self.expression()
            self.next(")")
            return Value("(%s)" % v.code, v.kind, v.bits, v.constant, v.is_literal)
        if text == "{":
            return self.concatenation()
        if kind == "name":
            return self.call(text) if self.peek() == "(" else self.name(text)
        raise Unknown("%r in an expression" % text)

    @staticmethod
    def number(text):
        if re.fullmatch(r"\d+\.\d+F?|\d+F", text):
            digits = text.rstrip("F")
            return Value(digits + ("f" if text.endswith("F") else ""), "f", 32 if text.endswith("F") else 64,
                         float(digits), not text.endswith("F"))
        digits = text.rstrip("UL")
        value = int(digits, 0)
        suffix = text[len(digits):]
        bits = 64 if "LL" in suffix or value >> 32 else 32
        return Value("%d%s" % (value, {"U": "u", "LL": "ll", "ULL": "ull", "": "ll" if value >> 31 else ""}[suffix]),
                     "u" if "U" in suffix or text.startswith("0x") else "i", bits, value, not suffix)

    def concatenation(self):
        values = [self.expression()]
        while self.peek() == ",":
            self.next()
            values.append(self.expression())
        self.next("}")
        bits, code = 0, []
        for v in reversed(values):
            code.append("(uint64_t)(%s) << %d" % (raw(v), bits) if bits else "(uint64_t)(%s)" % raw(v))
            bits += v.bits
        if bits > 64:
            raise Unknown("%d bits side by side" % bits)
        return Value("(%s)" % " | ".join(code), "u", bits)

    def call(self, name):
        self.next("(")
        arguments = []
        while self.peek() != ")":
            arguments.append(self.expression())
            if self.peek() == ",":
                self.next()
        self.next(")")
        codes = [v.code for v in arguments]
        first = arguments[0] if arguments else None
        if re.fullmatch(r"Calc\w+Addr", name):
            self.used.add("address")
            if name == "CalcDsAddr" and arguments[1].constant is None:
                return Value("(a[l] + (uint32_t)in->offset)", "u", 64)
            return Value("a[l]" if self.context == "lane" else "a", "u", 64)
        if name in _CALLS:
            code, kind, bits = _CALLS[name]
            return Value(code % tuple(codes), kind, bits)
        if name == "fma":
            if first.bits == 16:
                return Value("f16_of(bits16(fma(%s)))" % ", ".join(codes), "f", 16)
            return Value("fma%s(%s)" % ("f" if first.bits == 32 else "", ", ".join(codes)), "f", first.bits)
        if name in ("floor", "trunc", "sqrt", "log2", "pow", "ldexp", "ceil") and first.bits in (32, 64):
            if name == "pow":
                return Value("exp2%s(%s)" % ("f" if arguments[1].bits == 32 else "", codes[1]), "f", arguments[1].bits)
            return Value("%s%s(%s)" % (name, "f" if first.bits == 32 else "", ", ".join(codes)), "f", first.bits)
        if name == "abs" and first.kind == "f":
            return Value("fabs%s(%s)" % ("" if first.bits == 64 else "f", codes[0]), "f", first.bits)
        if name == "sign":
            return Value("(signbit(%s) != 0)" % codes[0], "u", 1)
        if name == "exponent" and first.kind == "f":
            return Value("exponent%d(%s)" % (first.bits, codes[0]), "i", 32)
        if name == "isNAN":
            return Value("((%s) != (%s))" % (codes[0], codes[0]), "u", 1)
        if name in ("isSignalNAN", "isQuietNAN"):
            m = re.fullmatch(r"\(double\)\((.*)\)", codes[0])
            if not m or "f32_of" not in m.group(1):
                raise Unknown(name)
            test = "is_signal_nan32(bits32(%s))" % m.group(1)
            if name == "isQuietNAN":
                test = "((%s) != (%s) && !%s)" % (m.group(1), m.group(1), test)
            return Value(test, "u", 1)
        if name == "cvtToQuietNAN":
            return Value("(%s)" % codes[0], "f", first.bits)
        if name == "signext":
            return convert(first, "i", 64)
        if name == "signext_from_bit":
            v = of_raw("(uint32_t)(%s)" % raw(first), "u", 32, 32)
            return Value("({ uint32_t n_ = %s; n_ ? (int32_t)((%s) << (32 - n_)) >> (32 - n_) : 0; })" %
                         (codes[1], v.code), "i", 32)
        raise Unknown("the function %s" % name)

    def name(self, text):
        if text in self.constants:
            return Value("%d" % self.constants[text], "i", 32, self.constants[text], True)
        if text in self.variables:
            return Value(text, *self.variables[text])
        if text == "MEM":
            self.next("[")
            address = self.expression()
            self.next("]")
            self.next(".")
            kind, bits = self.type_name(self.next()[1])
            return self.memory(address, kind, bits)
        return self.name_value(text)

    def memory(self, address, kind, bits):
        lane = "l" if self.context == "lane" else "0"
        return of_raw("load(w, SPACE, %s, %s, %d)" % (lane, address.code, bits // 8), kind, bits, 64)

    def name_value(self, text, address=None, parts=()):
        if text == "MEM":
            return self.memory(address, *parts[1][1:])
        if text in self.variables:
            return Value(text, *self.variables[text])
        lane = self.context == "lane"
        if text in ("S0", "S1", "S2"):
            self.used.add(text)
            i = int(text[1])
            return Value("s%d[l]" % i if lane else text, "u", self.sources[i])
        if text == "D0":
            self.used.add("D0")
            return Value("D", "u", self.result_bits)
        if text == "SCC":
            return Value("w->scc", "u", 64)
        if text == "laneId":
            return Value("l", "i", 32)
        if text == "VCC" and lane:
            self.used.add("carry")
            return Value("carry", "u", 64)
        if text in ("EXEC", "EXEC_LO") and not lane:
            return Value("w->exec" if text == "EXEC" else "(uint32_t)w->exec", "u", 64 if text == "EXEC" else 32)
        if text in ("VCCZ", "EXECZ"):
            return Value("!read_mask(w, in, %s)" % text[:-1], "u", 1)
        if text == "PC":
            return Value("(int64_t)w->pc", "i", 64)
        if text == "SIMM16":
            return Value("((uint32_t)in->offset & 0xffff)", "u", 16)
        if text == "SIMM32":
            return Value("in->literal", "u", 32)
        if text == "INF":
            return Value("INFINITY", "f", 64, float("inf"), True)
        if text == "UNDERFLOW_F32":  # to nearest: it is used below half of the least number
            return Value("0.0f", "f", 32)
        if text == "OVERFLOW_F32":
            return Value("INFINITY", "f", 32)
        if text in ("OFFSET", "OFFSET0", "OFFSET1"):
            return Value({"OFFSET": "((uint32_t)in->offset & 0xffff)", "OFFSET0": "((uint32_t)in->offset & 255)",
                          "OFFSET1": "((uint32_t)in->offset >> 8 & 255)"}[text], "u", 32)
        if text in ("SBASE", "SOFFSET", "SADDR"):
            return Value("0", "u", 32, 0)
        if text == "ADDR":
            self.used.add("address")
            return Value(self.address, "u", 64)
        if text in ("DATA", "VDATA", "DATA2", "DATA0") and lane:
            return Register("data2" if text == "DATA2" else "data")
        raise Unknown("the name %s" % text)


class Register(Value):
    """Words of a vector register file from data or data2 on."""

    def __init__(self, field):
        super().__init__(None, "u", 128)
        self.field = field

    def word(self, i):
        return "w->v[in->%s - 256 + %d][l]" % (self.field, i)


_retype, _slice = Translator.retype, Translator.slice


def _register_retype(self, v, kind, bits):
    if isinstance(v, Register):
        text = v.word(0) if bits <= 32 else "(%s | (uint64_t)%s << 32)" % (v.word(0), v.word(1))
        return of_raw(text, kind, bits, 32 if bits <= 32 else 64)
    return _retype(self, v, kind, bits)


def _register_slice(self, v, high, low):
    if isinstance(v, Register):
        if high // 32 != low // 32:
            if low % 32 or high - low != 63:
                raise Unknown("a slice of a register")
            return Value("(%s | (uint64_t)%s << 32)" % (v.word(low // 32), v.word(low // 32 + 1)), "u", 64)
        return _slice(self, Value(v.word(low // 32), "u", 32), high % 32, low % 32)
    return _slice(self, v, high, low)


Translator.retype, Translator.slice = _register_retype, _register_slice
