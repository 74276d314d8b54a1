#!/usr/bin/env python3
"""Make the models that Blaze ships and tests with.

    python3 tools/make_models.py digits       models/digits, trained from scratch
    python3 tools/make_models.py tests        tests/models
    python3 tools/make_models.py mlps DEST    the benchmark's tiny, small and large
    python3 tools/make_models.py all          digits and tests

Needs the packages of tools/requirements-models.txt, installed or in
target/python. Where onnxruntime is there too, what was made is also run.
The bytes are the same every run, on any machine but for the weights of digits:
those are sums rounded as the processor's vector width has it, the same every
run on one kind of processor.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# One thread: sums must be added in the same order whatever the machine's size.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.insert(1, str(ROOT / "target" / "python"))

try:
    from models import digits, mlps, oddities
except ImportError as error:
    sys.exit(
        "make_models: %s\nFirst run: python3 -m pip install --target target/python"
        " --require-hashes -r tools/requirements-models.txt" % error
    )


def main():
    parser = argparse.ArgumentParser(description="Make the models that Blaze ships and tests with.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("digits", help="train and write models/digits")
    commands.add_parser("tests", help="write tests/models")
    commands.add_parser("mlps", help="write the benchmark's models").add_argument("dest", type=Path)
    commands.add_parser("all", help="digits and tests")
    arguments = parser.parse_args()

    if arguments.command in ("digits", "all"):
        digits.make(ROOT / "models" / "digits")
    if arguments.command in ("tests", "all"):
        oddities.make(ROOT / "tests" / "models")
    if arguments.command == "mlps":
        mlps.make(arguments.dest, mlps.LAYERS)


if __name__ == "__main__":
    main()
