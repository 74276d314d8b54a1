"""Statuses of the C ABI as exceptions, one class for each family."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """What a call came to, as in blaze.h. The hundreds tell the family."""

    OK = 0
    INVALID_ARGUMENT = 100
    NULL_POINTER = 101
    INVALID_STRUCT = 102
    INVALID_CONFIG = 103
    INVALID_NAME = 104
    INVALID_DTYPE = 105
    INVALID_SHAPE = 106
    INVALID_SIZE = 107
    UNSUPPORTED = 108
    NOT_FOUND = 200
    SHUT_DOWN = 201
    BUSY = 202
    CANCELLED = 203
    EXPIRED = 204
    TIMEOUT = 205
    INVALID_STATE = 206
    ALREADY_EXISTS = 207
    QUEUE_FULL = 300
    RATE_LIMITED = 301
    OVER_QUOTA = 302
    OUT_OF_MEMORY = 303
    OVER_BUDGET = 304
    BUFFER_TOO_SMALL = 305
    MODEL_NOT_FOUND = 400
    MODEL_INVALID = 401
    MODEL_UNSUPPORTED = 402
    BACKEND_FAILED = 500
    BACKEND_UNAVAILABLE = 501
    PROVIDER_UNAVAILABLE = 502
    DEVICE_LOST = 503
    INTERNAL = 900


class LibraryError(ImportError):
    """libblaze was not found, or is of another ABI version. The message lists where it was looked for."""


class BlazeError(Exception):
    """A call into Blaze failed.

    status: what it came to; a plain int if this package does not know the number.
    message: the library's sentence.
    retry_after: seconds after which the same call may succeed, for RATE_LIMITED; None: not known.
    """

    def __init__(self, status: int, message: str = "", retry_after: float | None = None) -> None:
        try:
            self.status: int = Status(status)
            name = Status(status).name
        except ValueError:
            self.status = status
            name = f"status {status}"
        self.message = message
        self.retry_after = retry_after
        super().__init__(f"{name}: {message}" if message else name)

    def __reduce__(self) -> tuple[type[BlazeError], tuple[int, str, float | None]]:
        return type(self), (int(self.status), self.message, self.retry_after)


class ArgumentError(BlazeError, ValueError):
    """1xx: an argument is unusable."""


class StateError(BlazeError):
    """2xx: the state of things does not allow it."""


class NotFoundError(StateError, LookupError):
    """NOT_FOUND: no such model, route, target or ticket (any more)."""


class CancelledError(StateError):
    """CANCELLED, where no future or task can say it."""


class DeadlineError(StateError, TimeoutError):
    """EXPIRED (the request's deadline) or TIMEOUT (the call's own time)."""


class CapacityError(BlazeError):
    """3xx: there is no room: try again later, with less, or with a larger limit."""


class ModelError(BlazeError):
    """4xx: the model's file."""


class BackendError(BlazeError):
    """5xx: what runs the model failed, or is not there."""


class InternalError(BlazeError):
    """9xx: a bug in Blaze."""


_FAMILIES: dict[int, type[BlazeError]] = {
    1: ArgumentError,
    2: StateError,
    3: CapacityError,
    4: ModelError,
    5: BackendError,
    9: InternalError,
}
_SINGLE: dict[int, type[BlazeError]] = {
    Status.NOT_FOUND: NotFoundError,
    Status.CANCELLED: CancelledError,
    Status.EXPIRED: DeadlineError,
    Status.TIMEOUT: DeadlineError,
}


def error_of(status: int, message: str = "", retry_after_ns: int = 0) -> BlazeError:
    """The exception for a status that is not OK."""
    kind = _SINGLE.get(status) or _FAMILIES.get(status // 100, BlazeError)
    return kind(status, message, retry_after_ns / 1e9 if retry_after_ns else None)
