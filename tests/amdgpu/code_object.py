# SPDX-License-Identifier: Apache-2.0
"""What an AMD code object (ELF) holds: its code, its kernels, and where their arguments lie."""
import struct


def _unpack(data, at):
    """A value of MessagePack at `at`, and where the next one is."""
    first = data[at]
    at += 1
    if first < 0x80:
        return first, at
    if first >= 0xe0:
        return first - 256, at
    if first < 0xa0 or first in (0xdc, 0xdd, 0xde, 0xdf):
        if first < 0xa0:
            count, is_map = first & 15, first < 0x90
        else:
            size = 2 if first in (0xdc, 0xde) else 4
            count, is_map = int.from_bytes(data[at:at + size], "big"), first >= 0xde
            at += size
        values = []
        for _ in range(count * (2 if is_map else 1)):
            value, at = _unpack(data, at)
            values.append(value)
        return (dict(zip(values[::2], values[1::2])) if is_map else values), at
    if first < 0xc0 or 0xd9 <= first <= 0xdb:
        size = 0 if first < 0xc0 else 1 << (first - 0xd9)
        length = first & 31 if first < 0xc0 else int.from_bytes(data[at:at + size], "big")
        at += size
        return data[at:at + length].decode(), at + length
    if first in (0xc0, 0xc2, 0xc3):
        return {0xc0: None, 0xc2: False, 0xc3: True}[first], at
    if 0xcc <= first <= 0xd3:
        size = 1 << ((first - 0xcc) & 3)
        return int.from_bytes(data[at:at + size], "big", signed=first >= 0xd0), at + size
    raise ValueError("MessagePack 0x%x" % first)


class CodeObject:
    def __init__(self, data):
        self.data = data
        if data[:5] != b"\x7fELF\x02" or struct.unpack_from("<H", data, 18)[0] != 224:
            raise ValueError("this is no code object of an AMD GPU")
        self.flags = struct.unpack_from("<I", data, 48)[0]
        table, = struct.unpack_from("<Q", data, 40)
        size, count = struct.unpack_from("<HH", data, 58)
        self.sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
        self.symbols = self._symbols()
        self.metadata = self._metadata()

    def _symbols(self):
        found = {}
        for section in self.sections:
            if section[1] not in (2, 11):  # of the linker, of the loader
                continue
            strings = self.sections[section[6]][4]
            for at in range(section[4], section[4] + section[5], 24):
                name, info, _, index, value, size = struct.unpack_from("<IBBHQQ", self.data, at)
                end = self.data.index(b"\0", strings + name)
                if index:
                    found[self.data[strings + name:end].decode()] = (info & 15, value, size)
        return found

    def _metadata(self):
        for section in self.sections:
            if section[1] == 7:
                name, size, kind = struct.unpack_from("<III", self.data, section[4])
                if kind == 32:
                    return _unpack(self.data, section[4] + 12 + (name + 3) // 4 * 4)[0]
        raise ValueError("the code object has no metadata")

    @property
    def architecture(self):
        return self.metadata["amdhsa.target"].split("--")[-1].split(":")[0]

    def code(self):
        """Address, bytes of the section with instructions."""
        for section in self.sections:
            if section[1] == 1 and section[2] & 4:
                return section[3], self.data[section[4]:section[4] + section[5]]
        raise ValueError("the code object has no code")

    def functions(self):
        """(address, size) of each function, ascending."""
        return sorted({(value, size) for kind, value, size in self.symbols.values() if kind == 2 and size})

    def bytes_at(self, address, size):
        for section in self.sections:
            if section[3] <= address < section[3] + section[5] and section[1] == 1 and section[3]:
                at = section[4] + address - section[3]
                return self.data[at:at + size]
        raise ValueError("nothing at 0x%x" % address)

    def kernels(self):
        """Of each: name, entry, descriptor words, metadata."""
        for kernel in self.metadata["amdhsa.kernels"]:
            address = self.symbols[kernel[".symbol"]][1]
            descriptor = self.bytes_at(address, 64)
            lds, scratch, arguments = struct.unpack_from("<III", descriptor, 0)
            entry, = struct.unpack_from("<q", descriptor, 16)
            _, rsrc1, rsrc2 = struct.unpack_from("<III", descriptor, 44)
            properties, preload = struct.unpack_from("<HH", descriptor, 56)
            if preload:
                raise ValueError("%s wants its arguments preloaded" % kernel[".name"])
            yield kernel, address + entry, lds, scratch, arguments, rsrc1, rsrc2, properties

    def relocations(self):
        """(address, addend) of each pointer that moves with the object."""
        for section in self.sections:
            if section[1] == 4:
                for at in range(section[4], section[4] + section[5], 24):
                    address, info, addend = struct.unpack_from("<QQq", self.data, at)
                    if info & 0xffffffff != 13:  # R_AMDGPU_RELATIVE64
                        raise ValueError("relocation %d is not known" % (info & 0xffffffff))
                    yield address, addend
