#!/usr/bin/env python3
"""Fetch the ONNX Runtime shared library pinned in onnxruntime.txt.

    python3 tools/fetch_onnxruntime.py [--machine MACHINE] [--package PACKAGE] DEST

leaves DEST/lib/libonnxruntime.so (and its versioned names), the licence and
the third-party notices. Does nothing when DEST already holds the pinned library.
MACHINE (aarch64, x86_64) is this one unless it is told, for cross-compiling.
PACKAGE is onnxruntime, or one with more execution providers: onnxruntime-openvino,
onnxruntime-gpu. Its pin is in PACKAGE.txt.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
# What is beside the library itself: what it opens by name, and what that needs.
PACKAGES = {
    "onnxruntime": [],
    "onnxruntime-openvino": [
        "libonnxruntime_providers_shared.so",
        "libonnxruntime_providers_openvino.so",
        "libopenvino.so.2541",
        "libopenvino_onnx_frontend.so.2541",
        "libopenvino_auto_plugin.so",
        "libopenvino_hetero_plugin.so",
        "libopenvino_intel_cpu_plugin.so",
        "libtbb.so.12",
    ],
    "onnxruntime-gpu": [
        "libonnxruntime_providers_shared.so",
        "libonnxruntime_providers_cuda.so",
        "libonnxruntime_providers_tensorrt.so",
    ],
}
STAMP = "fetched.txt"

# The tag in the wheel's name. pip is told it outright, together with a fixed
# CPython, so the same file comes whatever Python runs this script.
WHEEL_TAGS = {
    ("linux", "x86_64"): "manylinux_2_28_x86_64",
    ("linux", "aarch64"): "manylinux_2_28_aarch64",
    ("darwin", "arm64"): "macosx_14_0_arm64",
}


class Failure(Exception):
    """Something the caller can act on, said in one line."""


def pins(package):
    """The file with the pins of a package."""
    return TOOLS / (package + ".txt")


def pinned(package, system, machine):
    """The version and the wheel's SHA-256 for one platform."""
    pattern = (
        r'^%s==(\S+) ; sys_platform == "(\S+)" and platform_machine == "(\S+)" \\\n'
        r"\s+--hash=sha256:([0-9a-f]{64})$" % re.escape(package)
    )
    found = {key[1:3]: (key[0], key[3]) for key in re.findall(pattern, pins(package).read_text(), re.MULTILINE)}
    if (system, machine) not in found or (system, machine) not in WHEEL_TAGS:
        known = ", ".join("%s %s" % key for key in found)
        raise Failure("no %s is pinned for %s %s (only for %s)" % (package, system, machine, known))
    return found[system, machine]


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def library_names(system, version):
    """The real file's name first, then the names that link to it."""
    major = version.split(".")[0]
    if system == "darwin":
        return ["libonnxruntime.%s.dylib" % version, "libonnxruntime.%s.dylib" % major, "libonnxruntime.dylib"]
    return ["libonnxruntime.so.%s" % version, "libonnxruntime.so.%s" % major, "libonnxruntime.so"]


def stamp_text(package, version, wheel_hash, library):
    return "%s %s\nwheel sha256 %s\nlibrary sha256 %s\n" % (package, version, wheel_hash, sha256(library))


def complete(dest, package, version, wheel_hash, names):
    try:
        written = (dest / STAMP).read_text()
        return written == stamp_text(package, version, wheel_hash, dest / "lib" / names[0]) and all(
            (dest / "lib" / name).exists() for name in names + PACKAGES[package]
        )
    except OSError:
        return False


def download(folder, package, version, tag, wheel_hash):
    """The wheel, in folder, with the pinned hash."""
    command = [sys.executable, "-m", "pip"]
    if subprocess.run(command + ["--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        raise Failure("this needs pip for %s: install python3-pip, or run `python3 -m ensurepip`" % sys.executable)
    command += ["download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.12", "--abi", "cp312"]
    # Without the markers, which pip would hold against this machine.
    pin = folder / "pin.txt"
    pin.write_text("%s==%s --hash=sha256:%s\n" % (package, version, wheel_hash))
    command += ["--platform", tag, "--require-hashes", "-r", str(pin), "-d", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        reason = (errors or lines or ["no reason given"])[-1]
        raise Failure("pip could not download %s %s (can it reach its package index?): %s" % (package, version, reason))
    wheels = list(folder.glob("%s-%s-*.whl" % (package.replace("-", "_"), version)))
    if len(wheels) != 1 or sha256(wheels[0]) != wheel_hash:
        raise Failure("the downloaded wheel is not the one pinned in %s" % pins(package).name)
    return wheels[0]


def unpack(wheel, folder, package, names, version, wheel_hash):
    """Fill folder with what Blaze needs from the wheel; the stamp comes last."""
    library = folder / "lib" / names[0]
    wanted = {
        "onnxruntime/capi/" + names[0]: library,
        "onnxruntime/LICENSE": folder / "LICENSE",
        "onnxruntime/ThirdPartyNotices.txt": folder / "ThirdPartyNotices.txt",
    }
    for name in PACKAGES[package]:
        wanted["onnxruntime/capi/" + name] = library.with_name(name)
    library.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        for member, path in wanted.items():
            path.write_bytes(archive.read(member))
    library.chmod(0o755)
    for name in names[1:]:
        (library.parent / name).symlink_to(names[0])
    (folder / STAMP).write_text(stamp_text(package, version, wheel_hash, library))


def fetch(dest, package, machine):
    system = sys.platform
    version, wheel_hash = pinned(package, system, machine)
    names = library_names(system, version)
    if complete(dest, package, version, wheel_hash, names):
        return "%s %s is already in %s" % (package, version, dest)
    # Never replace a folder that this script did not make.
    if dest.exists() and not (dest / STAMP).exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise Failure("%s exists and was not made by this script: remove it or choose another place" % dest)

    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".onnxruntime-", dir=str(dest.parent)) as scratch:
        scratch = Path(scratch)
        wheel = download(scratch, package, version, WHEEL_TAGS[system, machine], wheel_hash)
        unpack(wheel, scratch / "new", package, names, version, wheel_hash)
        try:
            # Another run of this script may have put it there meanwhile: leave that be.
            if not complete(dest, package, version, wheel_hash, names):
                if dest.exists():
                    os.rename(dest, scratch / "old")
                os.rename(scratch / "new", dest)
        except OSError:
            if not complete(dest, package, version, wheel_hash, names):
                raise
    return "%s %s for %s %s is in %s" % (package, version, system, machine, dest)


def main():
    arguments = sys.argv[1:]
    options = {"--machine": platform.machine(), "--package": "onnxruntime"}
    while len(arguments) >= 2 and arguments[0] in options:
        options[arguments[0]], arguments = arguments[1], arguments[2:]
    if len(arguments) != 1 or arguments[0].startswith("-") or options["--package"] not in PACKAGES:
        packages = "|".join(PACKAGES)
        sys.exit("usage: fetch_onnxruntime.py [--machine MACHINE] [--package %s] DEST" % packages)
    try:
        print(fetch(Path(arguments[0]).resolve(), options["--package"], options["--machine"]))
    except (Failure, OSError, zipfile.BadZipFile, KeyError) as error:
        sys.exit("fetch_onnxruntime: %s" % error)


if __name__ == "__main__":
    main()
