#!/usr/bin/env python3
"""Runs everything of Blaze that needs a GPU, from a folder made by pack.sh, and prints one table.

    python3 run.py [--driver FILE] [--full | --quick] [--only cuda|onnx] [--budget SECONDS] [--out FOLDER]

Needs Python 3.8 or later and nothing else; for ONNX models on CUDA and TensorRT also NVIDIA's libraries (CUDA 13, cuDNN 9),
which are looked for in /usr/local/cuda and among this Python's packages. Whatever cannot be run is listed with the reason.
Without a GPU the driver is the fake one: that shows that the script works, and says nothing about results or speed.
Where ONNX Runtime's CUDA build was packed too, its pieces lie in folders beside this one, or were kept by
`python3 run.py --keep` of the folders before, one at a time.
What is measured is in FOLDER row by row; what SECONDS are too short for is listed as skipped.
Ends with 1 if an answer is wrong or something fails, otherwise with 0.
"""

import argparse
import ctypes
import glob
import hashlib
import io
import json
import lzma
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = Path(os.environ.get("BLAZE_GPU_KEPT", str(Path.home() / ".blaze-gpu")))
sys.path.insert(0, str(HERE))
import models  # noqa: E402

# The largest error of float32 arithmetic, relative to the largest answer; with TF32's ten bits.
CLOSE, CLOSE_TF32 = 2e-5, 5e-3


# A row is not begun with less than this left, in seconds; loads take no more than this, nor than this share of what is left.
LEAST_SECONDS, LOADS_SECONDS, LOADS_SHARE = 5, 120, 0.3


class Report:
    """What was found. With a folder it is written there whenever there is more of it: nobody knows when the machine is taken away."""

    def __init__(self, folder=None):
        self.rows, self.skipped, self.failed, self.facts = [], [], [], {}
        self.folder, self.began, self.title = folder and Path(folder), time.time(), "Blaze on a GPU"
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)

    def save(self):
        self.facts["took"] = "%.0f s" % (time.time() - self.began)
        if self.folder:
            (self.folder / "gpu.md").write_text(self.text())
            whole = {"facts": self.facts, "rows": self.rows, "skipped": [(what, str(why)) for what, why in self.skipped],
                     "failed": [(what, str(why)) for what, why in self.failed]}
            (self.folder / "gpu.json").write_text(json.dumps(whole, indent=1) + "\n")

    def add(self, what, where, value, baseline="", ratio="", label=""):
        self.rows.append([what, where, value, baseline, ratio, label])
        print("  %s | %s | %s %s %s" % (what, where, value, baseline, ratio), file=sys.stderr, flush=True)
        self.save()

    def skip(self, what, why):
        self.skipped.append((what, why))
        print("  skipped: %s: %s" % (what, why), file=sys.stderr, flush=True)
        self.save()

    def fail(self, what, why):
        self.failed.append((what, why))
        print("  FAILED: %s: %s" % (what, why), file=sys.stderr, flush=True)
        self.save()

    def text(self):
        head = ["measured", "where", "Blaze", "without Blaze", "Blaze / without", ""]
        rows = [head] + self.rows
        widths = [max(len(str(row[at])) for row in rows) for at in range(len(head))]
        line = lambda row: "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths)) + " |"
        out = ["# " + self.title, ""] + ["%s: %s" % fact for fact in self.facts.items()] + [""]
        out += [line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|"] + [line(row) for row in self.rows]
        for name, entries in (("Skipped", self.skipped), ("FAILED", self.failed)):
            if entries:
                out += ["", name + ":"] + ["- %s: %s" % entry for entry in entries]
        return "\n".join(out) + "\n"


class Failure(Exception):
    pass


class OutOfTime(Exception):
    pass


class Bench:
    def __init__(self, arguments, report, work):
        self.arguments, self.report, self.work = arguments, report, work
        self.environment = dict(os.environ)
        self.until = report.began + arguments.budget

    def left(self):
        return self.until - time.time()

    def program(self, name, *options, timeout=300):
        """The results of one of the programs, by name."""
        command, left = [str(HERE / "bin" / name)] + [str(option) for option in options], self.left()
        if left < LEAST_SECONDS:
            raise OutOfTime("no time was left (--budget)")
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                                  env=self.environment, cwd=str(HERE), timeout=min(timeout, left))
        except subprocess.TimeoutExpired:
            if left < timeout:
                raise OutOfTime("%s %s did not end within the %.0f s that were left (--budget)" % (name, options[0], left))
            raise Failure("%s %s did not end within %d s" % (name, options[0], timeout))
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise Failure("%s %s ended with %d: %s" % (name, options[0], done.returncode, said[-1] if said else "(no words)"))
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        found = {line["name"]: line.get("value", line.get("text")) for line in lines}
        for key, value in found.items():
            if value is None or isinstance(value, float) and not math.isfinite(value):
                raise Failure("%s %s: %s is no number" % (name, options[0], key))
        return found

    def try_(self, what, work):
        """Does a part of it. Whatever becomes of that, the others are done too."""
        try:
            return work()
        except OutOfTime as why:
            self.report.skip(what, why)
        except Failure as failure:
            self.report.fail(what, failure)
        except Exception as error:
            self.report.fail(what, "%s: %s" % (type(error).__name__, error))
        return None


