"""Finds libblaze, loads it once, and checks that its ABI is this package's."""

from __future__ import annotations

import ctypes.util
import os
import sys
import threading
from pathlib import Path

from ._abi import ABI_VERSION, Functions
from ._errors import LibraryError

_NAMES = {
    "darwin": ("libblaze.0.dylib", "libblaze.dylib"),
    "win32": ("blaze.dll",),
}.get(sys.platform, ("libblaze.so.0", "libblaze.so"))

_lock = threading.Lock()
_loaded: Functions | None = None


def _candidates(path: str | os.PathLike[str] | None) -> list[str]:
    """Where to look. What was named, by argument or environment, is the only place then: no surprises."""
    if path is not None:
        return [os.fspath(path)]
    if named := os.environ.get("BLAZE_LIBRARY"):
        return [named]
    beside = [str(Path(__file__).with_name(name)) for name in _NAMES]
    found = ctypes.util.find_library("blaze")
    return [place for place in beside if os.path.exists(place)] + list(_NAMES) + ([found] if found else [])


def _check(functions: Functions) -> None:
    version: int = functions.abi_version()
    if version >> 16 != ABI_VERSION >> 16 or version & 0xFFFF < ABI_VERSION & 0xFFFF:
        raise LibraryError(
            f"{functions.path} (Blaze {functions.version().decode()}) has ABI version {version >> 16}.{version & 0xFFFF}; "
            f"this package needs {ABI_VERSION >> 16}.{ABI_VERSION & 0xFFFF} or a later {ABI_VERSION >> 16}.x"
        )


def load_library(path: str | os.PathLike[str] | None = None) -> Functions:
    """Loads libblaze, the first time that it is called; engines call it by themselves.

    path: the library's file. None: the environment variable BLAZE_LIBRARY, beside this package, the system's loader.
    Raises LibraryError if it is not found, has another ABI version, or another file is in use already.
    """
    global _loaded
    with _lock:
        if _loaded is not None:
            if path is not None and not _same(_loaded.path, os.fspath(path)):
                raise LibraryError(f"{_loaded.path} is loaded already, so {os.fspath(path)} cannot be")
            return _loaded
        reasons = []
        for place in _candidates(path):
            try:
                functions = Functions(place)
            except (OSError, AttributeError) as error:
                reasons.append(f"  {place}: {error}")
                continue
            _check(functions)
            _loaded = functions
            return functions
        raise LibraryError(
            "libblaze was not found; set BLAZE_LIBRARY to its path, or install it. Looked for:\n" + "\n".join(reasons)
        )


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other
