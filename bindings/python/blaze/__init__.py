"""Blaze: an AI inference engine inside the process. Numpy arrays in, numpy arrays out.

    import blaze

    with blaze.Engine() as engine:
        digits = engine.load("models/digits/digits.onnx")
        probabilities = digits(image)            # waits; or
        future = digits.submit(image)            # a concurrent.futures.Future; or
        outputs = await digits.infer_async(image)

Everything is thread-safe. include/blaze.h is the reference for configuration and statuses.
"""

from ._abi import HealthInfo, MetricsInfo
from ._calls import Input, Out
from ._engine import Choice, Config, Engine, Strategy, Target
from ._errors import (
    ArgumentError,
    BackendError,
    BlazeError,
    CancelledError,
    CapacityError,
    DeadlineError,
    InternalError,
    LibraryError,
    ModelError,
    NotFoundError,
    StateError,
    Status,
)
from ._events import Outputs, Timing
from ._futures import Future
from ._library import load_library
from ._model import Model, Prepared, Route

__version__ = "0.1.0"


def library_version() -> str:
    """The version of libblaze, which is loaded if it was not."""
    version: bytes = load_library().version()
    return version.decode()


__all__ = [
    "ArgumentError",
    "BackendError",
    "BlazeError",
    "CancelledError",
    "CapacityError",
    "Choice",
    "Config",
    "DeadlineError",
    "Engine",
    "Future",
    "HealthInfo",
    "Input",
    "InternalError",
    "LibraryError",
    "MetricsInfo",
    "Model",
    "ModelError",
    "NotFoundError",
    "Out",
    "Outputs",
    "Prepared",
    "Route",
    "StateError",
    "Status",
    "Strategy",
    "Target",
    "Timing",
    "library_version",
    "load_library",
]