def short(value, unit=""):
    if value is None:
        return ""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return "%.3g %s%s" % (value / size, prefix, unit)
    return "%.3g %s" % (value, unit)


def microseconds(ns):
    return "%.1f us" % (ns / 1e3)


def added(ns):
    return "%+.1f us" % (ns / 1e3)


# ---- ONNX Runtime's pieces ----------------------------------------------------------------------------------------------


def sha256(path):
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def pieces():
    """ONNX Runtime's pieces at hand: by number, and how many there should be."""
    found, total = {}, 0
    for folder in [HERE] + sorted(HERE.parent.iterdir()) + [KEPT]:
        for path in folder.glob("onnxruntime.*of*.piece") if folder.is_dir() else []:
            number, total = map(int, re.search(r"onnxruntime\.(\d+)of(\d+)\.piece$", path.name).groups())
            found.setdefault(number, path)
    return found, total


def keep():
    KEPT.mkdir(parents=True, exist_ok=True)
    for path in HERE.glob("onnxruntime.*of*.piece"):
        want = (path.parent / (path.name + ".sha256")).read_text().split()[0]
        if sha256(path) != want:
            raise Failure("%s is damaged" % path.name)
        shutil.copy(str(path), str(KEPT / (path.name + ".part")))
        os.replace(str(KEPT / (path.name + ".part")), str(KEPT / path.name))
    found, total = pieces()
    print("%d of %d pieces of ONNX Runtime are kept in %s" % (len(found), total, KEPT))


class Joined(io.RawIOBase):
    def __init__(self, paths):
        self.files = [open(str(path), "rb") for path in paths]

    def readable(self):
        return True

    def readinto(self, into):
        while self.files:
            count = self.files[0].readinto(into)
            if count:
                return count
            self.files.pop(0).close()
        return 0


def unpack(work):
    """The folder with ONNX Runtime's CUDA build; or why there is none."""
    found, total = pieces()
    if not found:
        return None, "ONNX Runtime's CUDA build was not packed"
    if len(found) < total:
        return None, "only %d of %d pieces of ONNX Runtime's CUDA build are here" % (len(found), total)
    folder = work / "onnxruntime-gpu"
    with tarfile.open(fileobj=lzma.open(io.BufferedReader(Joined([found[at] for at in sorted(found)]), 1 << 20)), mode="r|") as tar:
        for member in tar:
            if not member.isfile() or "/" in member.name.lstrip("./"):
                continue
            folder.mkdir(exist_ok=True)
            with open(str(folder / os.path.basename(member.name)), "wb") as out:
                shutil.copyfileobj(tar.extractfile(member), out, 1 << 20)
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        want, name = line.split()
        if sha256(folder / os.path.basename(name)) != want:
            return None, "%s is damaged" % name
    return folder, ""


def nvidia_folders():
    """Where this machine has the libraries that ONNX Runtime's CUDA build needs."""
    wanted = re.compile(r"lib(cudart|cublas|cublasLt|curand|cufft|cudnn|nvrtc|nvJitLink|nvinfer)[^/]*\.so")
    folders = []
    for packages in [path for path in sys.path if path.endswith("-packages")]:
        for path in glob.glob(packages + "/nvidia/**/lib*.so*", recursive=True) + glob.glob(packages + "/tensorrt_libs/lib*.so*"):
            if wanted.match(os.path.basename(path)):
                folders.append(os.path.dirname(path))
    folders += glob.glob("/usr/local/cuda/lib64")
    return list(dict.fromkeys(folders))


