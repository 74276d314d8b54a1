"""What a request through Python costs over one through C: both in one process, on one engine, in alternating rounds.

usage: bench.py [--quick]

Prints for each way the median time of a request, that of C in the same rounds, and the median of the rounds' differences; the
last also of the CPU time that the process took, which other processes on the machine change less.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import itertools
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
ROUNDS, REQUESTS, IN_FLIGHT = (3, 512, 64) if QUICK else (21, 4032, 64)

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
# Memory for the outputs of each that is in flight.
outs = [np.zeros((1, 2), np.float32) for _ in range(IN_FLIGHT)]
in_turn = itertools.cycle(outs)


def c_infer() -> None:
    assert direct.direct_infer(engine._core.handle, model.handle, row.ctypes.data, 4, REQUESTS, ctypes.byref(total))


def c_submit() -> None:
    arguments = (engine._core.handle, model.handle, row.ctypes.data, 4, REQUESTS, IN_FLIGHT, ctypes.byref(total))
    assert direct.direct_submit(*arguments)


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(REQUESTS):
            call()

    return run


def submitted(submit: Callable[[], blaze.Future[blaze.Outputs]]) -> Callable[[], None]:
    def run() -> None:
        waiting: deque[blaze.Future[blaze.Outputs]] = deque()
        for _ in range(REQUESTS):
            if len(waiting) == IN_FLIGHT:
                waiting.popleft().result()
            waiting.append(submit())
        while waiting:
            waiting.popleft().result()

    return run


def awaited(into_outs: bool = False) -> Callable[[], None]:
    async def one(place: int) -> None:
        options = {"out": outs[place]} if into_outs else {}
        for _ in range(REQUESTS // IN_FLIGHT):
            await model.infer_async(row, **options)

    async def run() -> None:
        await asyncio.gather(*(one(place) for place in range(IN_FLIGHT)))

    return lambda: asyncio.run(run())


def as_completed() -> None:
    for _ in range(REQUESTS // IN_FLIGHT):
        for future in concurrent.futures.as_completed([model.submit(row) for _ in range(IN_FLIGHT)]):
            future.result()


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Microseconds for each request, and of CPU time."""
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - wall) / REQUESTS / 1e3, (time.process_time_ns() - cpu) / REQUESTS / 1e3


ways: list[tuple[str, Callable[[], None], Callable[[], None]]] = [
    ("model.infer(x)", repeated(lambda: model.infer(row)), c_infer),
    ("model.infer(x, out=y)", repeated(lambda: model.infer(row, out=out)), c_infer),
    ("prepared()", repeated(fresh), c_infer),
    ("prepared(), out", repeated(fixed), c_infer),
    (f"submit, {IN_FLIGHT} in flight", submitted(lambda: model.submit(row)), c_submit),
    (f"submit, out, {IN_FLIGHT} in flight", submitted(lambda: model.submit(row, out=next(in_turn))), c_submit),
    (f"prepared, submit, {IN_FLIGHT} in flight", submitted(fresh.submit), c_submit),
    (f"submit, as_completed of {IN_FLIGHT}", as_completed, c_submit),
    (f"infer_async, {IN_FLIGHT} in flight", awaited(), c_submit),
    (f"infer_async, out, {IN_FLIGHT} in flight", awaited(into_outs=True), c_submit),
]
print(f"tiny, {ROUNDS} rounds of {REQUESTS} requests; µs for each request")
print("| | Python | C | difference | difference of CPU time |\n| --- | --- | --- | --- | --- |")
for name, python, c in ways:
    python(), c()
    rounds = [(timed(c), timed(python)) for _ in range(ROUNDS)]
    middle = statistics.median
    print(
        f"| {name} | {middle(p[0] for _, p in rounds):.1f} | {middle(d[0] for d, _ in rounds):.1f} "
        f"| {middle(p[0] - d[0] for d, p in rounds):.1f} | {middle(p[1] - d[1] for d, p in rounds):.1f} |",
        flush=True,
    )
engine.close()
