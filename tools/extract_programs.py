#!/usr/bin/env python3
"""Writes the C programs of Markdown files, which are the blocks marked as c, into a directory.

usage: extract_programs.py DIRECTORY FILE.md …
"""

import re
import sys
from pathlib import Path

PROGRAM = re.compile(r"^```c\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    count = 0
    for name in sys.argv[2:]:
        source = Path(name)
        for number, program in enumerate(PROGRAM.findall(source.read_text()), 1):
            if "int main(" not in program:
                sys.exit(f"{name}: block {number} is marked as c and is no whole program")
            (directory / f"{source.stem}_{number}.c").write_text(program)
            count += 1
    if count == 0:
        sys.exit("no programs were found")


if __name__ == "__main__":
    main()