# ---- models of CUDA kernels ------------------------------------------------------------------------------------------------


def cuda_plugin(bench, driver, label):
    """Measures all but the loss of a device, which is returned: it comes last."""
    report, work, quick = bench.report, bench.work, bench.arguments.quick
    where = "CUDA kernels"
    plugin = {"path": str(HERE / "lib" / "libblaze_cuda.so"), "required": True, "config": {"driver": driver}}
    engine = json.dumps({"plugins": [plugin]})
    ptx = str(HERE / "cuda" / "kernels.ptx")
    shutil.copy(ptx, str(work / "kernels.ptx"))
    seconds = 1 if quick else 3

    def model(name, lanes=2, rows=64, **more):
        config = {"name": name, "backend": "cuda", "path": str(work / (name + ".json")), "lanes": lanes}
        config["batching"] = dict({"max_rows": rows}, **more)
        return ["--engine", engine, "--model", json.dumps(config)]

    def baseline(mode, *options):
        return bench.program("gpu_driver", mode, "--driver", driver, "--ptx", ptx, *options)

    info = bench.try_("the driver", lambda: baseline("info"))
    if info is None:
        return None
    report.facts["GPU"] = info["device"] + (" -- FAKE: results and times mean nothing" if label else "")
    report.facts["driver"] = "%d" % info["driver_version"]

    network = models.Network("mlp", [64, 256, 256, 8])
    network.write_check(work, 24)
    network.write_cuda(work)

    def check():
        files = ["--input", work / "mlp.in", "--expected", work / "mlp.out"]
        found = bench.program("gpu_model", "check", *model("mlp"), "--columns", 64, "--results", 8, *files)
        verdict = "%.1e" % found["relative_error"]
        report.add("error against float64, relative", where + ": mlp", verdict, "at most %.0e" % CLOSE, "", label)
        if not found["relative_error"] <= CLOSE:
            raise Failure("the error is %s" % verdict)

    bench.try_("answers of " + where, check)
    models.write_scale(work, "scale", 4)

    def launch():
        raw = baseline("launch", "--rounds", 200 if quick else 5000)
        own = bench.program("gpu_model", "latency", *model("scale"), "--columns", 4, "--results", 4, "--rounds", 200 if quick else 5000)
        report.add("one request, median", where + ": scale", microseconds(own["latency_p50"]), microseconds(raw["request_p50"]),
                   added(own["latency_p50"] - raw["request_p50"]), label)
        report.add("one request, 99th percentile", where + ": scale", microseconds(own["latency_p99"]),
                   microseconds(raw["request_p99"]), added(own["latency_p99"] - raw["request_p99"]), label)
        report.add("a launch and its event, median", where + ": scale", "", microseconds(raw["kernel_p50"]), "", label)

    bench.try_("latency of " + where, launch)

    def batches():
        raw = baseline("batches", "--rows", 64, "--columns", 4, "--lanes", 2, "--rounds", 200 if quick else 20000)
        own = bench.program("gpu_model", "throughput", *model("scale"), "--columns", 4, "--results", 4, "--threads", 4,
                            "--depth", 256, "--seconds", seconds)
        report.add("rows by the 64", where + ": scale", short(own["rows_per_s"], "rows/s"), short(raw["rows_per_s"], "rows/s"),
                   "%.2f" % (own["rows_per_s"] / raw["rows_per_s"]), label)

    bench.try_("throughput of " + where, batches)
    columns, rows = (1024, 4) if quick else (65536, 32)
    models.write_scale(work, "bulk", columns)

    def copies():
        one_way = baseline("bandwidth", "--bytes", 1 << 20 if quick else 128 << 20, "--rounds", 5 if quick else 50)
        report.add("copies to the device", where, "", short(one_way["to_device"], "B/s"), "", label)
        report.add("copies from the device", where, "", short(one_way["from_device"], "B/s"), "", label)
        options = ["--columns", columns, "--results", columns, "--rows", rows, "--threads", 2, "--depth", 4, "--seconds", seconds]
        own, raw = {}, {}
        for lanes in (1, 2, 3):
            own[lanes] = bench.program("gpu_model", "throughput", *model("bulk", lanes, rows), *options)["copied"]
            raw[lanes] = baseline("batches", "--rows", rows, "--columns", columns, "--lanes", lanes,
                                  "--rounds", 20 if quick else 300)["copied"]
            report.add("bytes in and out, %d at a time" % lanes, where + ": bulk", short(own[lanes], "B/s"),
                       short(raw[lanes], "B/s"), "%.2f" % (own[lanes] / raw[lanes]), label)
        both = one_way["to_device"] + one_way["from_device"]
        report.add("share of both copy engines", where + ": bulk", "%.0f %%" % (100 * max(own.values()) / both),
                   "%.0f %%" % (100 * max(raw.values()) / both), "", label)
        report.add("overlap: two at a time over one", where + ": bulk", "%.2f x" % (own[2] / own[1]), "%.2f x" % (raw[2] / raw[1]),
                   "", label)

    bench.try_("copies of " + where, copies)
    size, most = (64, 64) if quick else (4096, 1024)
    models.write_matmul(work, "matmul", size)

    def arithmetic():
        raw = baseline("matmul", "--rows", most, "--columns", size, "--depth", size, "--rounds", 3 if quick else 50)["matmul"]
        found = bench.program("gpu_model", "throughput", *model("matmul", 2, most, buckets=[most]), "--columns", size, "--results", size,
                              "--rows", most, "--threads", 2, "--depth", 4, "--seconds", seconds)
        own = found["rows_per_s"] * 2 * size * size
        report.add("float32 arithmetic", where + ": matmul", short(own, "flop/s"), short(raw, "flop/s"), "%.2f" % (own / raw), label)
        peak = info.get("f32_peak")
        if peak:
            report.add("share of the float32 peak", where + ": matmul", "%.0f %%" % (100 * own / peak), "%.0f %%" % (100 * raw / peak),
                       "", label)
        else:
            report.skip("share of the float32 peak", "the device does not say how fast it is")

    bench.try_("arithmetic of " + where, arithmetic)
    models.write_crash(work, "crash", 4)

    def loss():
        culprit = {"name": "crash", "backend": "cuda", "path": str(work / "crash.json"), "warmup": False}
        found = bench.program("gpu_model", "loss", *model("scale"), "--culprit", json.dumps(culprit), "--columns", 4, "--results", 4)
        if found["status"] != "DEVICE_LOST":
            raise Failure("the broken kernel's run ended with %s: %s" % (found["status"], found["message"]))
        report.add("after a kernel that breaks the device, answers again after", where + ": scale",
                   "%.2f s" % found["back_after"], "", "", label)

    loads(bench, where + ": mlp", model("mlp") + ["--columns", 64, "--results", 8], driver, label)
    return loss


