# SPDX-License-Identifier: Apache-2.0
"""Expressions of AMD's pseudocode, read by descent, to values that are C."""
import re

from values import CALLS, Register, Unknown, Value, c_type, convert, of_raw, raw

_TOKEN = re.compile(r"""\s*(?:
    (?P<cast>\d+'[BUIF])|
    (?P<sized>\d+'(?:0x[0-9a-fA-F]+|\d+\.\d+|\d+)U?)|
    (?P<number>0x[0-9a-fA-F]+(?:ULL|LL|U)?|\d+\.\d+F?|\d+(?:ULL|LL|U|F)?)|
    (?P<name>[A-Za-z_][A-Za-z_0-9]*)|
    (?P<op>\*\*|<<|>>|<=|>=|<>|==|!=|&&|\|\||\+=|-=|\+:|[-+*/%&|^~!<>=?:;,.()\[\]{}])
)""", re.X)

_BINARY = [["||"], ["&&"], ["|"], ["^"], ["&"], ["==", "!=", "<>"], ["<", ">", "<=", ">="], ["<<", ">>"], ["+", "-"],
           ["*", "/", "%"], ["**"]]


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


class Expressions:
    """Needs next, peek, tokens, at; sources, result_bits, context, address; constants, variables, used."""

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
        if isinstance(v, Register):
            text = v.word(0) if bits <= 32 else "(%s | (uint64_t)%s << 32)" % (v.word(0), v.word(1))
            return of_raw(text, kind, bits, 32 if bits <= 32 else 64)
        if v.kind == kind and v.bits == bits:
            return v
        if isinstance(v.constant, float) and kind == "f":
            return Value(v.code, "f", bits)
        return of_raw(raw(v), kind, bits, v.bits)

    def slice(self, v, high, low):
        if isinstance(v, Register):
            if high // 32 == low // 32:
                return self.slice(Value(v.word(low // 32), "u", 32), high % 32, low % 32)
            if low % 32 or high - low != 63:
                raise Unknown("a slice of a register")
            return Value("(%s | (uint64_t)%s << 32)" % (v.word(low // 32), v.word(low // 32 + 1)), "u", 64)
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
        written = {"U": "u", "LL": "ull" if value >> 63 else "ll", "ULL": "ull", "": "ll" if value >> 31 else ""}[suffix]
        return Value("%d%s" % (value, written),
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
        if name in CALLS:
            code, kind, bits = CALLS[name]
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
        if text in ("UNDERFLOW_F32", "UNDERFLOW_F64"):  # to nearest: it is used below half of the least number
            return Value("0.0", "f", int(text[-2:]))
        if text in ("OVERFLOW_F32", "OVERFLOW_F64"):
            return Value("INFINITY", "f", int(text[-2:]))
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
