#!/usr/bin/env python3
"""Holds a header against an older one: constants keep their values, functions and types stay what they were.

    python3 tools/check_abi.py OLDER_DIRECTORY HEADER WORK_DIRECTORY

Constants are compared by the C compiler. Functions and types are compared by abidiff (Debian: abigail-tools), if it is
installed, on libraries that abi_witness.py makes of both headers. What may change is in tests/abi/allowed.abignore, and for
one older header in its own accepted.abignore, with the reason.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
CONSTANT = re.compile(r"^#define (BLAZE_\w+) (-?\w+)$", re.MULTILINE)
# It says which version the header is of, and so may differ.
MOVING = {"BLAZE_ABI_VERSION"}


def main() -> None:
    older, newer, work = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    work.mkdir(parents=True, exist_ok=True)
    constants = check_constants(older / "blaze.h", newer, work)
    print(f"{older.name}: {constants} constants have kept their values")
    if not shutil.which("abidiff"):
        print(f"{older.name}: abidiff is not installed: functions and types are not compared")
        return
    libraries = [witness(header, work / f"{name}.so") for header, name in ((older / "blaze.h", older.name), (newer, "this"))]
    command = ["abidiff", "--no-added-syms", "--suppressions", str(TOOLS.parent / "tests/abi/allowed.abignore")]
    if (older / "accepted.abignore").exists():
        command += ["--suppressions", str(older / "accepted.abignore")]
    result = subprocess.run(command + libraries, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{older.name}: the ABI has changed\n{result.stdout}{result.stderr}")
    print(f"{older.name}: functions and types are what they were (abidiff)")


def check_constants(older: Path, newer: Path, work: Path) -> int:
    """Has the compiler compare every constant of the older header with the newer one's."""
    constants = {name: value for name, value in CONSTANT.findall(older.read_text()) if name not in MOVING}
    if len(constants) < 50:
        sys.exit(f"{older}: only {len(constants)} constants were found")
    source = work / "constants.c"
    lines = [f'_Static_assert({name} == {value}, "{name} was {value}");' for name, value in constants.items()]
    source.write_text("\n".join([f'#include "{newer.resolve()}"', *lines]))
    compiled = subprocess.run(["cc", "-std=c11", "-fsyntax-only", source], capture_output=True, text=True)
    if compiled.returncode != 0:
        sys.exit(f"{older.parent.name}: constants have changed\n{compiled.stderr}")
    return len(constants)


def witness(header: Path, library: Path) -> str:
    """A library with the types and functions of a header."""
    source = library.with_suffix(".c")
    made = subprocess.run([sys.executable, TOOLS / "abi_witness.py", header.resolve()], check=True, capture_output=True, text=True)
    source.write_text(made.stdout)
    subprocess.run(["cc", "-g", "-shared", "-fPIC", "-w", source, "-o", library], check=True)
    return str(library)


if __name__ == "__main__":
    main()
