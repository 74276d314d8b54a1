"""The C ABI: structs, numbers and functions of include/blaze.h. Tests compare the layouts with the header's."""

from __future__ import annotations

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any

#: The interface version that this package was written for: major << 16 | minor.
ABI_VERSION = 65536

DONE = 1
PROGRESS = 2
BUFFERS_RELEASED = 4
FLAG_MORE = 1
FOREVER = 2**64 - 1
BUDGET_UNLIMITED = 2**64 - 1


class Error(Structure):
    _fields_ = [("status", c_int32), ("message", c_char * 1012), ("retry_after_ns", c_uint64)]


class String(Structure):
    _fields_ = [("data", c_void_p), ("size_bytes", c_size_t)]


class Tensor(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_uint32),
        ("name", c_char_p),
        ("shape", c_void_p),
        ("rank", c_uint32),
        ("memory", c_uint32),
        ("device", c_int32),
        ("reserved", c_uint32),
        ("data", c_void_p),
        ("size_bytes", c_size_t),
    ]


class Timing(Structure):
    _fields_ = [
        ("queued_ns", c_uint64),
        ("batched_ns", c_uint64),
        ("computed_ns", c_uint64),
        ("batch_rows", c_uint32),
        ("reserved", c_uint32),
    ]


class Event(Structure):
    __slots__ = ()  # no dictionary: one is made for each request
    _fields_ = [
        ("struct_size", c_uint32),
        ("kind", c_uint32),
        ("status", c_int32),
        ("flags", c_uint32),
        ("ticket", c_uint64),
        ("user_data", c_uint64),
        ("model", c_uint64),
        ("timing", Timing),
        ("text", c_void_p),
        ("text_bytes", c_size_t),
        ("progress", c_float),
        ("outputs_count", c_uint32),
        ("internal", c_void_p),
    ]


class Request(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("model", c_uint64),
        ("priority", c_int32),
        ("reserved", c_uint32),
        ("deadline_ns", c_uint64),
        ("session_id", c_uint64),
        ("tenant_id", c_uint64),
        ("user_data", c_uint64),
        ("inputs", c_void_p),
        ("outputs", c_void_p),
        ("inputs_count", c_uint32),
        ("outputs_count", c_uint32),
        ("route_key", c_uint64),
    ]


class RouteTarget(Structure):
    _fields_ = [
        ("model", c_char_p),
        ("in_flight", c_uint32),
        ("weight", c_uint32),
        ("latency_ns", c_uint64),
        ("failing_share", c_float),
        ("load", c_float),
    ]


class RouteChoice(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("target_stride", c_uint32),
        ("targets", c_void_p),
        ("targets_count", c_uint32),
        ("reserved", c_uint32),
        ("session_id", c_uint64),
        ("tenant_id", c_uint64),
        ("route_key", c_uint64),
        ("now_ns", c_uint64),
    ]


class HealthInfo(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("state", c_uint32),
        ("accepting", c_uint32),
        ("models_ready", c_uint32),
        ("models_degraded", c_uint32),
        ("models_failed", c_uint32),
        ("queue_depth", c_uint64),
        ("in_flight", c_uint64),
        ("memory_bytes", c_uint64),
        ("live", c_uint32),
        ("ready", c_uint32),
        ("models_slow", c_uint32),
        ("reserved", c_uint32),
    ]


class Quantiles(Structure):
    _fields_ = [("p50_ns", c_uint64), ("p90_ns", c_uint64), ("p99_ns", c_uint64), ("p999_ns", c_uint64)]


class MetricsInfo(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("requests_accepted", c_uint64),
        ("requests_rejected", c_uint64),
        ("requests_ok", c_uint64),
        ("requests_failed", c_uint64),
        ("requests_cancelled", c_uint64),
        ("requests_expired", c_uint64),
        ("requests_shut_down", c_uint64),
        ("batches", c_uint64),
        ("rows", c_uint64),
        ("in_flight", c_uint64),
        ("queue_depth", c_uint64),
        ("memory_bytes", c_uint64),
        ("duration", Quantiles),
        ("duration_max_ns", c_uint64),
        ("queued", Quantiles),
        ("computed", Quantiles),
        ("batch_wait", Quantiles),
        ("copied", Quantiles),
        ("events_waiting", c_uint64),
        ("evictions", c_uint64),
        ("model_misses", c_uint64),
    ]


