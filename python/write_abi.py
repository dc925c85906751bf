#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes hattn/abi.py from api/hattn.h: python3 python/write_abi.py api/hattn.h > python/hattn/abi.py.

It reads the C that the header is written in, not C: what it does not know it refuses. tests/python/abi_test.py
runs it again and compares the layouts with the compiler's.
"""
import re
import sys

SCALARS = {"int": "c_int", "float": "c_float", "uint64_t": "c_uint64", "uint32_t": "c_uint32", "int32_t": "c_int32",
           "int64_t": "c_int64", "char": "c_char"}
HEAD = '''# SPDX-License-Identifier: Apache-2.0
"""The ABI of api/hattn.h for ctypes, which says what everything means. python/write_abi.py wrote this file."""
import ctypes as C
'''


def class_name(c_name):
    """hattn_device_options -> DeviceOptions."""
    return "".join(word.capitalize() for word in c_name.removeprefix("hattn_").split("_"))


class Header:
    def __init__(self, text):
        text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
        self.constants = [(name, int(value)) for name, value in
                          re.findall(r"^#define HATTN_(\w+) \(?(-?\d+)\)?$", text, re.M)]
        text = re.sub(r'^\s*#.*?[^\\]$|^extern "C" \{$', "", text, flags=re.M)
        self.enums = set(re.findall(r"typedef enum (\w+)", text))
        for body in re.findall(r"enum[^{;]*\{(.*?)\}", text, re.S):
            self._add_enum(body)
        self.structs = {}
        self.opaque = set(re.findall(r"typedef struct (\w+) \1;", text))
        for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", text, re.S):
            self.structs[name] = [field for line in body.split(";") if line.strip() for field in self._fields(line)]
        self.functions = [(name, self._type(returned), self._parameters(parameters)) for returned, name, parameters in
                          re.findall(r"HATTN_API\s+([^;(]*?)(hattn_\w+)\(([^;]*)\);", text)]

    def _add_enum(self, body):
        value = -1
        for item in filter(None, (item.strip() for item in body.split(","))):
            name, _, given = (word.strip() for word in item.partition("="))
            value = int(given) if given else value + 1
            self.constants.append((name.removeprefix("HATTN_"), value))

    def _type(self, text):
        """The ctypes expression of a C type without a name."""
        base, stars = re.sub(r"\bconst\b|\*", " ", text).split(), text.count("*")
        if len(base) != 1:
            raise SystemExit("write_abi.py: what type is %r?" % text)
        base = base[0]
        if base in self.opaque or base == "void" and stars:
            base, stars = "C.c_void_p", stars - 1
        elif base == "char" and stars:
            base, stars = "C.c_char_p", stars - 1
        elif base == "void":
            base = "None"
        elif base in self.enums:
            base = "C.c_int"
        elif base in self.structs:
            base = class_name(base)
        elif base in SCALARS:
            base = "C." + SCALARS[base]
        else:
            raise SystemExit("write_abi.py: what type is %r?" % text)
        return "C.POINTER(" * stars + base + ")" * stars

    def _fields(self, line):
        """(name, ctypes expression) of one declaration, which may have several declarators."""
        callback = re.fullmatch(r"\s*void \(\*(\w+)\)\(void \*\w+\)", line)
        if callback:
            return [(callback[1], "C.CFUNCTYPE(None, C.c_void_p)")]
        base, rest = re.fullmatch(r"\s*((?:const )?\w+)\s+(.*)", line.replace("\n", " ")).groups()
        fields = []
        for declarator in rest.split(","):
            stars, name, dimensions = re.fullmatch(r"\s*(\**)(\w+)((?:\[\d+\])*)\s*", declarator).groups()
            kind = self._type(base + stars)
            for size in reversed(re.findall(r"\d+", dimensions)):
                kind = "%s * %s" % ("(%s)" % kind if " * " in kind else kind, size)
            fields.append((name, kind))
        return fields

    def _parameters(self, text):
        return [] if text == "void" else [self._type(re.sub(r"\w+$", "", p.strip())) for p in text.split(",")]


def abi(header):
    """The text of hattn/abi.py."""
    lines = [HEAD]
    lines += ["%s = %d" % constant for constant in header.constants]
    for name, fields in header.structs.items():
        lines += ["", "", "class %s(C.Structure):" % class_name(name), '    """%s"""' % name, "", "    _fields_ = ["]
        lines += ['        ("%s", %s),' % field for field in fields] + ["    ]"]
    lines += ["", "", "# name: what it returns, its parameters", "FUNCTIONS = {"]
    for name, returned, parameters in header.functions:
        lines += ['    "%s": (' % name, "        %s," % returned, "        [%s]," % ", ".join(parameters), "    ),"]
    return "\n".join(lines + ["}"]) + "\n"


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        sys.stdout.write(abi(Header(file.read())))