def loads(bench, where, options, driver, label, rounds=1000):
    """What so many loads leave behind, or as many as there is time for."""
    report = bench.report
    rounds = min(rounds, 40) if bench.arguments.quick else rounds
    options = options + ["--rounds", rounds] + (["--driver", driver] if driver else [])

    def work():
        seconds = max(1, int(min(LOADS_SECONDS, LOADS_SHARE * bench.left())))
        found = bench.program("gpu_model", "loads", *options, "--seconds", seconds, timeout=seconds + 120)
        done = "%d" % found["loads"] + ("" if found["loads"] == rounds else " of %d in %d s" % (rounds, seconds))
        report.add("loads and unloads", where, "%s, %s" % (done, short(found["loads_per_s"], "/s")), "", "", label)
        report.add("growth of the process", where, short(found["process_growth"], "B"), "", "", label)
        if "device_left" in found:
            report.add("device memory of a model", where, short(found["device_taken"], "B"), "", "", label)
            report.add("device memory not given back, loaded %d times" % found["loads"], where, short(found["device_growth"], "B"), "", "", label)
            report.add("device memory not given back, engine gone", where, short(found["device_left"], "B"), "", "", label)
            # A real driver keeps some for itself.
            if label and found["device_left"] > 0:
                raise Failure("%d bytes of device memory were not given back" % found["device_left"])
        if found["process_growth"] > 64 << 20:
            raise Failure("the process has grown by %d bytes" % found["process_growth"])

    bench.try_("loads of " + where, work)


# ---- ONNX models -------------------------------------------------------------------------------------------------------


