# SPDX-License-Identifier: Apache-2.0
"""AMD's pseudocode of an opcode as C statements for one lane, or for a scalar instruction.

What the pseudocode says and this cannot say in C raises Unknown.
"""
import re

from expressions import Expressions, tokens_of
from values import Unknown, c_type, convert, mask_of, raw


class Translator(Expressions):
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
                          (place, place, mask_of(bits), low % 32, part, low % 32))
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
        mask, wide = mask_of(bits), "uint64_t" if width > 32 else "uint32_t"
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
