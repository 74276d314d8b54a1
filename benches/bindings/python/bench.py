"""What a request through Python costs over one through C: both in one process, on one engine, in alternating rounds.

usage: bench.py [--quick]

Prints for each way the median time of a request, that of C in the same rounds, and the median of the rounds' differences.
"""

from __future__ import annotations

import asyncio
import ctypes
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import blaze
import numpy as np

ROOT = Path(__file__).resolve().parents[3]
QUICK = "--quick" in sys.argv
ROUNDS, REQUESTS, IN_FLIGHT = (3, 500, 64) if QUICK else (21, 4000, 64)

direct = ctypes.CDLL(str(ROOT / "target/c/libdirect.so"))
for name, arguments in (("direct_infer", 0), ("direct_submit", 1)):
    function = getattr(direct, name)
    function.restype = ctypes.c_uint64
    function.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint32]
    function.argtypes += [ctypes.c_uint32] * arguments + [ctypes.c_void_p]

engine = blaze.Engine(threads=1)
model = engine.load(ROOT / "tests/models/tiny.onnx")
row = np.full((1, 4), 0.5, np.float32)
out = np.zeros((1, 2), np.float32)
fresh, fixed = model.prepare(row), model.prepare(row, out=out)
total = ctypes.c_float()


def c_infer() -> float:
    return direct.direct_infer(engine._core.handle, model.handle, row.ctypes.data, 4, REQUESTS, ctypes.byref(total)) / REQUESTS


def c_submit() -> float:
    arguments = (engine._core.handle, model.handle, row.ctypes.data, 4, REQUESTS, IN_FLIGHT, ctypes.byref(total))
    return direct.direct_submit(*arguments) / REQUESTS


def repeated(call: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter_ns()
        for _ in range(REQUESTS):
            call()
        return (time.perf_counter_ns() - started) / REQUESTS

    return run


def submitted() -> float:
    waiting: deque[blaze.Future[blaze.Outputs]] = deque()
    started = time.perf_counter_ns()
    for _ in range(REQUESTS):
        if len(waiting) == IN_FLIGHT:
            waiting.popleft().result()
        waiting.append(model.submit(row))
    while waiting:
        waiting.popleft().result()
    return (time.perf_counter_ns() - started) / REQUESTS


def awaited() -> float:
    async def one(count: int) -> None:
        for _ in range(count):
            await model.infer_async(row)

    async def run() -> float:
        started = time.perf_counter_ns()
        await asyncio.gather(*(one(REQUESTS // IN_FLIGHT) for _ in range(IN_FLIGHT)))
        return (time.perf_counter_ns() - started) / (REQUESTS // IN_FLIGHT * IN_FLIGHT)

    return asyncio.run(run())


ways: list[tuple[str, Callable[[], float], Callable[[], float]]] = [
    ("model.infer(x)", repeated(lambda: model.infer(row)), c_infer),
    ("model.infer(x, out=y)", repeated(lambda: model.infer(row, out=out)), c_infer),
    ("prepared()", repeated(fresh), c_infer),
    ("prepared(), out", repeated(fixed), c_infer),
    (f"submit, {IN_FLIGHT} in flight", submitted, c_submit),
    (f"infer_async, {IN_FLIGHT} in flight", awaited, c_submit),
]
print(f"tiny, {ROUNDS} rounds of {REQUESTS} requests; µs for each request")
print("| | Python | C | difference |\n| --- | --- | --- | --- |")
for name, python, c in ways:
    python(), c()
    rounds = [(c(), python()) for _ in range(ROUNDS)]
    middle = statistics.median
    print(
        f"| {name} | {middle(p for _, p in rounds) / 1e3:.1f} | {middle(d for d, _ in rounds) / 1e3:.1f} "
        f"| {middle(p - d for d, p in rounds) / 1e3:.1f} |",
        flush=True,
    )
engine.close()
