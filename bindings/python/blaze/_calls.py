"""Numpy arrays as the tensors of a request, without copies; the memory of the C structs is used again."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import addressof, byref, c_uint64, sizeof
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ._abi import Error, Functions, Request, String, Tensor, shape_type
from ._dtypes import NUMBERS, OF_NUMPY, PACKED, STORAGE, STRING, VIEW, Array, number_for, pack, storage_for
from ._errors import ArgumentError, Status

#: What may be given for an input: an array, or anything numpy makes one of.
Input = npt.ArrayLike
#: Memory for outputs: one array for the first output, or some by name, or all by position (None: the engine's memory).
Out = Array | Mapping[str, Array] | Sequence[Array | None] | None


_ndarray = np.ndarray
_first_byte: Any = ctypes.c_char.from_buffer


def address_of(array: Array) -> int:
    """Where a contiguous array's elements are. `array.ctypes.data` says so too, and takes five times as long."""
    try:
        return addressof(_first_byte(array))
    except (TypeError, ValueError):  # read-only, empty, or of a dtype without a buffer
        return int(array.ctypes.data)


# Bytes that are copied in a few microseconds, which is what it takes to let the GIL go and have it back.
_LARGE = 64 << 10


class Spec:
    """A model's inputs and outputs, from blaze_model_info."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.inputs = tuple(str(tensor["name"]) for tensor in info["inputs"])
        self.outputs = tuple(str(tensor["name"]) for tensor in info["outputs"])
        self.input_dtypes = tuple(NUMBERS.get(tensor["dtype"], 0) for tensor in info["inputs"])
        self.output_dtypes = tuple(NUMBERS.get(tensor["dtype"], 0) for tensor in info["outputs"])
        self.positions = {name: index for index, name in enumerate(self.inputs)}
        self.all_inputs = tuple(range(len(self.inputs)))
        axes = {axis for tensor in info["inputs"] for axis in tensor["shape"] if isinstance(axis, str)}
        #: Whether the inputs' shapes decide the outputs'.
        self.shapes_follow = all(
            isinstance(axis, int) or axis in axes for tensor in info["outputs"] for axis in tensor["shape"]
        )

    def bind(self, given: Sequence[Any], named: Mapping[str, Any]) -> tuple[tuple[int, ...], Sequence[Any]]:
        """Which inputs are given, and their values: by position, by name, or as one mapping."""
        if not named and len(given) == len(self.all_inputs) and given and type(given[0]) is np.ndarray:
            return self.all_inputs, given  # the usual, without the slow question for a mapping
        if len(given) == 1 and isinstance(given[0], Mapping):
            named = {**given[0], **named}
            given = ()
        if not named and len(given) == len(self.all_inputs):
            return self.all_inputs, given
        if len(given) > len(self.inputs):
            raise ArgumentError(Status.INVALID_NAME, f"{len(given)} inputs for a model that has {len(self.inputs)}")
        values = dict(enumerate(given))
        for name, value in named.items():
            position = self.positions.get(name)
            if position is None:
                raise ArgumentError(Status.INVALID_NAME, f"no input {name!r}; there are {', '.join(self.inputs) or 'none'}")
            if position in values:
                raise ArgumentError(Status.INVALID_NAME, f"the input {name!r} is given twice")
            values[position] = value
        key = tuple(sorted(values))
        return key, [values[position] for position in key]

    def outs(self, out: Out) -> tuple[Array | None, ...] | None:
        """The caller's memory for each output."""
        if out is None:
            return None
        if isinstance(out, np.ndarray):
            if len(self.outputs) == 1 and out.flags.carray and OF_NUMPY.get(out.dtype) == self.output_dtypes[0] not in PACKED:
                return (out,)
            given: list[Array | None] = [out]
        elif isinstance(out, Mapping):
            if unknown := set(out) - set(self.outputs):
                raise ArgumentError(Status.INVALID_NAME, f"no output {unknown.pop()!r}; there are {', '.join(self.outputs)}")
            given = [out.get(name) for name in self.outputs]
        else:
            given = list(out)
        if len(given) > len(self.outputs):
            raise ArgumentError(Status.INVALID_NAME, f"{len(given)} arrays for {len(self.outputs)} outputs")
        if len(given) < len(self.outputs):
            given += [None] * (len(self.outputs) - len(given))
        for position, array in enumerate(given):
            if array is None:
                continue
            number = self.output_dtypes[position]
            if not array.flags.carray:
                raise ArgumentError(Status.INVALID_ARGUMENT, f"out for {self.outputs[position]!r} must be writable and contiguous")
            if OF_NUMPY.get(array.dtype) == number and number not in PACKED:
                continue
            if number == STRING or number in PACKED:
                raise ArgumentError(Status.UNSUPPORTED, f"out for {self.outputs[position]!r}: not for strings and packed types")
            if number_for(array.dtype, number) != number:
                wanted = VIEW[number] or STORAGE[number]
                raise ArgumentError(
                    Status.INVALID_DTYPE, f"out for {self.outputs[position]!r} has {array.dtype}; it must have {wanted}"
                )
        return tuple(given)


