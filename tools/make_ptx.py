#!/usr/bin/env python3
"""Make PTX of CUDA C++, or check PTX: no GPU is needed for either.

    python3 tools/make_ptx.py make PACKAGES SOURCE.cu OUT.ptx
    python3 tools/make_ptx.py check PACKAGES SOURCE.cu FILE.ptx

`make` compiles with NVRTC, `check` assembles with ptxas for every architecture that PTX of this version runs on, and
holds the file against the source that its first line names by hash. PACKAGES is where pip has put
nvidia-cuda-nvrtc or nvidia-cuda-nvcc.
"""

import ctypes
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# The oldest architecture that the code runs on, and those that it is assembled for as a check.
VIRTUAL = "compute_80"
REAL = ["sm_80", "sm_89", "sm_90", "sm_100", "sm_120"]


class Failure(Exception):
    """Something the caller can act on, said in one line."""


def stamp(source):
    return "// %s sha256 %s\n" % (source.name, hashlib.sha256(source.read_bytes()).hexdigest())


def nvrtc(packages):
    """The library, with its built-in headers, which it would not find by itself."""
    for name in ("libnvrtc-builtins.so.*", "libnvrtc.so.*"):
        found = sorted(path for path in packages.glob("nvidia/**/" + name) if ".alt." not in path.name)
        if not found:
            raise Failure("%s is not in %s" % (name, packages))
        library = ctypes.CDLL(str(found[0]), ctypes.RTLD_GLOBAL)
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def compiled(packages, source):
    library = nvrtc(packages)
    program = ctypes.c_void_p()

    def text(size, read):
        length = ctypes.c_size_t()
        getattr(library, size)(program, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(length.value)
        getattr(library, read)(program, buffer)
        return buffer.value.decode()

    def check(code):
        if code:
            log = text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog") if program else ""
            raise Failure("%s: %s\n%s" % (source, library.nvrtcGetErrorString(code).decode(), log))

    name = source.name.encode()
    check(library.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), name, 0, None, None))
    options = [b"--gpu-architecture=" + VIRTUAL.encode(), b"--std=c++17"]
    check(library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)))
    return text("nvrtcGetPTXSize", "nvrtcGetPTX")


def make(packages, source, ptx):
    ptx.write_text(stamp(source) + compiled(packages, source).strip() + "\n")


def check(packages, source, ptx):
    text = ptx.read_text()
    if not text.startswith(stamp(source)):
        raise Failure("%s is not made of %s as it is now: run `make ptx`" % (ptx, source))
    found = sorted(packages.glob("nvidia/**/bin/ptxas"))
    if not found:
        raise Failure("ptxas is not in %s" % packages)
    os.chmod(found[0], 0o755)
    kernels = re.findall(r"\.entry (\w+)\(", text)
    with tempfile.TemporaryDirectory() as folder:
        for architecture in REAL:
            command = [str(found[0]), "--warning-as-error", "-arch", architecture, str(ptx), "-o", folder + "/out.cubin"]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
            if done.returncode:
                raise Failure("%s for %s:\n%s" % (ptx, architecture, done.stdout.strip()))
    print("%s: %s: accepted by ptxas for %s" % (ptx, ", ".join(kernels), ", ".join(REAL)))


def main(arguments):
    try:
        what, packages, source, ptx = arguments
        {"make": make, "check": check}[what](Path(packages), Path(source), Path(ptx))
    except (KeyError, ValueError):
        sys.exit(__doc__)
    except Failure as failure:
        sys.exit("make_ptx: %s" % failure)


if __name__ == "__main__":
    main(sys.argv[1:])
