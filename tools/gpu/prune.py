#!/usr/bin/env python3
"""Blanks the code for other GPUs in a shared library with CUDA code, so that it packs small: to be carried to one machine for a
test, never to be shipped.

    python3 prune.py FROM TO ARCHITECTURE        as in: prune.py in.so out.so 90

The library keeps its size and its layout. It holds "fat binaries", each with entries for several architectures, of which a GPU
loads one: the bytes of the others become zeros. A fat binary without an entry for this one is left alone.
"""

import struct
import sys

FAT_MAGIC, PTX, CUBIN = 0xBA55ED50, 1, 2


def section(data, wanted):
    """Where a section of a 64-bit ELF file is: its offset and size."""
    if data[:6] != b"\x7fELF\x02\x01":
        sys.exit("prune.py: this is no 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 40)
    entry_bytes, count, names_at = struct.unpack_from("<HHH", data, 58)
    entries = [struct.unpack_from("<IIQQQQ", data, table + at * entry_bytes) for at in range(count)]
    names = entries[names_at][4]
    for name, _, _, _, offset, size in entries:
        end = data.index(b"\0", names + name)
        if data[names + name : end] == wanted:
            return offset, size
    sys.exit("prune.py: the file has no section %s" % wanted.decode())


def prune(data, architecture):
    offset, size = section(data, b".nv_fatbin")
    at, end, kept, blanked = offset, offset + size, 0, 0
    while at + 16 <= end:
        magic, _, header, content = struct.unpack_from("<IHHQ", data, at)
        if magic != FAT_MAGIC:
            at += 8
            continue
        entries, place, stop = [], at + header, at + header + content
        while place + 64 <= stop:
            kind, _, entry_header, payload = struct.unpack_from("<HHIQ", data, place)
            (target,) = struct.unpack_from("<I", data, place + 28)
            if entry_header < 32 or place + entry_header + payload > stop:
                sys.exit("prune.py: an entry at %#x makes no sense" % place)
            entries.append((kind, target, place + entry_header, payload))
            place += entry_header + payload
        fits = any(kind == CUBIN and target == architecture for kind, target, _, _ in entries)
        for kind, target, start, length in entries:
            if fits and not (kind == CUBIN and target == architecture):
                data[start : start + length] = bytes(length)
                blanked += length
            else:
                kept += length
        at = (stop + 7) // 8 * 8
    return kept, blanked


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: prune.py FROM TO ARCHITECTURE")
    with open(sys.argv[1], "rb") as file:
        data = bytearray(file.read())
    kept, blanked = prune(data, int(sys.argv[3]))
    if not kept:
        sys.exit("prune.py: there is no code for architecture %s" % sys.argv[3])
    with open(sys.argv[2], "wb") as file:
        file.write(data)
    print("kept %d MiB of GPU code, blanked %d MiB" % (kept >> 20, blanked >> 20))


if __name__ == "__main__":
    main()
