#!/usr/bin/env python3
"""Writes a C file that defines every function of a header, with empty bodies.

A shared library built from it with debugging information has exactly the types and signatures that the header
promises, in the C compiler's own view of them: something that abidiff can compare with another header's, which it could
not do with a library written in Rust.

usage: abi_witness.py HEADER > witness.c
"""

import re
import subprocess
import sys

FUNCTION = re.compile(r"^(?P<result>[A-Za-z_][\w\s*]*?[\s*])(?P<name>blaze_\w+)\s*\((?P<parameters>[^{}]*)\)$", re.DOTALL)


def main() -> None:
    header = sys.argv[1]
    text = subprocess.run(["cc", "-E", "-P", header], check=True, capture_output=True, text=True).stdout
    names = []
    print(f'#include "{header}"')
    for statement in strip_bodies(text).split(";"):
        found = FUNCTION.match(statement.strip())
        if not found or found["result"].split()[0] == "typedef":
            continue
        result, name = found["result"].strip(), found["name"]
        body = "" if result == "void" else "return 0;"
        parameters = re.sub(r"\s+", " ", found["parameters"])
        print(f'__attribute__((visibility("default"))) {result} {name}({parameters}) {{ {body} }}')
        names.append(name)
    if len(names) < 10:
        sys.exit(f"{header}: only {len(names)} functions were found")


def strip_bodies(text: str) -> str:
    """Without what is between braces, so that a semicolon ends a declaration."""
    depth, kept = 0, []
    for character in text:
        depth += character == "{"
        if depth == 0:
            kept.append(character)
        depth -= character == "}"
    return "".join(kept)


if __name__ == "__main__":
    main()
