"""Engines: models, routes, tenants, and what can be asked of them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from ctypes import POINTER, byref, c_uint32, c_uint64, cast, sizeof
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from . import _fork
from ._abi import BUDGET_UNLIMITED, STRATEGY_PICK, HealthInfo, MetricsInfo, RouteChoice, RouteTarget
from ._core import Core, Json, nanoseconds, to_json
from ._errors import ArgumentError, Status, error_of
from ._futures import Dispatcher, Future, LoopCompletions, report_of
from ._library import load_library
from ._logs import LogThread
from ._model import Model, Route

Config = str | Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """A target that a strategy may pick: see Engine.register_strategy."""

    model: str
    in_flight: int
    weight: int
    latency_ns: int
    failing_share: float
    load: float


@dataclass(frozen=True)
class Choice:
    """What a strategy picks for."""

    session: int
    tenant: int
    route_key: int
    now_ns: int


Strategy = Callable[[list[Target], Choice], int]


def _close(core: Core) -> None:
    core.close()


class Engine:
    """An engine: `with Engine(threads=2) as engine: ...`, or close() it, or leave that to the garbage collector or the exit.

    config: the configuration as a mapping or JSON text, and keys of it by name; see blaze_engine_create.
    library: the path of libblaze; by default BLAZE_LIBRARY, beside this package, the system's loader.
    in_flight: how many requests of submit (and of infer_async in each event loop) may be unfinished at once.
    manual: futures are resolved by poll() and pump() on the calling thread rather than by a thread of this package's. It is the
    default for an engine with "threads": 0, whose futures would otherwise wait for a pump that nobody calls.

    After a fork, engines of the parent raise StateError (INVALID_STATE) in the child; arrays that came from them stay readable.
    A child can make engines of its own if the parent had loaded no model of ONNX Runtime's; the start methods "spawn" and
    "forkserver" of multiprocessing always work.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        library: str | os.PathLike[str] | None = None,
        in_flight: int = 16384,
        manual: bool | None = None,
        **keys: Any,
    ) -> None:
        functions = load_library(library)
        if config is not None and keys:
            config = {**(json.loads(config) if isinstance(config, str) else config), **keys}
        elif keys:
            config = keys
        parsed: Any = (json.loads(config) if isinstance(config, str) else config) if manual is None and config is not None else {}
        self._core = Core(functions, None if config is None else to_json(config))
        self._in_flight = in_flight
        self._manual = (isinstance(parsed, Mapping) and parsed.get("threads") == 0) if manual is None else manual
        self._lock = threading.Lock()
        self._futures: Dispatcher | None = None
        self._loops: list[LoopCompletions] = []
        self._finalizer = weakref.finalize(self, _close, self._core)

    # -- the end ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def shutdown(self, drain: float = 0.0) -> None:
        """Stops taking work in; what ends within `drain` seconds ends as usual, the rest as SHUT_DOWN."""
        self._core.do("engine_shutdown", nanoseconds(drain))

    def close(self, drain: float = 0.0) -> None:
        """Shuts down and frees everything but arrays that are in use. Other threads' calls end first.

        From a callback of a future it returns at once, and another thread does it.
        """
        self._core.close(nanoseconds(drain))
        self._loops.clear()

    @property
    def closed(self) -> bool:
        """Whether close() was called, or the engine belongs to the parent of this process."""
        return self._core.closing

    def __repr__(self) -> str:
        return f"<blaze.Engine{' closed' if self.closed else ''}>"

    # -- models -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _model_config(source: Any, keys: dict[str, Any]) -> tuple[bytes, bytes | None]:
        """The configuration, and the model's bytes if it is given from memory."""
        if isinstance(source, Mapping):
            return to_json({**source, **keys}), None
        if isinstance(source, (bytes, bytearray, memoryview)):
            return to_json(keys), bytes(source)
        if isinstance(source, str) and source.lstrip().startswith("{"):
            return to_json({**json.loads(source), **keys} if keys else source), None
        if source is None:
            return to_json(keys), None
        path = os.fspath(source)
        return to_json({"name": Path(path).stem, "path": path, **keys}), None

    def load(self, source: Config | os.PathLike[str] | bytes | None = None, **keys: Any) -> Model:
        """Loads a model and waits for it.

        source: a path (the name is the file's, unless `name` is given), the model's bytes, or its configuration; more keys of
        that by name, as in `load("digits.onnx", lanes=2, batching={"max_rows": 32})`. See blaze_model_load.
        """
        config, data = self._model_config(source, keys)
        handle = c_uint64()
        if data is None:
            self._core.do_with_error("model_load", config, byref(handle))
        else:
            self._core.do_with_error("model_load_memory", config, data, len(data), byref(handle))
        return Model(self, handle.value, json.loads(config).get("name"))

    def load_async(
        self, source: Config | os.PathLike[str] | None = None, *, on_progress: Callable[[float, str], None] | None = None, **keys: Any
    ) -> Future[Model]:
        """As load, in the background; cancel() of the future stops it at any point.

        on_progress: called with how far it has come (0 to 1) and what comes next, like a future's callbacks.
        """
        if on_progress is not None:
            keys["progress"] = True
        config, data = self._model_config(source, keys)
        if data is not None:
            raise ArgumentError(Status.UNSUPPORTED, "a model from memory is loaded with load()")
        name = json.loads(config).get("name")
        future: Future[Model] = Future(self._core, lambda owner: Model(self, owner.model, name), self)
        future._on_progress = on_progress
        self._start(future, "model_load_async", config)
        return future

    def _start(self, future: Future[Any], function: str, *arguments: Any) -> None:
        """Begins what ends with an event: the functions that take a queue, user_data, and where the ticket goes."""
        dispatcher = self._dispatcher()

        def begin(number: int) -> int:
            ticket = c_uint64()
            self._core.do_with_error(function, *arguments, dispatcher.queue, number, byref(ticket))
            future.ticket = ticket.value
            return 0

        dispatcher.start(future, begin)

    def find(self, name: str) -> Model:
        """A loaded model or a route, by "name" or "name:version". Raises NotFoundError."""
        handle = c_uint64()
        self._core.do("model_find", name.encode(), byref(handle), message=name)
        model = Model(self, handle.value, name)
        return Route(self, handle.value, name) if "targets" in model.info() else model

    def rescan(self) -> Json:
        """Reads the repository again; returns the report: see blaze_repository_rescan."""
        return self._wait_for("repository_rescan")

    def _wait_for(self, function: str, *arguments: Any) -> Json:
        owner = self._core.job(
            lambda queue, ticket: self._core.do_with_error(function, *arguments, queue, 1, ticket)
        )
        if owner.status:
            raise error_of(owner.status, owner.message())
        return report_of(owner)

    # -- routes and tenants -------------------------------------------------------------------------------------------

    def route(self, config: Config | None = None, **keys: Any) -> Route:
        """Makes a route: `route(name="any", targets=[{"model": "a"}, {"model": "b"}])`. See blaze_route_create."""
        text = to_json(keys if config is None else config)
        handle = c_uint64()
        self._core.do_with_error("route_create", text, byref(handle))
        return Route(self, handle.value, json.loads(text).get("name"))

    def set_tenant(self, config: Config | None = None, **keys: Any) -> None:
        """Makes or changes a tenant: `set_tenant(id=7, weight=2, limits={...})`. See blaze_tenant_set."""
        self._core.do_with_error("tenant_set", to_json(keys if config is None else config))

    def register_strategy(self, name: str, pick: Strategy) -> None:
        """Makes a strategy known for routes that are made from now on.

        pick: gets the targets and the choice, and returns a place in the list. It is called by several threads at once, must be
        quick (it holds the GIL), and must not call into Blaze. If it raises, that is logged, and the first target is taken.
        """

        def call(_user: Any, pointer: Any) -> int:
            with _fork.inside_callback:
                try:
                    return int(pick(*_choice_of(pointer.contents)))
                except Exception:
                    logging.getLogger("blaze").exception("strategy %s", name)
                    return 0

        function = STRATEGY_PICK(call)
        self._core.keep.append(function)
        self._core.functions.prepare_for_callbacks()
        self._core.do_with_error("strategy_register", name.encode(), function, None)

    # -- work on the host's threads -----------------------------------------------------------------------------------

    def pump(self, budget: float) -> int:
        """Works for `budget` seconds on this thread, for an engine with "threads": 0, and resolves futures that are done.

        Returns the pieces of work done.
        """
        did = c_uint32()
        self._core.do("pump", nanoseconds(budget), byref(did), message="the engine has threads of its own")
        if self._manual:
            self.poll()
        return did.value

    def poll(self, limit: int = 2**32) -> int:
        """Resolves up to `limit` futures that are done, on this thread, if the engine was made with manual=True; how many."""
        return self._futures.poll(limit) if self._futures is not None and self._manual else 0

    def _dispatcher(self) -> Dispatcher:
        if self._futures is None:
            with self._lock:
                if self._futures is None:
                    dispatcher = Dispatcher(self._core, self._in_flight, not self._manual)
                    self._core.closers.append(dispatcher)
                    self._futures = dispatcher
        return self._futures

    def _loop_completions(self, loop: asyncio.AbstractEventLoop) -> LoopCompletions | None:
        """The queue of an event loop; None if the loop cannot watch descriptors."""
        for completions in self._loops:
            if completions.loop is loop:
                return completions
        with self._lock:
            for gone in [completions for completions in self._loops if completions.loop.is_closed()]:
                self._loops.remove(gone)
                if gone.destroy():  # or else when the engine is closed: requests of the loop's are still under way
                    self._core.closers.remove(gone)
            try:
                completions = LoopCompletions(self._core, loop, self._in_flight)
            except NotImplementedError:
                return None
            self._core.closers.append(completions)
            self._loops.append(completions)
            return completions

    # -- health, metrics, memory --------------------------------------------------------------------------------------

    def health(self) -> Json:
        """Everything about how it is: see blaze_health_json."""
        return self._core.json("health_json")

    def health_info(self) -> HealthInfo:
        """The numbers only, which is faster: a blaze_health_info."""
        info = HealthInfo()
        info.struct_size = sizeof(HealthInfo)
        self._core.do("health", byref(info))
        return info

    def metrics(self) -> MetricsInfo:
        """Counters and quantiles: a blaze_metrics_info."""
        info = MetricsInfo()
        info.struct_size = sizeof(MetricsInfo)
        self._core.do("metrics", byref(info))
        return info

    def metrics_text(self) -> str:
        """For Prometheus."""
        return self._core.text("metrics_text", c_uint32(1))

    def metrics_json(self) -> Json:
        """The same as JSON, with models."""
        return self._core.json("metrics_text", c_uint32(2))

    def trends(self) -> Json:
        """The main series of the last seconds, minutes and hours."""
        return self._core.json("metrics_text", c_uint32(3))

    def advice(self) -> Json:
        """What holds it back, and what to do about it: see blaze_advice_json."""
        return self._core.json("advice_json")

    def set_budget(self, budget_bytes: int | None) -> None:
        """Changes "memory.budget_bytes"; None: no limit."""
        self._core.do("engine_set_budget", BUDGET_UNLIMITED if budget_bytes is None else budget_bytes)

    def trim(self) -> None:
        """Gives memory back that is kept for later."""
        self._core.do("engine_trim")

    # -- logs, profiles, tuning ---------------------------------------------------------------------------------------

    def log_to(self, logger: logging.Logger | str = "blaze", level: str = "warn", **keys: Any) -> None:
        """Has what the engine says logged by Python, as children of `logger` for its modules, on a thread of its own.

        level, keys: as of blaze_log_configure. A record has the fields in its attribute `blaze`. Once for each engine. What is
        said before, while the engine is made and loads models, comes too if it was made with `log={"target": "callback"}`.
        """
        if isinstance(logger, str):
            logger = logging.getLogger(logger)
        thread = LogThread(self._core, logger)
        self._core.closers.append(thread)
        self.configure_log(level=level, target="callback", **keys)

    def configure_log(self, config: Config | None = None, **keys: Any) -> None:
        """Changes what is logged, and where: see blaze_log_configure."""
        self._core.do_with_error("log_configure", to_json(keys if config is None else config))

    def profile_start(self, config: Config | None = None, **keys: Any) -> None:
        """Begins to profile: `profile_start(level="detailed")`. See blaze_profile_start."""
        self._core.do_with_error("profile_start", to_json(keys if config is None else config))

    def profile_stop(self) -> None:
        """Stops profiling; reports can be made until the next start."""
        self._core.do_with_error("profile_stop")

    def profile_report(self, form: str = "json") -> str:
        """What was recorded: "json", "trace" (for Perfetto) or "html"."""
        number = {"json": 1, "trace": 2, "html": 3}.get(form)
        if number is None:
            raise ArgumentError(Status.INVALID_ARGUMENT, f"there is no report {form!r}")
        return self._core.text("profile_report", c_uint32(number), with_error=True)

    def tune(self, config: Config | None = None, **keys: Any) -> Json:
        """Searches the best settings of a model and waits; returns the report: see blaze_tune."""
        return self._wait_for("tune", to_json(keys if config is None else config))

    def tune_async(self, config: Config | None = None, **keys: Any) -> Future[Json]:
        """As tune; cancel() of the future ends the search."""
        future: Future[Json] = Future(self._core, report_of, self)
        self._start(future, "tune", to_json(keys if config is None else config))
        return future

    def tune_report(self) -> Json:
        """What tuning has found: see blaze_tune_report."""
        return self._core.json("tune_report")


def _choice_of(choice: RouteChoice) -> tuple[list[Target], Choice]:
    targets = []
    for index in range(choice.targets_count):
        target = cast(choice.targets + index * choice.target_stride, POINTER(RouteTarget)).contents
        targets.append(
            Target(
                (target.model or b"").decode(),
                target.in_flight,
                target.weight,
                target.latency_ns,
                target.failing_share,
                target.load,
            )
        )
    return targets, Choice(choice.session_id, choice.tenant_id, choice.route_key, choice.now_ns)


