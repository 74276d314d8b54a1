"""Completion queues: futures that a thread, the host's own polling, or an asyncio loop resolves."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import itertools
import json
import logging
import threading
from collections.abc import Callable
from ctypes import byref, c_int, c_void_p
from typing import Any, Generic, Protocol, TypeVar

from ._abi import DONE, FLAG_MORE, FOREVER, PROGRESS, Event
from ._calls import Frame
from ._core import Core, Json
from ._dtypes import Array
from ._errors import Status, error_of
from ._events import EVENT_SIZE, OwnedEvent, Outputs, collect, copy_event

T = TypeVar("T")
_log = logging.getLogger("blaze")
_BATCH = 256


class Operation(Protocol):
    """What waits for events."""

    def complete(self, owner: OwnedEvent) -> None:
        """The terminal event has come."""

    def progress(self, owner: OwnedEvent) -> None:
        """Some of it is done."""


# Held for a moment, by those who make what a future is waited for with, and those who end one that has nothing of that.
# It can be taken again by its owner, since a signal's handler may come in between.
_making = threading.RLock()
_PENDING, _FINISHED = "PENDING", "FINISHED"


class _ForWaiting:
    """An attribute of a future that is only needed if it is waited for; all are made when one is first asked for."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, future: Future[Any] | None, kind: type | None = None) -> Any:
        if future is None:
            return self
        with _making:
            made = {"_waiters": [], "_done_callbacks": [], "_condition": threading.Condition(), "_waited_for": True}
            if not future._waited_for:
                future.__dict__.update(made)  # which come before this descriptor from now on
        return future.__dict__[self._name]


class Future(concurrent.futures.Future[T], Generic[T]):
    """The result of something that was submitted: a concurrent.futures.Future.

    cancel() gives the work up also while it runs, and is True if that was in time; result(), exception(), add_done_callback(),
    concurrent.futures.wait() and as_completed() are as usual. Callbacks run on the engine's thread for futures (or the one
    that polls): they should be quick.
    """

    # What a future begins with. The base's __init__ is not called: what it makes is made when somebody has to wait.
    _waited_for = False
    _waiters: Any = _ForWaiting()
    _done_callbacks: Any = _ForWaiting()
    _condition: Any = _ForWaiting()
    _state = _PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _on_progress: Callable[[float, str], None] | None = None
    #: The work's ticket.
    ticket = 0

    def __init__(self, core: Core, make: Callable[[OwnedEvent], T], keep: object = None) -> None:
        self._core = core
        self._make = make
        # Until the last event: the caller's output arrays, and the engine, which must not be collected before.
        self._keep = keep

    def _finish(self, result: T) -> None:
        """As set_result, which is only needed if somebody may be waiting."""
        with _making:
            if not self._waited_for:
                self._result = result
                self._state = _FINISHED  # last, since result() looks at it without a lock
                return
        self.set_result(result)

    def result(self, timeout: float | None = None) -> T:
        """Waits for it; raises what it ended with, or TimeoutError after `timeout` seconds."""
        if self._state == _FINISHED and self._exception is None:
            result: T = self._result
            return result
        return super().result(timeout)

    def done(self) -> bool:
        """Whether it has ended, or was cancelled."""
        return self._state != _PENDING

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._state.startswith("CANCELLED")

    def cancel(self) -> bool:
        """Asks for the work to be given up, queued or running. False: it has ended already."""
        if self.done():
            return self.cancelled()
        if self._core.call("cancel", self.ticket):
            return False
        super().cancel()
        return True

    def complete(self, owner: OwnedEvent) -> None:
        """The terminal event: called by the queue that it comes to."""
        try:
            if not owner.status:
                self._finish(self._make(owner))
            elif owner.status == Status.CANCELLED:
                super().cancel()
                self.set_running_or_notify_cancel()
            else:
                self.set_exception(error_of(owner.status, owner.message()))
        except concurrent.futures.InvalidStateError:
            pass  # cancelled in the same moment
        except Exception as error:
            self.set_exception(error)

    def progress(self, owner: OwnedEvent) -> None:
        """An event of progress: called by the queue that it comes to."""
        if self._on_progress is not None:
            self._on_progress(owner.progress, owner.message())


