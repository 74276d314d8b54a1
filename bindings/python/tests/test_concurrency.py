"""Futures, threads, event loops, cancelling, deadlines, and hosts that bring the thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import blaze
import numpy as np
import pytest
from conftest import DIGITS, IMAGES, LABELS, LONG, SLOW, eventually


def test_futures_are_those_of_concurrent_futures(digits: blaze.Model) -> None:
    futures = {digits.submit(image[None]): label for image, label in zip(IMAGES, LABELS)}
    right = 0
    for future in concurrent.futures.as_completed(futures, timeout=60):
        assert isinstance(future, concurrent.futures.Future)
        right += future.result()[0].argmax() == futures[future]
    assert right > 0.99 * len(LABELS)
    called = threading.Event()
    digits.submit(IMAGES[:1]).add_done_callback(lambda future: called.set() if future.exception() is None else None)
    assert called.wait(20)


def test_waiting_in_every_way_while_they_end(digits: blaze.Model) -> None:
    # What a future is waited for with is made by whoever comes first, perhaps in the moment in which it ends.
    def ways(futures: list[blaze.Future[blaze.Outputs]]) -> list[int]:
        called = threading.Semaphore(0)
        for future in futures:
            future.add_done_callback(lambda _: called.release())
        for future in concurrent.futures.as_completed(futures, timeout=60):
            assert future.done() and not future.cancelled() and not future.running()
        done, waiting = concurrent.futures.wait(futures, timeout=60)
        assert len(done) == len(futures) and not waiting
        assert all(called.acquire(timeout=60) for _ in futures)
        return [int(future.result(60)[0].argmax()) for future in futures]

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for first in range(0, 400, 8):
            futures = [digits.submit(image[None]) for image in IMAGES[first : first + 8]]
            answers = [pool.submit(ways, futures) for _ in range(3)]
            assert len({tuple(answer.result(60)) for answer in answers}) == 1


def test_requests_while_there_are_callbacks(digits: blaze.Model, caplog: pytest.LogCaptureFixture) -> None:
    # A callback has quick functions of the library called without the GIL, which they are called with otherwise.
    before = [digits.submit(image[None]) for image in IMAGES[:50]]
    caplog.set_level(1, "blaze")
    digits.engine.log_to(level="trace", rate={"per_second": 0})
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        after = [future for part in pool.map(lambda _: [digits.submit(IMAGES[:1]) for _ in range(50)], range(4)) for future in part]
    assert {int(future.result(60)[0].argmax()) for future in after} == {LABELS[0]}
    assert np.mean([future.result(60)[0].argmax() == label for future, label in zip(before, LABELS)]) > 0.9
    large = np.zeros((450, 1, 8, 8), np.float32)
    assert digits.submit(large).result(60)[0].shape == (450, 10)


def test_memory_for_outputs_of_changing_shapes(digits: blaze.Model) -> None:
    out = np.zeros((8, 10), np.float32)
    for rows in (8, 8, 3, 8, 5, 5):
        (given,) = digits.infer(IMAGES[:rows], out=out).arrays
        assert given.shape == (rows, 10) and np.shares_memory(given, out) and (given is out) == (rows == 8)
        np.testing.assert_allclose(given, digits(IMAGES[:rows]), atol=1e-5)
    small = np.zeros((2, 10), np.float32)
    for _ in range(2):
        assert digits.infer(IMAGES[:2], out=small)[0] is small
        with pytest.raises(blaze.BlazeError):
            digits.infer(IMAGES[:3], out=small)


def test_many_threads_share_a_model(digits: blaze.Model) -> None:
    expected = digits(IMAGES)

    def work(seed: int) -> float:
        worst = 0.0
        random = np.random.default_rng(seed)
        for turn in range(100):
            first, rows = int(random.integers(0, 440)), int(random.integers(1, 10))
            x = IMAGES[first : first + rows]
            y = digits(x) if turn % 2 else digits.submit(x).result(60)[0]
            worst = max(worst, float(np.abs(y - expected[first : first + rows]).max()))
        return worst

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert max(pool.map(work, range(8))) < 1e-5


def test_a_prepared_request_is_for_one_thread(engine: blaze.Engine) -> None:
    prepared = engine.load(SLOW).prepare(LONG)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            prepared(timeout=60)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: engine.metrics().in_flight == 1)
    with pytest.raises(RuntimeError):
        prepared()
    engine.close()
    thread.join(20)
    assert isinstance(errors[0], blaze.StateError)


def test_cancelling_what_runs_and_what_waits(engine: blaze.Engine) -> None:
    slow = engine.load(SLOW)
    futures = [slow.submit(LONG, out=np.zeros((), np.float32)) for _ in range(4)]
    eventually(lambda: engine.metrics().batches >= 0 and engine.metrics().in_flight == 4)
    for future in futures:
        assert future.cancel() and future.cancelled() and future.done()
    done, waiting = concurrent.futures.wait(futures, timeout=20)
    assert len(done) == 4 and not waiting
    with pytest.raises(concurrent.futures.CancelledError):
        futures[0].result()
    assert slow(np.array(3, np.int64)) == 3
    ended = slow.submit(np.array(3, np.int64))
    ended.result(20)
    assert not ended.cancel() and not ended.cancelled()


def test_deadlines_and_timeouts(engine: blaze.Engine) -> None:
    slow = engine.load(SLOW)
    for call, status in (
        (lambda: slow.infer(LONG, timeout=0.05), blaze.Status.TIMEOUT),
        (lambda: slow.infer(LONG, deadline=0.05), blaze.Status.EXPIRED),
        (lambda: slow.submit(LONG, deadline=0.05).result(20), blaze.Status.EXPIRED),
        (lambda: slow.prepare(LONG).infer(deadline=0.05), blaze.Status.EXPIRED),
        (lambda: asyncio.run(slow.infer_async(LONG, deadline=0.05)), blaze.Status.EXPIRED),
    ):
        with pytest.raises(blaze.DeadlineError) as caught:
            call()
        assert caught.value.status == status and isinstance(caught.value, TimeoutError)
    with pytest.raises(concurrent.futures.TimeoutError):
        slow.submit(LONG).result(timeout=0.01)


def test_too_much_at_once_is_refused_and_nothing_is_lost() -> None:
    with blaze.Engine(threads=1, in_flight=4) as engine:
        slow = engine.load(SLOW)
        futures = [slow.submit(LONG) for _ in range(4)]
        with pytest.raises(blaze.CapacityError) as caught:
            slow.submit(LONG)
        assert caught.value.status == blaze.Status.QUEUE_FULL
        for future in futures:
            future.cancel()
        eventually(lambda: not engine._dispatcher().pending)
        assert slow.submit(np.array(2, np.int64)).result(20)[0] == 2


def test_shutting_down_resolves_all_futures(engine: blaze.Engine) -> None:
    slow = engine.load(SLOW)
    futures = [slow.submit(LONG) for _ in range(10)]
    engine.close()
    assert all(isinstance(future.exception(20), blaze.StateError) for future in futures)
    assert {future.exception().status for future in futures} == {blaze.Status.SHUT_DOWN}


def test_asyncio(engine: blaze.Engine, digits: blaze.Model) -> None:
    async def ask() -> float:
        answers = await asyncio.gather(*(digits.infer_async(image[None]) for image in IMAGES))
        return float(np.mean([answer[0].argmax() == label for answer, label in zip(answers, LABELS)]))

    threads = threading.active_count()
    for _ in range(3):  # each run has a loop of its own
        assert asyncio.run(ask()) > 0.99
    assert threading.active_count() == threads

    async def in_the_loop() -> None:
        out = np.zeros((2, 10), np.float32)
        assert (await digits.infer_async(image=IMAGES[:2], out=out))[0] is out
        assert (await asyncio.wrap_future(digits.submit(IMAGES[:1])))[0].argmax() == LABELS[0]
        with pytest.raises(blaze.ArgumentError):
            await digits.infer_async(IMAGES[0])
        engine.close()
        with pytest.raises(blaze.StateError):
            await digits.infer_async(IMAGES[:1])

    asyncio.run(in_the_loop())


def test_loops_that_are_closed_leave_nothing_behind(digits: blaze.Model) -> None:
    async def ask() -> None:
        await digits.infer_async(IMAGES[:1])

    for _ in range(50):
        asyncio.run(ask())
    assert len(digits.engine._loops) == 1 and len(digits.engine._core.closers) == 1


def test_closing_inside_a_poll() -> None:
    engine = blaze.Engine(threads=1, manual=True)
    model = engine.load(DIGITS)
    futures = [model.submit(IMAGES[:1]) for _ in range(600)]
    eventually(lambda: engine.metrics().in_flight == 0)
    futures[0].add_done_callback(lambda _: engine.close())
    while engine.poll():
        pass
    assert engine.closed and all(future.done() for future in futures)


def test_polling_from_many_threads() -> None:
    with blaze.Engine(threads=1, manual=True) as engine:
        model = engine.load(DIGITS)
        futures = [model.submit(image[None]) for image in IMAGES]

        def poll() -> None:
            while not all(future.done() for future in futures):
                engine.poll(7)

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for worker in [pool.submit(poll) for _ in range(4)]:
                worker.result(60)
        assert np.mean([future.result()[0].argmax() == label for future, label in zip(futures, LABELS)]) > 0.99


def test_cancelling_a_task_gives_the_request_up(engine: blaze.Engine) -> None:
    slow = engine.load(SLOW)

    async def main() -> None:
        tasks = [asyncio.create_task(slow.infer_async(LONG)) for _ in range(3)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with pytest.raises(asyncio.CancelledError):
                await task
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(slow.infer_async(LONG), 0.05)
        assert (await slow.infer_async(np.array(5, np.int64)))[0] == 5

    asyncio.run(main())
    eventually(lambda: engine.metrics().requests_cancelled == 4 and engine.metrics().in_flight == 0)


def test_closing_from_another_thread_while_a_loop_waits(engine: blaze.Engine) -> None:
    slow = engine.load(SLOW)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(slow.infer_async(LONG))
        await asyncio.sleep(0.05)
        await loop.run_in_executor(None, engine.close)
        with pytest.raises(blaze.StateError):
            await asyncio.wait_for(task, 20)

    asyncio.run(main())


def test_loading_in_the_background(engine: blaze.Engine) -> None:
    stages: list[str] = []
    future = engine.load_async(DIGITS, on_progress=lambda part, stage: stages.append(stage))
    assert future.result(60)(IMAGES[:1]).argmax() == LABELS[0]
    eventually(lambda: bool(stages))
    cancelled = engine.load_async({**SLOW, "name": "long", "warmup": {"inputs": {"n": {"shape": [], "fill": 10**5}}}})
    eventually(lambda: bool(engine.health()["loading"]) or cancelled.done())
    assert cancelled.cancel() or cancelled.done()


@pytest.mark.parametrize("end", ["cancel", "close"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_load_that_warms_up_for_ever_can_be_given_up(threads: int, end: str) -> None:
    engine = blaze.Engine(threads=threads)
    stages: list[str] = []
    endless = {**SLOW, "warmup": {"inputs": {"n": {"shape": [], "fill": 10**9}}}}
    future = engine.load_async(endless, on_progress=lambda part, stage: stages.append(stage))
    eventually(lambda: "warming up" in stages)
    if end == "cancel":
        assert future.cancel() and future.cancelled()
    closing = threading.Thread(target=engine.close, daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive() and future.done()
    if end == "close":
        assert isinstance(future.exception(), blaze.StateError)


def test_a_host_that_brings_the_thread() -> None:
    with blaze.Engine(threads=0) as engine:
        threads = threading.active_count()
        future = engine.load_async(DIGITS)
        while not future.done():
            engine.pump(0.002)
        model = future.result()
        futures = [model.submit(image[None]) for image in IMAGES[:64]]
        assert not any(future.done() for future in futures)
        while not all(future.done() for future in futures):
            engine.pump(0.002)
        assert [future.result()[0].argmax() for future in futures] == list(LABELS[:64])
        assert model(IMAGES[:1]).argmax() == LABELS[0] and threading.active_count() == threads
        future = model.submit(IMAGES[:1])
        model.engine.pump(1)
        assert future.done() and engine.pump(0) == 0
    with blaze.Engine(threads=1, manual=True) as engine:
        model = engine.load(DIGITS)
        futures = [model.submit(IMAGES[:1]) for _ in range(8)]
        taken = 0

        def poll() -> bool:
            nonlocal taken
            taken += engine.poll(3)
            return taken == 8

        eventually(poll)
        assert all(future.done() for future in futures)
        with pytest.raises(blaze.StateError):
            engine.pump(0.001)


def test_loops_and_threads_together(digits: blaze.Model) -> None:
    async def loop() -> int:
        answers = [await digits.infer_async(image[None]) for image in IMAGES[:60]]
        return sum(int(answer[0].argmax()) for answer in answers)

    expected = int(LABELS[:60].sum())
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        loops = [pool.submit(asyncio.run, loop()) for _ in range(3)]
        plain = [pool.submit(lambda: sum(int(digits(image[None]).argmax()) for image in IMAGES[:60])) for _ in range(3)]
        wrong = {future.result(60) for future in loops + plain}
    assert all(abs(total - expected) < 20 for total in wrong) and len(wrong) == 1
