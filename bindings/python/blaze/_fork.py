"""What keeps the library safe from Python's own surprises: fork, and garbage collection inside a callback."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from ._abi import Event, Functions

#: Counts the forks that this process descends from. What was made in another generation must not be touched.
generation = 0

#: How many threads are inside a callback of the library's, from which nothing of it may be called.
callbacks = 0

_inside = threading.local()
_lock = threading.Lock()

#: Events whose last array went away inside a callback.
deferred: deque[Event] = deque()


class InsideCallback:
    """`with inside_callback:` around the body of every callback."""

    def __enter__(self) -> None:
        global callbacks
        with _lock:
            callbacks += 1
        _inside.active = True

    def __exit__(self, *_: object) -> None:
        global callbacks
        _inside.active = False
        with _lock:
            callbacks -= 1


inside_callback = InsideCallback()


def in_callback() -> bool:
    """Whether the calling thread is inside a callback of the library's."""
    return getattr(_inside, "active", False)


def release(functions: Functions, owner: Event) -> None:
    """Releases an event, now or, inside a callback, with the next one that is released outside.

    The event is copied for that, since its owner may be going away.
    """
    if in_callback():
        copy = Event.from_buffer_copy(owner)
        owner.internal = None
        deferred.append(copy)
        return
    functions.event_release(ctypes.byref(owner))
    while deferred:
        try:
            event = deferred.popleft()
        except IndexError:
            return
        functions.event_release(ctypes.byref(event))


def _after_in_child() -> None:
    global generation, callbacks, _lock
    generation += 1
    callbacks = 0
    _lock = threading.Lock()
    deferred.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_in_child)
