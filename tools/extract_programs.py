#!/usr/bin/env python3
"""Writes the programs of Markdown files, which are the blocks marked as a language, into a directory: NAME_1.c and so on, or,
since a program in Go is a package, NAME_1/main.go.

usage: extract_programs.py c|cpp|go|python DIRECTORY FILE.md …
"""

import re
import sys
from pathlib import Path

# How a file is named, and what a whole program has.
LANGUAGES = {
    "c": ("{}.c", "int main("),
    "cpp": ("{}.cpp", "int main("),
    "go": ("{}/main.go", "func main("),
    "python": ("{}.py", "import blaze"),
}


def main() -> None:
    language, directory = sys.argv[1], Path(sys.argv[2])
    form, whole = LANGUAGES[language]
    block = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    count = 0
    for name in sys.argv[3:]:
        source = Path(name)
        for number, program in enumerate(block.findall(source.read_text()), 1):
            if whole not in program:
                sys.exit(f"{name}: block {number} is marked as {language} and is no whole program")
            target = directory / form.format(f"{source.stem}_{number}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(program)
            count += 1
    if count == 0:
        sys.exit(f"no programs in {language} were found")


if __name__ == "__main__":
    main()