def onnx(bench, provider, library, driver):
    report, work, quick = bench.report, bench.work, bench.arguments.quick
    bench.environment["ORT_DYLIB_PATH"] = str(library)
    where, seconds = "ONNX on " + provider, 1 if quick else 3
    networks = [models.Network("mlp", [64, 256, 256, 8])]
    if not quick and provider != "cpu":
        networks.append(models.Network("wide", [1024, 4096, 4096, 1024]))

    def model(network, options=None):
        entry = {"name": provider, "required": True}
        config = {"name": "m", "path": str(work / (network.name + ".onnx")), "providers": [entry], "lanes": 2}
        if provider == "tensorrt":
            # It compiles for every shape, for seconds each.
            options = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(work)}
            config["batching"] = {"max_rows": 64, "buckets": [1, 64]}
        if options:
            entry["options"] = options
        return ["--model", json.dumps(config), "--columns", network.sizes[0], "--results", network.sizes[-1]]

    networks[0].write_onnx(work)

    def first():
        try:
            return bench.program("gpu_model", "latency", *model(networks[0]), "--rounds", 1)
        except Failure as failure:
            # Without NVIDIA's libraries there is nothing to measure; with them, there should be.
            if "cannot be used" not in str(failure) or provider == "cuda" and nvidia_folders():
                raise
            report.skip(where, failure)
            return None

    if bench.try_(where, first) is None:
        return

    for network in networks:
        network.write_onnx(work)
        network.write_check(work, 24 if network.name == "mlp" else 2)
        name = "%s: %s" % (where, network.name)

        def check(options, tolerance, what):
            files = ["--input", work / (network.name + ".in"), "--expected", work / (network.name + ".out")]
            found = bench.program("gpu_model", "check", *model(network, options), *files)
            if found["provider"] != provider:
                raise Failure("%s ran it: %s" % (found["provider"], found["providers_rejected"]))
            verdict = "%.1e" % found["relative_error"]
            report.add("error against float64, relative" + what, name, verdict, "at most %.0e" % tolerance)
            if not found["relative_error"] <= tolerance:
                raise Failure("the error is %s" % verdict)

        exact = {"use_tf32": False} if provider == "cuda" else None
        bench.try_("answers of " + name, lambda: check(exact, CLOSE_TF32 if provider == "tensorrt" else CLOSE, ""))
        if provider == "cuda":
            bench.try_("answers of %s with TF32" % name, lambda: check(None, CLOSE_TF32, ", TF32"))

        def direct(*options):
            return bench.program("gpu_direct", "--library", library, "--model", work / (network.name + ".onnx"), "--provider", provider,
                                 "--columns", network.sizes[0], "--results", network.sizes[-1], "--seconds", seconds, *options)

        def speed():
            raw = direct("--rows", 64, "--threads", 2)["rows_per_s"]
            own = bench.program("gpu_model", "throughput", *model(network), "--threads", 4, "--depth", 256, "--seconds", seconds)
            report.add("rows by the 64", name, short(own["rows_per_s"], "rows/s"), short(raw, "rows/s"), "%.2f" % (own["rows_per_s"] / raw))
            raw = direct("--rows", 1, "--threads", 1)
            own = bench.program("gpu_model", "latency", *model(network), "--rounds", 200 if quick else 5000)
            for quantile, text in (("p50", "median"), ("p99", "99th percentile")):
                with_, without = own["latency_" + quantile], raw["run_" + quantile]
                report.add("one request, " + text, name, microseconds(with_), microseconds(without), added(with_ - without))

        bench.try_("speed of " + name, speed)
    loads(bench, where + ": mlp", model(networks[0]), driver if provider != "cpu" else None, "", 20 if provider == "tensorrt" else 1000)


# ---- the whole -----------------------------------------------------------------------------------------------------------


def has_driver(path):
    """Whether there is a driver with a device: "real" or "fake"; otherwise None, and why not."""
    try:
        library = ctypes.CDLL(path)
        count, device, name = ctypes.c_int(0), ctypes.c_int(0), ctypes.create_string_buffer(256)
        code = library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count))
        if code or not count.value:
            return None, "%s has no device (code %d)" % (path, code)
        code = library.cuDeviceGet(ctypes.byref(device), 0) or library.cuDeviceGetName(name, 255, device)
    except (OSError, AttributeError) as error:
        return None, str(error)
    if code:
        return None, "%s: its first device has no name (code %d)" % (path, code)
    return ("fake", path + " is the fake driver") if name.value.startswith(b"Fake") else ("real", "")


