"""Each kind of failure is an exception that says what it is, and nothing breaks by it."""

from __future__ import annotations

import pickle
import subprocess
import sys

import blaze
import numpy as np
import pytest
from conftest import DIGITS, IMAGES, MODELS
from blaze._errors import error_of

FLOATS = np.zeros((1, 1, 8, 8), np.float32)


@pytest.mark.parametrize(
    "status, kind",
    [(100, blaze.ArgumentError), (108, ValueError), (200, blaze.NotFoundError), (201, blaze.StateError), (203, blaze.CancelledError),
     (204, blaze.DeadlineError), (205, TimeoutError), (300, blaze.CapacityError), (305, blaze.CapacityError),
     (400, blaze.ModelError), (502, blaze.BackendError), (900, blaze.InternalError), (777, blaze.BlazeError)],
)
def test_families(status: int, kind: type[Exception]) -> None:
    error = error_of(status, "why", 1_500_000_000)
    assert isinstance(error, kind) and error.status == status and error.retry_after == 1.5 and "why" in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and copy.status == status and copy.retry_after == 1.5


def test_every_status_has_the_librarys_name() -> None:
    library = blaze.load_library()
    for status in blaze.Status:
        assert library.status_name(status).decode() == status.name


def test_bad_inputs(digits: blaze.Model) -> None:
    for given, status in (
        (np.zeros((1, 1, 8, 8), np.float64), blaze.Status.INVALID_DTYPE),
        (np.zeros((1, 1, 8, 7), np.float32), blaze.Status.INVALID_SHAPE),
        (np.zeros(64, np.float32), blaze.Status.INVALID_SHAPE),
        (np.zeros((1, 1, 8, 8), "M8[s]"), blaze.Status.INVALID_DTYPE),
        (np.full((1, 1, 8, 8), "a"), blaze.Status.INVALID_DTYPE),
    ):
        for run in (digits.infer, digits.submit, digits.prepare(FLOATS)._model.infer):
            with pytest.raises(blaze.ArgumentError) as caught:
                run(given)
            assert caught.value.status == status
    for call in (lambda: digits.infer(FLOATS, FLOATS), lambda: digits.infer(nothing=FLOATS), lambda: digits.infer(FLOATS, image=FLOATS),
                 lambda: digits.infer()):
        with pytest.raises(blaze.ArgumentError) as caught:
            call()
        assert caught.value.status == blaze.Status.INVALID_NAME
    assert digits(IMAGES[:1]).shape == (1, 10)


def test_bad_outputs(digits: blaze.Model) -> None:
    readonly = np.zeros((1, 10), np.float32)
    readonly.flags.writeable = False
    for out in (np.zeros((1, 10), np.float64), np.zeros((10, 1), np.float32)[::2], readonly, {"x": FLOATS}, [FLOATS, FLOATS]):
        with pytest.raises(blaze.ArgumentError):
            digits.infer(FLOATS, out=out)
    with pytest.raises(blaze.CapacityError) as caught:
        digits.infer(FLOATS, out=np.zeros(9, np.float32))
    assert caught.value.status == blaze.Status.BUFFER_TOO_SMALL
    with pytest.raises(blaze.CapacityError):
        digits.submit(FLOATS, out=np.zeros(9, np.float32)).result(20)


def test_models_that_cannot_be_loaded(engine: blaze.Engine) -> None:
    for call, kind, status in (
        (lambda: engine.load("nowhere.onnx"), blaze.ModelError, 400),
        (lambda: engine.load(__file__, name="x"), blaze.ModelError, 401),
        (lambda: engine.load(b"not a model", name="x"), blaze.ModelError, 401),
        (lambda: engine.load(DIGITS, lanse=1), blaze.ArgumentError, 103),
        (lambda: engine.load_async("nowhere.onnx").result(20), blaze.ModelError, 400),
        (lambda: engine.find("nobody"), blaze.NotFoundError, 200),
        (lambda: blaze.Engine(thread=1), blaze.ArgumentError, 103),
        (lambda: blaze.Engine("{"), ValueError, None),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert status is None or caught.value.status == status


def test_a_rate_limit_says_when_to_come_back(engine: blaze.Engine) -> None:
    model = engine.load(MODELS / "tiny.onnx", limits={"requests_per_second": 0.001, "burst": 1})
    row = np.zeros((1, 4), np.float32)
    model(row)
    with pytest.raises(blaze.CapacityError) as caught:
        model(row)
    assert caught.value.status == blaze.Status.RATE_LIMITED and caught.value.retry_after > 1


def test_what_is_gone_stays_gone(engine: blaze.Engine) -> None:
    model = engine.load(DIGITS)
    receipt = model.unload()
    assert receipt["freed_bytes"] > 0
    for call in (lambda: model.infer(FLOATS), lambda: model.submit(FLOATS), model.info, model.unload):
        with pytest.raises(blaze.NotFoundError):
            call()
    again = engine.load(DIGITS)
    assert again.unload_async().result(20)["freed_bytes"] > 0
    third = engine.load(DIGITS)
    engine.close()
    assert engine.closed
    for call in (lambda: third.infer(FLOATS), lambda: third.submit(FLOATS), engine.health, engine.metrics, lambda: engine.load(DIGITS)):
        with pytest.raises(blaze.StateError) as caught:
            call()
        assert caught.value.status == blaze.Status.SHUT_DOWN
    engine.close()


def test_the_library_is_found_or_the_error_lists_where_it_was_looked_for() -> None:
    def run(code: str, **environment: str) -> str:
        import os

        return subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
        ).stderr

    said = run("import blaze; blaze.Engine()", BLAZE_LIBRARY="/nowhere/libblaze.so")
    assert "LibraryError" in said and "/nowhere/libblaze.so" in said
    said = run("import blaze; blaze.load_library('/nowhere/else.so')")
    assert "/nowhere/else.so" in said
    said = run("import blaze._library as l; l.ABI_VERSION = 2 << 16; l.load_library()")
    assert "ABI version 1." in said and "needs 2.0" in said
    said = run("import blaze._library as l; l.ABI_VERSION |= 0xffff; l.load_library()")
    assert "needs 1.65535" in said
    assert run("import blaze; blaze.load_library(); blaze.load_library()") == ""