def outputs_of(names: tuple[str, ...], outs: tuple[Array | None, ...] | None) -> Callable[[OwnedEvent], Outputs]:
    """Makes outputs of an event."""
    return lambda owner: collect(owner, names, outs)


def report_of(owner: OwnedEvent) -> Json:
    """The JSON text of an event: a receipt or a report."""
    parsed: Json = json.loads(owner.message() or "{}")
    return parsed


class Completions:
    """A completion queue, and who waits for its events."""

    def __init__(self, core: Core, capacity: int) -> None:
        self.core = core
        self.queue = core.make_queue(capacity)
        self.pending: dict[int, Operation] = {}
        self._ids = itertools.count(1)
        # Of unloads, whose events have no user_data: the operation by its ticket, or the event if that was faster.
        self._by_ticket: dict[int, Operation | OwnedEvent] = {}
        self._lock = threading.Lock()
        # Who polls, until the events are handed on, since they are in memory that the next one writes to.
        self._polling = threading.Lock()
        self._events = (Event * _BATCH)()

    def start(self, operation: Operation, begin: Callable[[int], int]) -> None:
        """`begin(user_data)` submits; what it raises is raised, and nothing waits then."""
        key = next(self._ids)
        self.pending[key] = operation
        try:
            begin(key)
        except BaseException:
            del self.pending[key]
            raise

    def submit(self, frame: Frame, operation: Operation) -> int:
        """As start, for the request in `frame`; returns its ticket."""
        core = self.core
        key = frame.request.user_data = next(self._ids)
        self.pending[key] = operation
        status = -1
        core.calls.append(None)
        try:
            submit = core.functions.submit_large if frame.large else core.functions.submit
            status = submit(core.handle, frame.request_pointer, self.queue, frame.ticket_pointer, frame.error_pointer)
        finally:
            core.calls.pop()
            if status:
                self.pending.pop(key, None)
        if status:
            core.fail(status, frame.error)
        return frame.ticket.value

    def start_by_ticket(self, operation: Operation, begin: Callable[[], int]) -> None:
        """As start, for what has no user_data; `begin` returns the ticket."""
        ticket = begin()
        with self._lock:
            early = self._by_ticket.pop(ticket, None)
            if early is None:
                self._by_ticket[ticket] = operation
        if isinstance(early, OwnedEvent):
            operation.complete(early)

    def poll(self, limit: int) -> int:
        """Takes up to `limit` events without waiting; returns how many there were: 0 also if somebody else does just now."""
        if not self._polling.acquire(False):
            return 0
        taken = 0
        try:
            while taken < limit and (count := self._poll_once(min(limit - taken, _BATCH))):
                self.deliver(self._events, count)
                taken += count
            return taken
        finally:
            self._polling.release()

    def _poll_once(self, capacity: int) -> int:
        core = self.core
        core.calls.append(None)  # so that the queue stays until this has returned
        try:
            count: int = core.functions.poll(self.queue, self._events, EVENT_SIZE, capacity) if core.handle else 0
            return count
        finally:
            core.calls.pop()

    def drain(self) -> None:
        """Takes all events, while the engine is being closed or nobody polls any more, also from inside a callback of poll's."""
        events = (Event * _BATCH)()
        while count := self.core.functions.poll(self.queue, events, EVENT_SIZE, _BATCH):
            self.deliver(events, count)

    def deliver(self, events: ctypes.Array[Event], count: int) -> None:
        """Hands the first `count` events on."""
        origin, pending = self.core.origin, self.pending
        for index in range(count):
            try:
                owner = copy_event(origin, events, index)
                key = owner.user_data
                if not key:
                    self._hand_on_by_ticket(owner)
                    continue
                # Borrowed memory is kept until the last event, which may be another one than the one that ends it.
                operation = pending.get(key) if owner.flags & FLAG_MORE else pending.pop(key, None)
                if operation is None:
                    continue
                if owner.kind == DONE:
                    operation.complete(owner)
                elif owner.kind == PROGRESS:
                    operation.progress(owner)
            except Exception:
                _log.exception("a completion could not be handed on")

    def _hand_on_by_ticket(self, owner: OwnedEvent) -> None:
        with self._lock:
            waiting = self._by_ticket.pop(owner.ticket, None)
            if waiting is None:
                self._by_ticket[owner.ticket] = owner
                return
        assert not isinstance(waiting, OwnedEvent)
        waiting.complete(owner)

    def finish(self) -> None:
        """The engine is shut down: nothing is submitted any more, and every ticket has its event."""
        self.drain()

    def destroy(self) -> bool:
        """Destroys the queue; False: it is still in use, which it is not if the engine is destroyed."""
        if not self.queue:
            return True
        self.drain()
        if self.core.functions.queue_destroy(self.queue):
            return False
        self.queue = c_void_p()
        return True


