# SPDX-License-Identifier: Apache-2.0
"""The header of another version: abi_variant.py cut|append HEADER. Each struct that tells its size loses its last field, or gets one more."""
import re
import sys

GROWING = re.compile(r"(typedef struct (\w+) \{\s*uint32_t struct_size;)([^}]*)(\} \2;)")


def cut(struct):
    head, name, body, tail = struct.groups()
    fields = body.rstrip().rstrip(";").split(";")
    names = fields[-1].rsplit(",", 1)
    fields[-1:] = names[:1] if len(names) > 1 else []
    return head + ";".join(fields) + ";\n" + tail


def append(struct):
    head, name, body, tail = struct.groups()
    return head + body + "    int64_t appended[3];\n" + tail


def main():
    with open(sys.argv[2], encoding="utf-8") as header:
        text = re.sub(r"/\*.*?\*/", "", header.read(), flags=re.DOTALL)
    variant, number = GROWING.subn({"cut": cut, "append": append}[sys.argv[1]], text)
    if number < 12:
        sys.exit("only %d structs were found to change" % number)
    print(variant)


main()
