"""The package's structs and numbers are the header's."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import blaze
import pytest
from blaze import _abi
from blaze._dtypes import NUMBERS
from conftest import ROOT

HEADER = (ROOT / "include" / "blaze.h").read_text()


def test_layouts(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler")
    lines = []
    for name, struct in _abi.STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for field, *_ in struct._fields_:
            lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));')
    source = tmp_path / "layout.c"
    source.write_text("#include <blaze.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    program = tmp_path / "layout"
    subprocess.run([compiler, "-std=c11", f"-I{ROOT / 'include'}", str(source), "-o", str(program)], check=True)
    printed = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    expected = []
    for name, struct in _abi.STRUCTS.items():
        expected.append(f"{name} {ctypes.sizeof(struct)}")
        for field, *_ in struct._fields_:
            descriptor = getattr(struct, field)
            expected.append(f"{name}.{field} {descriptor.offset} {descriptor.size}")
    assert printed.splitlines() == expected


def test_structs_have_all_of_the_headers_fields() -> None:
    for name, struct in _abi.STRUCTS.items():
        body = re.search(rf"typedef struct {name} {{(.*?)}} {name};", HEADER, re.S)
        assert body, name
        fields = re.findall(r"^    (?!/)[^(;]*?(\w+)(?:\[\d+\])?;", body[1], re.M)
        assert fields == [field for field, *_ in struct._fields_]


def test_functions_are_the_headers() -> None:
    in_header = {name: text for text, name in re.findall(r"\n((?:const )?\w+ \*?(blaze_\w+)\([^;]*?\));", HEADER)}
    ours = {name: arguments for name, (_, arguments) in _abi._SIGNATURES.items()}
    for name, arguments in ours.items():
        if name in in_header:
            declared = re.search(r"\((.*)\)", in_header[name], re.S)
            assert declared is not None
            count = 0 if declared[1].strip() == "void" else declared[1].count(",") + 1
            assert len(arguments) == count, name
        else:
            assert name in _abi._OPTIONAL, name
    # An allocator in Python would be called on every tensor, with the GIL, and a backend for every batch.
    assert set(in_header) - set(ours) == {"blaze_engine_create_with_allocator", "blaze_backend_register"}


def test_numbers() -> None:
    constants = {name: int(value, 0) for name, value in re.findall(r"#define (BLAZE_\w+) (-?\d+)\n", HEADER)}
    assert {f"BLAZE_STATUS_{status.name}": status.value for status in blaze.Status} == {
        name: value for name, value in constants.items() if name.startswith("BLAZE_STATUS_")
    }
    assert {f"BLAZE_DTYPE_{name.upper()}": number for name, number in NUMBERS.items()} == {
        name: value for name, value in constants.items() if name.startswith("BLAZE_DTYPE_")
    }
    assert constants["BLAZE_EVENT_DONE"] == _abi.DONE and constants["BLAZE_EVENT_PROGRESS"] == _abi.PROGRESS
    assert constants["BLAZE_EVENT_BUFFERS_RELEASED"] == _abi.BUFFERS_RELEASED
    assert constants["BLAZE_EVENT_FLAG_MORE"] == _abi.FLAG_MORE
    assert constants["BLAZE_ABI_VERSION"] >> 16 == _abi.ABI_VERSION >> 16
    assert constants["BLAZE_ABI_VERSION"] >= _abi.ABI_VERSION
