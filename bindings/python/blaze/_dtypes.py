"""Element types: numpy's, and what stands for those that numpy does not have.

numpy has no bf16 and no types of 8 bits or less but integers. If the package ml_dtypes is installed, outputs of such types
have its dtypes; without it bf16 comes as uint16 and the others as uint8, the bits as they are, and the same goes in. Types of
4 and 2 bits have one element a byte here, as in ml_dtypes; they are packed and unpacked, which copies.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

F32, STRING, BOOL, F16, BF16 = 1, 8, 9, 10, 16

_NUMPY: dict[int, Any] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
    14: np.complex64,
    15: np.complex128,
}
# name in blaze_model_info, number, ml_dtypes' name, what it is without ml_dtypes, bits
_EXTRA: tuple[tuple[str, int, str, Any, int], ...] = (
    ("bf16", 16, "bfloat16", np.uint16, 16),
    ("f8e4m3fn", 17, "float8_e4m3fn", np.uint8, 8),
    ("f8e4m3fnuz", 18, "float8_e4m3fnuz", np.uint8, 8),
    ("f8e5m2", 19, "float8_e5m2", np.uint8, 8),
    ("f8e5m2fnuz", 20, "float8_e5m2fnuz", np.uint8, 8),
    ("u4", 21, "uint4", np.uint8, 4),
    ("i4", 22, "int4", np.int8, 4),
    ("f4e2m1", 23, "float4_e2m1fn", np.uint8, 4),
    ("f8e8m0", 24, "float8_e8m0fnu", np.uint8, 8),
    ("u2", 25, "uint2", np.uint8, 2),
    ("i2", 26, "int2", np.int8, 2),
)

#: Numbers by the names that blaze_model_info uses.
NUMBERS: dict[str, int] = {
    **dict(zip("f32 u8 i8 u16 i16 i32 i64 string bool f16 f64 u32 u64 complex64 complex128".split(), range(1, 16))),
    **{name: number for name, number, _, _, _ in _EXTRA},
}
# The list above counts through, as ONNX does: 8 is string, 9 bool.

#: Bits of an element, of those types that have less than a byte.
PACKED: dict[int, int] = {number: bits for _, number, _, _, bits in _EXTRA if bits < 8}
_SIGNED = {22, 26}

#: What outputs are made of in memory, and what they are called afterwards (None: the same).
STORAGE: dict[int, np.dtype[Any]] = {number: np.dtype(kind) for number, kind in _NUMPY.items()}
VIEW: dict[int, np.dtype[Any] | None] = {number: None for number in _NUMPY}
#: Blaze's number for a numpy dtype in native byte order.
OF_NUMPY: dict[np.dtype[Any], int] = {np.dtype(kind): number for number, kind in _NUMPY.items()}

try:
    _ml: Any = importlib.import_module("ml_dtypes")
except ImportError:
    _ml = None

for _, _number, _name, _plain, _bits in _EXTRA:
    STORAGE[_number] = np.dtype(_plain)
    VIEW[_number] = None
    if _ml is not None and hasattr(_ml, _name):
        VIEW[_number] = np.dtype(getattr(_ml, _name))
        OF_NUMPY[np.dtype(getattr(_ml, _name))] = _number

#: What outputs are arrays of, but for strings.
OUTPUT: dict[int, np.dtype[Any]] = {number: VIEW[number] or dtype for number, dtype in STORAGE.items()}


def storage_for(number: int) -> np.dtype[Any]:
    """The dtype that values which are no array yet are converted to for an input of this type."""
    if number == STRING:
        return np.dtype(object)
    return VIEW.get(number) or STORAGE[number]


def number_for(dtype: np.dtype[Any], wanted: int) -> int:
    """What an array of this dtype is to Blaze for an input that wants the type `wanted`; 0: strings or unusable.

    Where numpy lacks the type, the bits of an unsigned (or for i4 and i2 a signed) integer of the storage's size stand for it.
    """
    number = OF_NUMPY.get(dtype, 0)
    if number != wanted and wanted >= BF16 and dtype == STORAGE[wanted]:
        return wanted
    return number


def pack(array: Array, number: int) -> Array:
    """Elements of 4 or 2 bits, one a byte, into bytes: the first in the low bits."""
    bits = PACKED[number]
    each = 8 // bits
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    padded = np.zeros(-(-flat.size // each) * each, np.uint8)
    padded[: flat.size] = flat
    groups = padded.reshape(-1, each)
    packed = groups[:, 0].copy()
    for place in range(1, each):
        packed |= groups[:, place] << (bits * place)
    return packed


def unpack(packed: Array, shape: Sequence[int], number: int) -> Array:
    """The other way; a new array."""
    bits = PACKED[number]
    each = 8 // bits
    count = int(np.prod(shape, dtype=np.int64))
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    flat = ((packed[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)[:count]
    if number in _SIGNED:
        flat = (flat << np.uint8(8 - bits)).view(np.int8) >> np.int8(8 - bits)
    array: Array = flat.reshape(shape)
    view = VIEW[number]
    return array.view(view) if view is not None else array