class LogRecord(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("level", c_uint32),
        ("time_ns", c_uint64),
        ("module", c_char_p),
        ("message", c_char_p),
        ("fields", c_char_p),
    ]


#: The C name of each struct, for the test of layouts.
STRUCTS: dict[str, type[Structure]] = {
    "blaze_error": Error,
    "blaze_string": String,
    "blaze_tensor": Tensor,
    "blaze_timing": Timing,
    "blaze_event": Event,
    "blaze_request": Request,
    "blaze_route_target": RouteTarget,
    "blaze_route_choice": RouteChoice,
    "blaze_health_info": HealthInfo,
    "blaze_quantiles": Quantiles,
    "blaze_metrics_info": MetricsInfo,
    "blaze_log_record": LogRecord,
}

LOG_FUNCTION = CFUNCTYPE(None, c_void_p, POINTER(LogRecord))
STRATEGY_PICK = CFUNCTYPE(c_uint32, c_void_p, POINTER(RouteChoice))

_P = c_void_p
_STATUS = c_int32
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "blaze_status_name": (c_char_p, [c_int32]),
    "blaze_abi_version": (c_uint32, []),
    "blaze_version": (c_char_p, []),
    "blaze_now_ns": (c_uint64, []),
    "blaze_engine_create": (_STATUS, [c_char_p, _P, _P]),
    "blaze_engine_set_budget": (_STATUS, [_P, c_uint64]),
    "blaze_engine_trim": (_STATUS, [_P]),
    "blaze_engine_shutdown": (_STATUS, [_P, c_uint64]),
    "blaze_engine_destroy": (None, [_P]),
    "blaze_pump": (_STATUS, [_P, c_uint64, _P]),
    "blaze_model_load": (_STATUS, [_P, c_char_p, _P, _P]),
    "blaze_model_load_memory": (_STATUS, [_P, c_char_p, _P, c_size_t, _P, _P]),
    "blaze_model_load_async": (_STATUS, [_P, c_char_p, _P, c_uint64, _P, _P]),
    "blaze_model_find": (_STATUS, [_P, c_char_p, _P]),
    "blaze_model_info": (_STATUS, [_P, c_uint64, _P, c_size_t, _P]),
    "blaze_model_unload": (_STATUS, [_P, c_uint64, _P, _P]),
    "blaze_model_configure": (_STATUS, [_P, c_uint64, c_char_p, _P]),
    "blaze_repository_rescan": (_STATUS, [_P, _P, c_uint64, _P, _P]),
    "blaze_route_create": (_STATUS, [_P, c_char_p, _P, _P]),
    "blaze_route_info": (_STATUS, [_P, c_uint64, _P, c_size_t, _P]),
    "blaze_route_update": (_STATUS, [_P, c_uint64, c_char_p, _P]),
    "blaze_route_destroy": (_STATUS, [_P, c_uint64]),
    "blaze_route_target_add": (_STATUS, [_P, c_uint64, c_char_p, _P]),
    "blaze_route_target_remove": (_STATUS, [_P, c_uint64, c_char_p]),
    "blaze_route_target_drain": (_STATUS, [_P, c_uint64, c_char_p, c_uint32]),
    "blaze_tenant_set": (_STATUS, [_P, c_char_p, _P]),
    "blaze_strategy_register": (_STATUS, [_P, c_char_p, STRATEGY_PICK, _P, _P]),
    "blaze_event_output": (_STATUS, [_P, c_uint32, _P]),
    "blaze_event_release": (None, [_P]),
    "blaze_submit": (_STATUS, [_P, _P, _P, _P, _P]),
    "blaze_infer": (_STATUS, [_P, _P, c_uint64, _P, _P]),
    "blaze_cancel": (_STATUS, [_P, c_uint64]),
    "blaze_queue_create": (_STATUS, [_P, c_uint32, _P, _P]),
    "blaze_queue_destroy": (_STATUS, [_P]),
    "blaze_poll": (c_uint32, [_P, _P, c_size_t, c_uint32]),
    "blaze_wait": (c_uint32, [_P, _P, c_size_t, c_uint32, c_uint64]),
    "blaze_queue_fd": (_STATUS, [_P, POINTER(c_int)]),
    "blaze_queue_wake": (_STATUS, [_P]),
    "blaze_health": (_STATUS, [_P, _P]),
    "blaze_health_json": (_STATUS, [_P, _P, c_size_t, _P]),
    "blaze_metrics": (_STATUS, [_P, _P]),
    "blaze_metrics_text": (_STATUS, [_P, c_uint32, _P, c_size_t, _P]),
    "blaze_advice_json": (_STATUS, [_P, _P, c_size_t, _P]),
    "blaze_log_configure": (_STATUS, [_P, c_char_p, _P]),
    "blaze_log_set_callback": (_STATUS, [_P, LOG_FUNCTION, _P, _P]),
    "blaze_profile_start": (_STATUS, [_P, c_char_p, _P]),
    "blaze_profile_stop": (_STATUS, [_P, _P]),
    "blaze_profile_report": (_STATUS, [_P, c_uint32, _P, c_size_t, _P, _P]),
    "blaze_tune": (_STATUS, [_P, c_char_p, _P, c_uint64, _P, _P]),
    "blaze_tune_report": (_STATUS, [_P, _P, c_size_t, _P]),
}

