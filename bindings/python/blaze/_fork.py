"""What keeps the library safe from Python's own surprises: fork, and garbage collection inside a callback."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from typing import Any

from ._abi import Event

#: Counts the forks that this process descends from. What was made in another generation must not be touched.
generation = 0

#: `active` is set on a thread that is inside a callback of the library's, from which nothing of it may be called.
callback = threading.local()
# The library's own threads come into a callback without the flag, which the callbacks set; see `inside_callback`.

_deferred: deque[tuple[Any, Event]] = deque()


class InsideCallback:
    """`with inside_callback:` around the body of every callback."""

    def __enter__(self) -> None:
        callback.active = True

    def __exit__(self, *_: object) -> None:
        callback.active = False


inside_callback = InsideCallback()


def in_callback() -> bool:
    """Whether the calling thread is inside a callback of the library's."""
    return getattr(callback, "active", False)


def call_or_defer(release: Any, owner: Any) -> None:
    """Releases an event, now or, inside a callback, with the next one that is released outside.

    The event is copied for that, since its owner may be going away.
    """
    if in_callback():
        copy = Event()
        ctypes.memmove(ctypes.addressof(copy), ctypes.addressof(owner), ctypes.sizeof(Event))
        owner.internal = None
        _deferred.append((release, copy))
        return
    release(ctypes.addressof(owner))
    owner.internal = None
    while _deferred:
        try:
            later, event = _deferred.popleft()
        except IndexError:
            return
        later(ctypes.addressof(event))


def _after_in_child() -> None:
    global generation
    generation += 1
    _deferred.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_in_child)