class Dispatcher(Completions):
    """Completions that a thread of this package's hands on, from the first one that is started; or nobody but poll()."""

    def __init__(self, core: Core, capacity: int, threaded: bool) -> None:
        super().__init__(core, capacity)
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._run, name="blaze-futures", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        wait, queue = self.core.functions.wait, self.queue
        self.core.own_threads.add(threading.get_ident())
        try:
            # It ends when it is woken, or the engine is shut down and nothing is outstanding; `finish` takes the rest.
            while count := wait(queue, self._events, EVENT_SIZE, _BATCH, FOREVER):
                self.deliver(self._events, count)
        finally:
            self.core.own_threads.discard(threading.get_ident())

    def finish(self) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            # An older library has no wake; the shutdown before this ends the wait, too.
            if hasattr(self.core.functions, "queue_wake"):
                self.core.functions.queue_wake(self.queue)
            self._thread.join()
        super().finish()


class LoopCompletions(Completions):
    """Completions that an asyncio loop hands on, by the queue's descriptor."""

    def __init__(self, core: Core, loop: asyncio.AbstractEventLoop, capacity: int) -> None:
        super().__init__(core, capacity)
        self.loop = loop
        self._on_loop = False
        descriptor = c_int(-1)
        core.check(core.functions.queue_fd(self.queue, byref(descriptor)), None, "no descriptor for the queue")
        self._descriptor = descriptor.value
        loop.add_reader(self._descriptor, self._readable)

    def _readable(self) -> None:
        # One batch, then the loop's other work: the descriptor stays readable while events wait.
        self.poll(_BATCH)

    def finish(self) -> None:
        # The reader must go before its descriptor, and only the loop's own thread may take it out.
        if self.loop.is_closed():
            super().finish()
            return
        try:
            running: object = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self.loop or not self.loop.is_running():
            self.loop.remove_reader(self._descriptor)
            super().finish()
            return
        self._on_loop = True
        self.loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self.loop.remove_reader(self._descriptor)
        super().finish()
        super().destroy()

    def destroy(self) -> bool:
        return True if self._on_loop else super().destroy()


class LoopOperation(Generic[T]):
    """A future of asyncio's that waits for a terminal event."""

    __slots__ = ("_keep", "_make", "future")

    def __init__(self, future: asyncio.Future[T], make: Callable[[OwnedEvent], T], keep: object) -> None:
        self.future = future
        self._make = make
        self._keep = keep

    def complete(self, owner: OwnedEvent) -> None:
        """The terminal event has come."""
        if self.future.done():
            return
        if not owner.status:
            self.future.set_result(self._make(owner))
        elif owner.status == Status.CANCELLED:
            self.future.cancel()
        else:
            self.future.set_exception(error_of(owner.status, owner.message()))

    def progress(self, owner: OwnedEvent) -> None:
        """Requests have none."""

