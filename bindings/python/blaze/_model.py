"""Models and routes: what requests go to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from ctypes import byref, c_uint64
from typing import TYPE_CHECKING, Any

from ._abi import FOREVER
from ._calls import Frame, Input, Out, Spec
from ._core import Json, nanoseconds, to_json
from ._dtypes import Array
from ._errors import error_of
from ._events import OwnedEvent, Outputs, collect, new_event
from ._futures import Future, LoopOperation, outputs_of, report_of

if TYPE_CHECKING:
    from ._engine import Engine


_FOREVER = c_uint64(FOREVER)


class Model:
    """A loaded model, or a route; made by Engine.load, find and route. It keeps its engine.

    Inputs are arrays by position or by name (`infer(x)`, `infer(x=x)`, `infer({"x": x})`), or what numpy makes arrays of, which
    get the input's type. They are read before a call returns and may be changed afterwards. Contiguous ones are not copied by
    Python. Options of all requests:

    out: memory for outputs: an array for the first one, a mapping by name, or a sequence by position.
    deadline: seconds from now after which the request is given up, also while it runs: DeadlineError.
    priority: -1 (low) to 2 (critical). session, tenant, route_key: for routes and limits; 0: none.

    Everything may be called from any thread.
    """

    def __init__(self, engine: Engine, handle: int, name: str | None = None) -> None:
        self._engine = engine
        self._core = engine._core
        self._handle = handle
        self._spec = Spec(self.info())
        self._name = name
        self._collect = outputs_of(self._spec.outputs, None)
        self._keep = (engine, None)
        # Structs that no call uses just now, by the inputs that they are for. pop and append are atomic.
        self._frames: dict[tuple[int, ...], list[Frame]] = {self._spec.all_inputs: []}

    @property
    def engine(self) -> Engine:
        """The engine."""
        return self._engine

    @property
    def handle(self) -> int:
        """The number that stands for it in the C ABI."""
        return self._handle

    @property
    def name(self) -> str:
        """The name that it was loaded by."""
        return self._name if self._name is not None else str(self.info().get("name", ""))

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs, in order."""
        return self._spec.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs, in order."""
        return self._spec.outputs

    def info(self) -> Json:
        """Inputs, outputs, batching and why not, lanes, bytes, provider: see blaze_model_info."""
        return self._core.json("model_info", c_uint64(self._handle))

    def __repr__(self) -> str:
        return f"<blaze.{type(self).__name__} {self._name or self._handle}>"

    # -- requests -----------------------------------------------------------------------------------------------------

    def _frame(self, key: tuple[int, ...]) -> Frame:
        frames = self._frames.get(key)
        if frames is None:
            frames = self._frames.setdefault(key, [])
        try:
            return frames.pop()
        except IndexError:
            return Frame(self._core.functions, self._spec, key, self._handle)

    def _give_back(self, frame: Frame) -> None:
        if frame.refs:
            frame.refs.clear()
        frames = self._frames[frame.key]
        if len(frames) < 64:
            frames.append(frame)

    def _making(self, outs: tuple[Array | None, ...] | None) -> tuple[Callable[[OwnedEvent], Outputs], object]:
        """What makes outputs of an event, and what must be kept until it comes."""
        if outs is None:
            return self._collect, self._keep
        return outputs_of(self._spec.outputs, outs), (self._engine, outs)

    def infer(
        self,
        *inputs: Input | Mapping[str, Input],
        out: Out = None,
        timeout: float | None = None,
        deadline: float | None = None,
        priority: int = 0,
        session: int = 0,
        tenant: int = 0,
        route_key: int = 0,
        **named: Input,
    ) -> Outputs:
        """Runs a request and waits for it, on this thread if the model is idle.

        timeout: seconds to wait at most. Ctrl-C is seen when the call returns; `submit(...).result()` is interrupted at once.
        Raises what the status means: see BlazeError.
        """
        core, spec = self._core, self._spec
        key, values = spec.bind(inputs, named)
        outs = None if out is None else spec.outs(out)
        frame = self._frame(key)
        try:
            frame.fill(values, outs)
            frame.options(deadline, priority, session, tenant, route_key)
            owner = new_event(core.origin)
            core.calls.append(None)
            try:
                status = core.functions.infer(
                    core.handle,
                    frame.request_pointer,
                    _FOREVER if timeout is None else c_uint64(nanoseconds(timeout)),
                    byref(owner),
                    frame.error_pointer,
                )
            finally:
                core.calls.pop()
            if status:
                core.fail(status, frame.error)
            if outs is None:
                return collect(owner, spec.outputs, None)
            if (fitting := frame.fitting(outs)) is not None:
                return Outputs(spec.outputs, fitting, owner)
            outputs = collect(owner, spec.outputs, outs)
            frame.remember(outputs.arrays)
            return outputs
        finally:
            self._give_back(frame)

    def __call__(self, *inputs: Input | Mapping[str, Input], **named: Any) -> Any:
        """As infer; returns the array if the model has one output, or else a tuple of them."""
        arrays = self.infer(*inputs, **named).arrays
        return arrays[0] if len(arrays) == 1 else arrays

    def submit(
        self,
        *inputs: Input | Mapping[str, Input],
        out: Out = None,
        deadline: float | None = None,
        priority: int = 0,
        session: int = 0,
        tenant: int = 0,
        route_key: int = 0,
        **named: Input,
    ) -> Future[Outputs]:
        """Submits a request and returns at once. `out` is written until the future is done.

        Raises what the request is refused for, such as CapacityError (QUEUE_FULL, RATE_LIMITED with retry_after).
        """
        spec = self._spec
        key, values = spec.bind(inputs, named)
        outs = None if out is None else spec.outs(out)
        dispatcher = self._engine._futures or self._engine._dispatcher()
        make, keep = self._making(outs)
        future: Future[Outputs] = Future(self._core, make, keep)
        frame = self._frame(key)
        try:
            frame.fill(values, outs)
            frame.options(deadline, priority, session, tenant, route_key)
            future.ticket = dispatcher.submit(frame, future)
        finally:
            self._give_back(frame)
        return future

    async def infer_async(
        self,
        *inputs: Input | Mapping[str, Input],
        out: Out = None,
        deadline: float | None = None,
        priority: int = 0,
        session: int = 0,
        tenant: int = 0,
        route_key: int = 0,
        **named: Input,
    ) -> Outputs:
        """As infer, for asyncio: no thread is involved where the loop can watch a descriptor.

        Cancelling the task gives the request up, also while it runs.
        """
        loop = asyncio.get_running_loop()
        completions = self._engine._loop_completions(loop)
        if completions is None:
            return await asyncio.wrap_future(
                self.submit(
                    *inputs,
                    out=out,
                    deadline=deadline,
                    priority=priority,
                    session=session,
                    tenant=tenant,
                    route_key=route_key,
                    **named,
                )
            )
        spec = self._spec
        key, values = spec.bind(inputs, named)
        outs = None if out is None else spec.outs(out)
        waiter: asyncio.Future[Outputs] = loop.create_future()
        operation = LoopOperation(waiter, *self._making(outs))
        frame = self._frame(key)
        try:
            frame.fill(values, outs)
            frame.options(deadline, priority, session, tenant, route_key)
            ticket = completions.submit(frame, operation)
        finally:
            self._give_back(frame)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._core.call("cancel", ticket)
            raise

    def prepare(
        self,
        *inputs: Input | Mapping[str, Input],
        out: Out = None,
        priority: int = 0,
        session: int = 0,
        tenant: int = 0,
        route_key: int = 0,
        **named: Input,
    ) -> Prepared:
        """A request that is made once and run many times over the same arrays, which is faster: see Prepared."""
        key, values = self._spec.bind(inputs, named)
        return Prepared(self, key, values, out, (priority, session, tenant, route_key))

    # -- the model ----------------------------------------------------------------------------------------------------

    def configure(self, config: str | Mapping[str, Any] | None = None, **keys: Any) -> None:
        """Changes "batching", "lanes" or "intra_op_threads" while it works: see blaze_model_configure."""
        self._core.do_with_error("model_configure", c_uint64(self._handle), to_json(keys if config is None else config))

    def unload(self) -> Json:
        """Unloads it when its requests have ended; returns the receipt: what was freed, and what stayed."""

        def start(queue: Any, ticket: Any) -> None:
            self._core.do("model_unload", c_uint64(self._handle), queue, ticket, message=f"unloading {self._name or self._handle}")

        owner = self._core.job(start)
        if owner.status:
            raise error_of(owner.status, owner.message())
        return report_of(owner)

    def unload_async(self) -> Future[Json]:
        """As unload, with a future for the receipt. An unload cannot be cancelled."""
        dispatcher = self._engine._dispatcher()
        future: Future[Json] = Future(self._core, report_of, self._engine)

        def begin() -> int:
            ticket = c_uint64()
            self._core.do("model_unload", c_uint64(self._handle), dispatcher.queue, byref(ticket))
            future.ticket = ticket.value
            return ticket.value

        dispatcher.start_by_ticket(future, begin)
        return future


class Prepared:
    """A request over arrays that stay: change what is in `inputs`, and call it again.

    With `out` for every output a call makes no new array: it returns the same ones each time. Without, outputs are new
    memory each time, as those of Model.infer. One thread at a time: a second one gets a RuntimeError.
    """

    def __init__(
        self, model: Model, key: tuple[int, ...], values: Any, out: Out, options: tuple[int, int, int, int]
    ) -> None:
        self._model = model
        self._core = model._core
        self._frame = Frame(self._core.functions, model._spec, key, model.handle)
        self._outs = model._spec.outs(out)
        self._frame.fill(values, self._outs)
        self._frame.options(None, *options)
        self._lock = threading.Lock()
        #: The arrays that are read, as far as they were arrays and contiguous: of others a copy is.
        self.inputs = tuple(values)
        #: The caller's output arrays, by position; None: each call has its own.
        self.outputs = self._outs
        whole = self._outs is not None and all(array is not None for array in self._outs)
        self._fixed = whole and model._spec.shapes_follow
        self._same: tuple[Array, ...] | None = None
        self._event = new_event(self._core.origin)

    def infer(self, timeout: float | None = None, deadline: float | None = None) -> tuple[Array, ...]:
        """Runs it and waits; the outputs in the order of the model."""
        core, frame = self._core, self._frame
        if not self._lock.acquire(False):
            raise RuntimeError("this prepared request is running on another thread")
        try:
            functions = core.functions
            if deadline is not None or frame.request.deadline_ns:
                frame.request.deadline_ns = 0 if deadline is None else functions.now_ns() + int(deadline * 1e9)
            owner = self._event if self._fixed else new_event(core.origin)
            core.calls.append(None)
            try:
                status = functions.infer(
                    core.handle,
                    frame.request_pointer,
                    _FOREVER if timeout is None else c_uint64(nanoseconds(timeout)),
                    byref(owner),
                    frame.error_pointer,
                )
            finally:
                core.calls.pop()
            if status:
                core.fail(status, frame.error)
            if self._same is not None:
                functions.event_release(byref(owner))
                return self._same
            arrays = collect(owner, self._model.output_names, self._outs).arrays
            if self._fixed:
                # The inputs' shapes stay, so the outputs' do.
                self._same = arrays
                functions.event_release(byref(owner))
            return arrays
        finally:
            self._lock.release()

    __call__ = infer

    def submit(self) -> Future[Outputs]:
        """Submits it as it is now; with `out` not again before the future is done."""
        dispatcher = self._model.engine._dispatcher()
        future: Future[Outputs] = Future(self._core, *self._model._making(self._outs))
        with self._lock:
            future.ticket = dispatcher.submit(self._frame, future)
        return future


class Route(Model):
    """One name for several models: see blaze_route_create. Requests go to it as to a model."""

    def update(self, config: str | Mapping[str, Any]) -> None:
        """Gives it another configuration, with the same name."""
        self._core.do_with_error("route_update", c_uint64(self._handle), to_json(config))

    def destroy(self) -> None:
        """Takes it out; the models stay."""
        self._core.do("route_destroy", c_uint64(self._handle), message="no such route")

    def add_target(self, target: str | Mapping[str, Any] | None = None, **keys: Any) -> None:
        """Adds a target: `add_target(model="b", weight=2)`."""
        self._core.do_with_error("route_target_add", c_uint64(self._handle), to_json(keys if target is None else target))

    def remove_target(self, model: str) -> None:
        """Takes a target out."""
        self._core.do("route_target_remove", c_uint64(self._handle), model.encode(), message=model)

    def drain_target(self, model: str, drain: bool = True) -> None:
        """Has a target get no more requests, or again."""
        self._core.do("route_target_drain", c_uint64(self._handle), model.encode(), int(drain), message=model)

    def info(self) -> Json:
        """Configuration, and each target's state: see blaze_route_info."""
        return self._core.json("route_info", c_uint64(self._handle))


