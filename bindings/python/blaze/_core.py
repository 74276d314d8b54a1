"""An engine's pointer: who may use it, how it goes away, and calls that every part makes."""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
import weakref
from collections.abc import Mapping
from ctypes import byref, c_size_t, c_uint64, c_void_p, sizeof
from typing import Any, NoReturn

from . import _fork
from ._abi import FOREVER, Error, Event, Functions
from ._errors import Status, error_of
from ._events import Origin, OwnedEvent, copy_event

Json = dict[str, Any]


def to_json(config: str | Mapping[str, Any]) -> bytes:
    """Configuration as the library takes it: a JSON text, or what becomes one."""
    return (config if isinstance(config, str) else json.dumps(config)).encode()


def nanoseconds(seconds: float | None) -> int:
    """A time to wait; None: for ever."""
    if seconds is None:
        return FOREVER
    return min(max(int(seconds * 1e9), 0), FOREVER - 1)


class Core:
    """An engine as the parts of this package share it.

    `handle` is NULL once the engine is closed or the process is a fork's child, so that calls fail and touch nothing.
    `calls` has an element for each call that is under way: closing waits for it to become empty, because destroying an engine
    is exclusive. (append and pop of a list are atomic, and cost less than a lock.)
    """

    def __init__(self, functions: Functions, config: bytes | None) -> None:
        self.functions = functions
        self.origin = Origin(functions)
        self.handle = c_void_p()
        self.calls: list[None] = []
        self.lock = threading.Lock()
        self.closers: list[Any] = []
        self.keep: list[Any] = []
        self.closing = False
        self.why_closed = "the engine is closed"
        self.own_threads: set[int] = set()
        error = Error()
        self.check(functions.engine_create(config, byref(self.handle), byref(error)), error)
        _cores.add(self)

    # -- errors -----------------------------------------------------------------------------------------------------

    def fail(self, status: int, error: Error | None = None, message: str = "") -> NoReturn:
        """Raises what a status means."""
        if status == Status.NULL_POINTER and not self.handle:
            raise error_of(Status.INVALID_STATE if self.origin.generation != _fork.generation else Status.SHUT_DOWN, self.why_closed)
        if error is not None and error.status == status:
            raise error_of(status, error.message.decode("utf-8", "replace"), error.retry_after_ns)
        raise error_of(status, message)

    def check(self, status: int, error: Error | None = None, message: str = "") -> None:
        """Raises what a status means, if it is not OK."""
        if status:
            self.fail(status, error, message)

    # -- calls ------------------------------------------------------------------------------------------------------

    def call(self, name: str, *arguments: Any) -> int:
        """A function with the engine as its first argument; its status."""
        self.calls.append(None)
        try:
            status: int = getattr(self.functions, name)(self.handle, *arguments)
            return status
        finally:
            self.calls.pop()

    def do(self, name: str, *arguments: Any, message: str = "") -> None:
        """As call; a status that is not OK is raised."""
        self.check(self.call(name, *arguments), None, message)

    def do_with_error(self, name: str, *arguments: Any) -> None:
        """As do, for a function whose last argument is a blaze_error."""
        error = Error()
        self.check(self.call(name, *arguments, byref(error)), error)

    def text(self, name: str, *arguments: Any, with_error: bool = False) -> str:
        """A text by the two-call pattern, again if it has grown in between."""
        error = Error()
        last = (byref(error),) if with_error else ()
        capacity, needed = 4096, c_size_t()
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            status = self.call(name, *arguments, buffer, c_size_t(capacity), byref(needed), *last)
            if status != Status.BUFFER_TOO_SMALL:
                self.check(status, error)
                return buffer.value.decode("utf-8", "replace")
            capacity = needed.value + needed.value // 4 + 64

    def json(self, name: str, *arguments: Any, with_error: bool = False) -> Json:
        """As text, parsed."""
        parsed: Json = json.loads(self.text(name, *arguments, with_error=with_error))
        return parsed

    # -- queues -----------------------------------------------------------------------------------------------------

    def make_queue(self, capacity: int) -> c_void_p:
        """A completion queue of this engine."""
        queue = c_void_p()
        self.do_with_error("queue_create", capacity, byref(queue))
        return queue

    def job(self, start: Any) -> OwnedEvent:
        """Does a long piece of work and waits for it: `start(queue, ticket)` begins it; its terminal event is returned."""
        queue = self.make_queue(4)
        ticket = c_uint64()
        events = (Event * 1)()
        self.calls.append(None)
        try:
            start(queue, byref(ticket))
            while True:
                if self.functions.wait(queue, events, sizeof(Event), 1, FOREVER):
                    owner = copy_event(self.origin, events, 0)
                    if not owner.flags & 1:
                        return owner
                    owner.release()
        finally:
            self.calls.pop()
            self.functions.queue_destroy(queue)

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self, drain_ns: int = 0) -> None:
        """Shuts down, waits for calls that are under way, and destroys. The second time it does nothing.

        On a thread that must not wait for itself (that of the futures, or one that is in a callback) another thread does it.
        """
        with self.lock:
            if self.closing or self.origin.generation != _fork.generation:
                return
            self.closing = True
        if _fork.in_callback() or threading.get_ident() in self.own_threads:
            threading.Thread(target=self._close, args=(drain_ns,), name="blaze-close").start()
        else:
            self._close(drain_ns)

    def _close(self, drain_ns: int) -> None:
        engine = c_void_p(self.handle.value)
        self.functions.engine_shutdown(engine, drain_ns)
        for closer in self.closers:
            closer.finish()
        self.handle.value = None
        while self.calls:
            time.sleep(0.0005)
        self.functions.engine_destroy(engine)
        for closer in self.closers:
            closer.destroy()
        self.closers.clear()
        self.keep.clear()


_cores: weakref.WeakSet[Core] = weakref.WeakSet()


def _after_in_child() -> None:
    # Threads and locks of the parent are gone: nothing of its engines may be touched, not even to free it.
    for core in list(_cores):
        core.handle.value = None
        core.why_closed = "the engine belongs to the parent of this process (fork); make another one"
        core.closing = True
        core.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_in_child)