def measure(bench, driver, label, real):
    """Everything that there is to measure here."""
    arguments, report, work = bench.arguments, bench.report, bench.work
    folders = [str(HERE / "lib")]
    bench.environment["LD_LIBRARY_PATH"] = ":".join(folders + [bench.environment.get("LD_LIBRARY_PATH", "")]).strip(":")
    environment, loss = dict(bench.environment), None
    kernels, onnx_there = "models of CUDA kernels", "ONNX models on CUDA and TensorRT"
    if arguments.only == "onnx":
        report.skip(kernels, "--only onnx")
    elif not (HERE / "lib" / "libblaze_cuda.so").exists():
        report.skip(kernels, "libblaze_cuda.so was not packed")
    elif driver is None:
        report.skip(kernels, "there is neither a driver nor a fake one")
    else:
        loss = bench.try_(kernels, lambda: cuda_plugin(bench, driver, label))

    if arguments.only == "cuda":
        report.skip("ONNX models", "--only cuda")
    else:
        bench.try_("ONNX on cpu", lambda: onnx(bench, "cpu", HERE / "lib" / "onnxruntime" / "libonnxruntime.so", None))
        if real:
            library, why = bench.try_(onnx_there, lambda: unpack(work)) or (None, "see above")
        else:
            library, why = None, "there is no GPU"
        if library is None:
            report.skip(onnx_there, why)
        else:
            paths = [str(library)] + nvidia_folders() + folders
            bench.environment["LD_LIBRARY_PATH"] = ":".join(paths + [os.environ.get("LD_LIBRARY_PATH", "")]).strip(":")
            report.facts["NVIDIA's libraries"] = ", ".join(nvidia_folders()) or "none found"
            for provider in ("cuda", "tensorrt"):
                bench.try_("ONNX on " + provider, lambda: onnx(bench, provider, library / "libonnxruntime.so", driver))
    if loss:
        bench.environment = environment
        bench.try_("a lost device", loss)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--driver", default="libcuda.so.1", help="the CUDA driver's library")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small sizes: whether everything works; the default without a GPU")
    size.add_argument("--full", action="store_true", help="full sizes, also without a GPU")
    parser.add_argument("--only", choices=["cuda", "onnx"], help="models of CUDA kernels, or ONNX models")
    parser.add_argument("--budget", type=float, default=540, help="seconds after which nothing new is begun (540)")
    parser.add_argument("--out", default=os.environ.get("OUT"), help="a folder for gpu.md and gpu.json")
    parser.add_argument("--keep", action="store_true", help="keep this folder's pieces of ONNX Runtime for a later run, and do nothing else")
    arguments = parser.parse_args()
    if arguments.keep:
        return keep()

    for program in (HERE / "bin").glob("*"):
        try:
            program.chmod(0o755)  # not every way to carry files keeps it
        except OSError as error:
            print("  %s: %s" % (program, error), file=sys.stderr)
    if os.path.exists(arguments.driver):
        arguments.driver = os.path.abspath(arguments.driver)  # programs run elsewhere
    report = Report(arguments.out)
    try:
        kind, why = has_driver(arguments.driver)
        real, driver, label = kind == "real", arguments.driver, "" if kind == "real" else "FAKE"
        if not real:
            report.title = "Blaze without a GPU: does the script work?"
            report.skip("the GPU", why)
        if kind is None:
            fake = HERE / "fake" / "libfakecuda.so"
            driver = str(fake) if fake.exists() else None
        arguments.quick = arguments.quick or not (real or arguments.full)
        report.facts["machine"] = "%s, %d cores" % (platform.machine(), os.cpu_count() or 0)
        report.facts["sizes"] = "small (--quick)" if arguments.quick else "full"
        with tempfile.TemporaryDirectory(prefix="blaze-gpu-") as work:
            measure(Bench(arguments, report, Path(work)), driver, label, real)
    except Exception as error:
        report.fail("the whole", "%s: %s" % (type(error).__name__, error))
    finally:
        print(report.text())
        report.save()
    return 1 if report.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit("run.py: %s" % failure)
