"""The engine's log, handed to Python's logging."""

from __future__ import annotations

import json
import logging
import queue
import threading
from ctypes import byref, c_void_p
from typing import Any

from . import _fork
from ._abi import LOG_FUNCTION, Error
from ._core import Core

_LEVELS = {1: logging.ERROR, 2: logging.WARNING, 3: logging.INFO, 4: logging.DEBUG, 5: 5}


class LogThread:
    """Receives lines and logs them on a thread of its own: handlers may take long and call into Blaze, its callback must not."""

    def __init__(self, core: Core, logger: logging.Logger) -> None:
        self._core = core
        self._logger = logger
        self._lines: queue.SimpleQueue[tuple[int, int, bytes, bytes, bytes | None] | None] = queue.SimpleQueue()
        self._function = LOG_FUNCTION(self._receive)
        self._thread = threading.Thread(target=self._run, name="blaze-log", daemon=True)
        core.functions.prepare_for_callbacks()
        error = Error()
        status = core.call("log_set_callback", self._function, None, byref(error))
        core.check(status, error)
        self._thread.start()

    def _receive(self, _user: c_void_p, record: Any) -> None:
        with _fork.inside_callback:
            line = record.contents
            self._lines.put((line.level, line.time_ns, line.module, line.message, line.fields))

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            level, time_ns, module, message, fields = line
            name = f"{self._logger.name}.{module.decode()}"
            number = _LEVELS.get(level, logging.INFO)
            logger = logging.getLogger(name)
            if not logger.isEnabledFor(number):
                continue
            record = logger.makeRecord(
                name, number, "(blaze)", 0, message.decode("utf-8", "replace"), (), None, None, {"blaze": json.loads(fields or b"{}")}
            )
            record.created = time_ns / 1e9
            record.msecs = time_ns // 1_000_000 % 1000
            logger.handle(record)

    def finish(self) -> None:
        """The engine goes away; lines come until it has."""

    def destroy(self) -> None:
        """It has: what was received is logged, and the thread ends."""
        self._lines.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()
