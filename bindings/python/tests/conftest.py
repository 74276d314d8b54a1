"""What all tests use: engines, the digits, and models for tests."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blaze
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
MODELS = ROOT / "tests" / "models"
DIGITS = ROOT / "models" / "digits" / "digits.onnx"
RECORDS = np.fromfile(DIGITS.with_name("digits-test.bin"), np.uint8).reshape(-1, 65)
IMAGES = (RECORDS[:, :64].astype(np.float32) / 16).reshape(-1, 1, 8, 8)
LABELS = RECORDS[:, 64]

#: A model that takes as long as asked, and can be interrupted.
SLOW: dict[str, Any] = {"path": str(MODELS / "slow_loop.onnx"), "name": "slow", "warmup": False}
LONG = np.array(10**9, np.int64)


@pytest.fixture
def engine() -> Iterator[blaze.Engine]:
    with blaze.Engine(threads=2) as made:
        yield made


@pytest.fixture
def digits(engine: blaze.Engine) -> blaze.Model:
    return engine.load(DIGITS)


def eventually(what: Callable[[], bool], seconds: float = 20) -> None:
    """Waits until something is so; far longer than it takes, since machines are busy."""
    end = time.monotonic() + seconds
    while not what():
        gc.collect()
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)
