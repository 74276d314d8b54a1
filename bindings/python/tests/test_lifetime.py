"""Memory: arrays outlive everything, what nobody refers to goes back, and nothing grows."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import blaze
import numpy as np
import pytest
from conftest import DIGITS, IMAGES, LABELS, LONG, SLOW, eventually


def test_arrays_outlive_outputs_model_and_engine() -> None:
    engine = blaze.Engine(threads=1)
    model = engine.load(DIGITS)
    outputs = model.infer(IMAGES[:8])
    array = outputs[0]
    part = array[3]
    copy = array.copy()
    del outputs
    gc.collect()
    np.testing.assert_array_equal(array, copy)
    model.unload()
    engine.close()
    del model, engine
    gc.collect()
    np.testing.assert_array_equal(array, copy)
    array[3] = 0.5
    del array
    gc.collect()
    assert (part == 0.5).all()


def test_memory_goes_back_when_the_last_array_goes(engine: blaze.Engine, digits: blaze.Model) -> None:
    def held() -> int:
        buffers = engine.health()["memory"]
        return int(buffers["buffers_bytes"] - buffers["idle_buffers_bytes"])

    digits(IMAGES)
    engine.trim()
    eventually(lambda: held() == held())
    before = held()
    arrays = [digits(IMAGES) for _ in range(50)]
    views = [array[:1] for array in arrays]
    del arrays
    gc.collect()
    eventually(lambda: held() >= before + 50 * 450 * 10 * 4)
    assert [view.argmax() for view in views] == [LABELS[0]] * 50
    del views
    eventually(lambda: held() <= before)


def test_no_events_are_kept_by_futures_that_are_dropped(engine: blaze.Engine, digits: blaze.Model) -> None:
    for future in [digits.submit(IMAGES[:1]) for _ in range(200)]:
        future.result(20)
    del future
    eventually(lambda: engine.metrics().in_flight == 0 and engine.metrics().events_waiting == 0)


def test_an_engine_is_destroyed_when_nobody_refers_to_it() -> None:
    threads = threading.active_count()
    for _ in range(3):
        model = blaze.Engine(threads=1).load(DIGITS)
        assert model.submit(IMAGES[:1]).result(20)[0].argmax() == LABELS[0]
        finalizer = model.engine._finalizer
        del model
        gc.collect()
        eventually(lambda: not finalizer.alive)
    eventually(lambda: threading.active_count() == threads)


def test_a_dropped_future_does_not_stop_the_work_of_others(engine: blaze.Engine, digits: blaze.Model) -> None:
    for _ in range(100):
        digits.submit(IMAGES[:1])
    assert digits.submit(IMAGES[:1]).result(20)[0].argmax() == LABELS[0]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it looks into /proc")
def test_a_thousand_engines_leave_nothing_behind() -> None:
    mock = {"name": "m", "backend": "mock", "mock": {}}

    def cycle(model: dict[str, object] | Path) -> None:
        with blaze.Engine(threads=1) as engine:
            loaded = engine.load(model)
            loaded.info()

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    try:
        with blaze.Engine(threads=1) as engine:
            engine.load(mock)
        what: dict[str, object] | Path = mock
    except blaze.ArgumentError:
        what = DIGITS
    for _ in range(100):
        cycle(what)
    gc.collect()
    bytes_before, threads, files = resident(), threading.active_count(), descriptors()
    for _ in range(1000):
        cycle(what)
    gc.collect()
    assert threading.active_count() == threads and descriptors() == files
    assert resident() - bytes_before < 8 << 20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it looks into /proc")
def test_requests_leave_nothing_behind(digits: blaze.Model) -> None:
    def some(count: int) -> None:
        for i in range(count):
            rows = IMAGES[: 1 + i % 16]
            digits(rows)
            digits.submit(rows).result(20)

    some(300)
    gc.collect()
    before = resident()
    some(3000)
    gc.collect()
    assert resident() - before < 8 << 20


def run(code: str) -> subprocess.CompletedProcess[str]:
    before = "import blaze, numpy as np, os, sys, threading, logging\n" + f"DIGITS = {str(DIGITS)!r}\nSLOW = {SLOW!r}\n"
    before += "x = np.zeros((1, 1, 8, 8), np.float32)\n"
    return subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "code",
    [
        "e = blaze.Engine(); m = e.load(DIGITS); y = m(x); f = m.submit(x)",
        "e = blaze.Engine(); m = e.load(DIGITS); fs = [m.submit(x) for _ in range(500)]",
        "e = blaze.Engine(); m = e.load(SLOW); f = m.submit(np.array(10**9, np.int64))",
        "e = blaze.Engine(); e.log_to(level='trace'); logging.basicConfig(level=0, stream=sys.stdout); m = e.load(DIGITS); m(x)",
        "e = blaze.Engine(); m = e.load(DIGITS)\n"
        "def work():\n try:\n  while True: m(x)\n except blaze.StateError: pass\n"
        "threading.Thread(target=work, daemon=True).start()",
        "e = blaze.Engine(); e.keep = e; m = e.load(DIGITS); m.cycle = [m(x), e]",
    ],
)
def test_the_interpreter_exits_with_work_under_way(code: str) -> None:
    done = run(code)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forks_child_touches_nothing() -> None:
    done = run(
        """
import gc, warnings
warnings.simplefilter("ignore")
e = blaze.Engine(); m = e.load(DIGITS); y = m(x); total = float(y.sum()); f = m.submit(x); f.result()
pid = os.fork()
if not pid:
    try:
        assert float(y.sum()) == total and e.closed
        for call in (lambda: m(x), lambda: m.submit(x), e.health, lambda: e.load(DIGITS)):
            try:
                call()
                os._exit(3)
            except blaze.StateError as error:
                assert error.status == blaze.Status.INVALID_STATE and "parent" in str(error), error
        e.close()
        del y, f, m, e
        gc.collect()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(4)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert float(m(x).sum()) == total and m.submit(x).result()[0].shape == (1, 10)
e.close()
"""
    )
    assert done.returncode == 0, done.stderr


def test_close_while_others_infer_and_from_a_callback() -> None:
    engine = blaze.Engine(threads=2)
    model = engine.load(DIGITS)
    ended: list[int] = []

    def work() -> None:
        try:
            while True:
                model(IMAGES[:1])
        except blaze.StateError as error:
            ended.append(error.status)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    slow = engine.load(SLOW)
    future = slow.submit(LONG)
    eventually(lambda: engine.metrics().requests_ok > 20)
    engine.close()
    for thread in threads:
        thread.join(20)
    assert ended == [blaze.Status.SHUT_DOWN] * 4
    assert isinstance(future.exception(20), blaze.StateError)

    other = blaze.Engine(threads=1)
    model = other.load(DIGITS)
    future = model.submit(IMAGES[:1])
    future.add_done_callback(lambda _: other.close())
    future.result(20)
    eventually(lambda: not other._core.handle)