#: In the header, but not in an older library of the same major version.
_OPTIONAL = {"blaze_queue_wake"}

#: Called with the GIL held, since that is faster. Only what takes no lock and calls nobody back may be here: a thread of
#: the engine's that holds a lock may be waiting for the GIL in a callback (logs, strategies).
_WITH_GIL = {"blaze_event_output", "blaze_now_ns", "blaze_status_name", "blaze_abi_version", "blaze_version"}

#: Never block, but take locks. They are called with the GIL held until there is a callback in this process, and without
#: it from then on. To let the GIL go for a microsecond costs many of them if another thread wants it.
_WITH_GIL_AT_FIRST = {"blaze_submit", "blaze_poll", "blaze_event_release"}


#: What every request calls. ctypes is not told what their arguments are, since it takes longer to look at them than the calls
#: take: pointers are handed over by byref, and numbers of 64 bits as c_uint64.
_UNCHECKED = {"blaze_submit", "blaze_infer", "blaze_event_output", "blaze_event_release"}


class Functions:
    """The library's functions without their prefix: `functions.submit` is blaze_submit.

    `functions.submit_large` is, too, and never holds the GIL: it copies the inputs.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        #: Whether there is a callback in this process.
        self.callbacks = False
        self._released = ctypes.CDLL(path)
        self._held = ctypes.PyDLL(path)
        for name in _SIGNATURES:
            try:
                self._set(name, self._held if name in _WITH_GIL or name in _WITH_GIL_AT_FIRST else self._released)
            except AttributeError:
                if name not in _OPTIONAL:
                    raise
        self.submit_large = self._typed("blaze_submit", self._released)

    def _typed(self, name: str, library: ctypes.CDLL) -> Any:
        function = library[name]
        function.restype, arguments = _SIGNATURES[name]
        if name not in _UNCHECKED:
            function.argtypes = arguments
        return function

    def _set(self, name: str, library: ctypes.CDLL) -> None:
        setattr(self, name.removeprefix("blaze_"), self._typed(name, library))

    def prepare_for_callbacks(self) -> None:
        """To be called before the library is given a function of Python's."""
        self.callbacks = True
        for name in _WITH_GIL_AT_FIRST:
            self._set(name, self._released)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self.path} has no blaze_{name}")


_SHAPES: list[Any] = [c_int64 * rank for rank in range(33)]


def shape_type(rank: int) -> Any:
    """The array type of a shape with so many axes."""
    return _SHAPES[rank] if rank < len(_SHAPES) else c_int64 * rank