def _strings(values: Array) -> tuple[Any, list[bytes]]:
    encoded = [
        value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape") for value in values.reshape(-1).tolist()
    ]
    elements = (String * max(len(encoded), 1))()
    for element, raw in zip(elements, encoded):
        # The pointer into the bytes object stays valid as long as the list that is returned.
        element.data = ctypes.cast(ctypes.c_char_p(raw), ctypes.c_void_p).value
        element.size_bytes = len(raw)
    return elements, encoded


class Frame:
    """The C structs of a request for certain inputs of a model, filled again for each call."""

    def __init__(self, functions: Functions, spec: Spec, key: tuple[int, ...], model: int) -> None:
        self.spec = spec
        self.key = key
        self.functions = functions
        self.error = Error()
        self.error_pointer = byref(self.error)
        self.request = Request()
        self.request_pointer = byref(self.request)
        self.ticket = c_uint64()
        self.ticket_pointer = byref(self.ticket)
        self.names = [spec.inputs[position].encode() for position in key] + [name.encode() for name in spec.outputs]
        self._inputs = (Tensor * max(len(key), 1))()
        self._outputs = (Tensor * max(len(spec.outputs), 1))()
        self.tensors = list(self._inputs)[: len(key)]
        self.outputs = list(self._outputs)
        for tensor in (*self.tensors, *self.outputs):
            tensor.struct_size = sizeof(Tensor)
        for tensor, name in zip(self.tensors, self.names):
            tensor.name = name
        self.shapes: list[tuple[int, ...] | None] = [None] * len(key)
        self.dtypes: list[Any] = [None] * len(key)
        self._axes: list[Any] = [None] * len(key)
        self.refs: list[Any] = []
        self._output_shapes: list[tuple[int, ...]] | None = None
        #: Whether to copy the inputs takes so long that other threads should have the GIL meanwhile.
        self.large = False
        # Whether the request has options, which must be taken out for one that has none.
        self._plain = True
        # Which output each of the tensors for the caller's memory was last described for.
        self.placed = [-1] * len(self.outputs)
        request = self.request
        request.struct_size = sizeof(Request)
        request.model = model
        request.inputs = addressof(self._inputs)
        request.inputs_count = len(key)
        request.outputs = addressof(self._outputs)

    def fill(self, values: Sequence[Any], outs: tuple[Array | None, ...] | None) -> None:
        """Puts the addresses of arrays in; `refs` keeps alive what was made for that."""
        slot = 0
        for value in values:
            if type(value) is _ndarray and value.shape == self.shapes[slot] and value.dtype is self.dtypes[slot]:
                try:
                    self.tensors[slot].data = addressof(_first_byte(value))  # only of contiguous ones
                except (TypeError, ValueError):
                    self._fill_slowly(slot, value)
            else:
                self._fill_slowly(slot, value)
            slot += 1
        if outs is not None:
            self._fill_outs(outs)
        elif self.request.outputs_count:
            self.request.outputs_count = 0

    def fitting(self, outs: tuple[Array | None, ...]) -> tuple[Array, ...] | None:
        """`outs`, if each of them is known to have its output's shape, so that nobody need ask for it."""
        shapes = self._output_shapes
        if shapes is None:
            return None
        for array, shape in zip(outs, shapes):
            if array is None or array.shape != shape:
                return None
        return cast("tuple[Array, ...]", outs)

    def remember(self, arrays: tuple[Array, ...]) -> None:
        """What the outputs for these inputs are like, if that is always so."""
        if self.spec.shapes_follow:
            self._output_shapes = [array.shape for array in arrays]

    def _fill_slowly(self, slot: int, value: Any) -> None:
        """As fill, for an array that is not as the last one was, or no array at all."""
        if not isinstance(value, np.ndarray) or not value.flags.c_contiguous:
            value = self._converted(slot, value)
        if value.shape != self.shapes[slot] or value.dtype is not self.dtypes[slot]:
            value = self._describe(slot, value)
            self.large = sum(tensor.size_bytes for tensor in self.tensors) > _LARGE
        self.tensors[slot].data = address_of(value)

    def _converted(self, slot: int, value: Any) -> Array:
        if isinstance(value, np.ndarray):
            array: Array = np.ascontiguousarray(value).reshape(value.shape)
        else:
            array = np.asarray(value, storage_for(self.spec.input_dtypes[self.key[slot]]), order="C")
        self.refs.append(array)
        return array

    def _describe(self, slot: int, array: Array) -> Array:
        """The tensor's description for an array with another shape or type than the last one's."""
        tensor = self.tensors[slot]
        shape = array.shape
        self._output_shapes = None
        axes = self._axes[slot] = shape_type(len(shape))(*shape)
        tensor.shape = addressof(axes)
        tensor.rank = len(shape)
        self.shapes[slot] = self.dtypes[slot] = None
        wanted = self.spec.input_dtypes[self.key[slot]]
        if array.dtype.kind in "OUST":
            elements, kept = _strings(array)
            tensor.dtype = STRING
            tensor.size_bytes = len(kept) * sizeof(String)
            self.refs += (elements, kept)
            return np.frombuffer(elements, np.uint8)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
            self.refs.append(array)
        number = number_for(array.dtype, wanted)
        if not number:
            raise ArgumentError(Status.INVALID_DTYPE, f"the input {self.spec.inputs[self.key[slot]]!r}: no tensor has {array.dtype}")
        tensor.dtype = number
        if number in PACKED:
            array = pack(array, number)
            self.refs.append(array)
            tensor.size_bytes = array.nbytes
            return array
        tensor.size_bytes = array.nbytes
        if array.dtype.isnative and number == OF_NUMPY.get(array.dtype):
            self.shapes[slot], self.dtypes[slot] = shape, array.dtype
        return array

    def _fill_outs(self, outs: tuple[Array | None, ...]) -> None:
        count = 0
        for position, array in enumerate(outs):
            if array is None:
                continue
            tensor = self.outputs[count]
            if self.placed[count] != position:
                tensor.name = self.names[len(self.key) + position]
                tensor.dtype = self.spec.output_dtypes[position]
                self.placed[count] = position
            tensor.data = address_of(array)
            tensor.size_bytes = array.nbytes
            count += 1
        self.request.outputs_count = count

    def options(self, deadline: float | None, priority: int, session: int, tenant: int, route_key: int) -> None:
        """The request's other fields; `deadline` in seconds from now."""
        plain = deadline is None and not (priority or session or tenant or route_key)
        if plain and self._plain:
            return
        self._plain = plain
        request = self.request
        request.deadline_ns = 0 if deadline is None else self.functions.now_ns() + max(int(deadline * 1e9), 0)
        request.priority = priority
        request.session_id = session
        request.tenant_id = tenant
        request.route_key = route_key
