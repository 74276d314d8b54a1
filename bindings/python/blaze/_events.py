"""Events, and arrays over their memory, which goes back to the engine when the last array is gone."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Mapping, Sequence
from ctypes import byref, sizeof
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _fork
from ._abi import Event, Functions, String, Tensor, shape_type
from ._dtypes import OUTPUT, PACKED, STRING, Array, unpack

EVENT_SIZE = sizeof(Event)


@dataclass(frozen=True)
class Timing:
    """Where a request's time went, in nanoseconds, and the rows of its batch."""

    queued_ns: int
    batched_ns: int
    computed_ns: int
    batch_rows: int


class Origin:
    """Where events come from: the library, and the process as it was then."""

    __slots__ = ("functions", "generation")

    def __init__(self, functions: Functions) -> None:
        self.functions = functions
        self.generation = _fork.generation


class OwnedEvent(Event):
    """A blaze_event that is released when nobody refers to it any more: arrays do, by way of their base.

    It works after the engine has been destroyed, and from whichever thread the garbage collector happens to run in. It is
    made by new_event or copy_event.
    """

    __slots__ = ("origin",)

    origin: Origin

    def release(self) -> None:
        """Gives back what the event holds; no array over its memory may be in use. In a fork's child it does nothing."""
        if self.internal and self.origin.generation == _fork.generation:
            functions = self.origin.functions
            if functions.callbacks:
                # Nothing of the library's may be called inside one of its callbacks: it is put off.
                _fork.release(functions, self)
            else:
                functions.event_release(byref(self))

    __del__ = release

    def message(self) -> str:
        """The event's text, or ""."""
        if not self.text:
            return ""
        return ctypes.string_at(self.text, self.text_bytes).decode("utf-8", "replace")


_from_buffer_copy: Any = OwnedEvent.from_buffer_copy
_EMPTY = bytes(Event(EVENT_SIZE))


def new_event(origin: Origin) -> OwnedEvent:
    """An event for blaze_infer to write to."""
    owner: OwnedEvent = _from_buffer_copy(_EMPTY)
    owner.origin = origin
    return owner


def copy_event(origin: Origin, events: ctypes.Array[Event], index: int) -> OwnedEvent:
    """Takes an event over out of the array that a poll wrote it to, which must not be used to release it then."""
    owner: OwnedEvent = _from_buffer_copy(events, index * EVENT_SIZE)
    owner.origin = origin
    return owner


# What numpy makes arrays of, and keeps as their base: a class for each size, since ctypes has it so, with `owner` as an attribute.
_memory: dict[int, Any] = {}
_new_array: Any = np.ndarray


def _memory_of_size(size: int) -> Any:
    kind: Any = _memory.get(size)
    if kind is None:
        kind = type("Memory", (ctypes.Array,), {"_type_": ctypes.c_char, "_length_": size, "__slots__": ("owner",)})
        if len(_memory) < 1024:  # sizes come back, or there are very many of them
            _memory[size] = kind
    return kind


# All fields of a Tensor at once: one by one takes twice as long.
_fields_of: Any = struct.Struct("@IIPPIIiIPN").unpack_from


def _strings(data: int, shape: Sequence[int]) -> Array:
    array = np.empty(shape, object)
    flat = array.reshape(-1)
    elements = (String * flat.size).from_address(data) if flat.size else ()
    for place, element in enumerate(elements):
        raw = ctypes.string_at(element.data, element.size_bytes) if element.size_bytes else b""
        flat[place] = raw.decode("utf-8", "surrogateescape")
    return array


def output_array(view: Tensor, owner: OwnedEvent) -> Array:
    """An array over an output. Strings and types of less than a byte are copied."""
    _, number, _, axes, rank, _, _, _, data, size = _fields_of(view)
    shape = shape_type(rank).from_address(axes)[:] if rank else ()
    if number == STRING:
        return _strings(data, shape)
    dtype = OUTPUT[number]
    if not size:
        return np.empty(shape, dtype)
    memory = (_memory.get(size) or _memory_of_size(size)).from_address(data)
    memory.owner = owner
    if number in PACKED:
        return unpack(np.frombuffer(memory, np.uint8), shape, number)
    array: Array = _new_array(shape, dtype, memory)
    return array


def place_output(view: Tensor, out: Array) -> Array:
    """What the request wrote into `out`: `out` itself if the shape is the output's, or else a view of its beginning."""
    rank: int = view.rank
    shape = tuple(shape_type(rank).from_address(view.shape)[:]) if rank else ()
    if shape == out.shape:
        return out
    count = int(np.prod(shape, dtype=np.int64))
    return out.reshape(-1)[:count].reshape(shape)


class Outputs(Mapping[str, Array]):
    """What a request came to: arrays by name, and by position with `outputs[0]`.

    The arrays are over memory of the engine's, or are the caller's own (`out=`). They may be written to, and live as long as
    anybody refers to them: longer than this object, the model and the engine.
    """

    __slots__ = ("_names", "_owner", "arrays")

    def __init__(self, names: tuple[str, ...], arrays: tuple[Array, ...], owner: OwnedEvent) -> None:
        self._names = names
        #: In the order of the model.
        self.arrays = arrays
        self._owner = owner

    def __getitem__(self, key: str | int) -> Array:
        if isinstance(key, str):
            try:
                return self.arrays[self._names.index(key)]
            except ValueError:
                raise KeyError(key) from None
        return self.arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def timing(self) -> Timing:
        """Where the time went."""
        timing = self._owner.timing
        return Timing(timing.queued_ns, timing.batched_ns, timing.computed_ns, timing.batch_rows)

    @property
    def model_handle(self) -> int:
        """The handle of the model that answered, which tells the targets of a route apart."""
        return int(self._owner.model)

    def __repr__(self) -> str:
        return "Outputs(" + ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in self.items()) + ")"


class _View(Tensor):
    """Where an output's description goes."""

    def __init__(self) -> None:
        super().__init__(sizeof(Tensor))


# Those that nobody uses just now: append and pop are atomic.
_views: list[_View] = []


def collect(owner: OwnedEvent, names: tuple[str, ...], outs: tuple[Array | None, ...] | None) -> Outputs:
    """The outputs of an event that ended well."""
    event_output, event = owner.origin.functions.event_output, byref(owner)
    try:
        view = _views.pop()
    except IndexError:
        view = _View()
    description = byref(view)
    count: int = owner.outputs_count
    if count == 1 and outs is None:  # the usual
        status = event_output(event, 0, description)
        if status:
            raise RuntimeError(f"blaze_event_output: {status}")
        array = output_array(view, owner)
        _views.append(view)
        return Outputs(names, (array,), owner)
    arrays = []
    for index in range(count):
        status = event_output(event, index, description)
        if status:
            raise RuntimeError(f"blaze_event_output: {status}")
        out = outs[index] if outs is not None else None
        arrays.append(output_array(view, owner) if out is None else place_output(view, out))
    _views.append(view)
    return Outputs(names, tuple(arrays), owner)
