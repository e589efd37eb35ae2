"""What becomes of a value that orjson can't say by itself: one step towards something that it can.

Each conversion is listed at the head of :mod:`metadata_json`. NumPy, pandas, polars and pyarrow are not imported: who
returns their values has imported them, or the values tell by their methods what they are.

Rules:

1. A conversion takes one step: what it returns may hold values that are converted in their turn.
2. Nothing is read whose end is not known before: iterators and generators are refused.
3. A value that has more elements than a result may have bytes is refused before it is read.
"""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView, Sequence, Set
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from itertools import islice
from typing import Any, Final

import orjson

from ray_reproducer.core.user_error import type_name

NUMPY_SCALARS: Final[dict[type, Callable[[Any], object]]] = {}
"""Types of NumPy's numbers that were met, and what makes Python's of them: the short way, as there may be many."""
_PYTHONS: Final[dict[str, Callable[[Any], object]]] = {"b": bool, "i": int, "u": int, "f": float}
_LARGEST_FLOAT_BYTES: Final = 8
"""Of those that orjson can say."""


class UnsayableError(TypeError):
    """JSON can't say a value; the text follows the value's place."""


class TooManyElementsError(ValueError):
    """A value has more elements than the result may have bytes."""

    def __init__(self, elements: int) -> None:
        super().__init__(f"it holds {elements} values")
        self.elements = elements

    def __reduce__(self) -> tuple[type[TooManyElementsError], tuple[int]]:
        """Say how it is made again: not of its text."""
        return type(self), (self.elements,)


def converted(value: Any, most: int) -> object:  # noqa: C901, PLR0911, PLR0912 - a table, in its order
    """Return something else that says the same.

    Args:
        value: what orjson refuses.
        most: the most elements that it may have.

    Raises:
        UnsayableError: there is no such thing.
        TooManyElementsError: it has more elements than that.
    """
    if _is_numpy(value):
        return _from_numpy(value, most)
    if isinstance(value, Mapping):
        return {key: value[key] for key in _bounded(value, most)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return _moment(value)
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _text_or_base64(bytes(value))
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Decimal):
        return str(value) if value.is_finite() else None
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, Set):
        return _in_order(_bounded(value, most))
    if isinstance(value, (Sequence, MappingView)):
        return list(_bounded(value, most))
    if hasattr(value, "__fspath__"):
        return str(value)
    return _by_its_methods(value, most)


def _bounded(value: Any, most: int) -> Iterator[Any]:
    """Iterate over no more elements than the value says that it has."""
    return islice(value, _checked(len(value), most))


def _checked(elements: int, most: int) -> int:
    if elements > most:
        raise TooManyElementsError(elements)
    return elements


def _moment(value: dt.datetime | dt.date | dt.time) -> str | None:
    # pandas' NaT is a datetime that differs from itself; its Timestamps are datetimes that orjson does not know.
    return None if value != value else value.isoformat()  # noqa: PLR0124


def _text_or_base64(value: bytes) -> object:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _in_order(values: Iterable[Any]) -> list[Any]:
    elements = list(values)
    try:
        return sorted(elements)
    except TypeError:
        return elements


def _is_numpy(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic))


def _from_numpy(value: Any, most: int) -> object:
    kind, is_array = value.dtype.kind, value.ndim > 0
    # An axis of length zero makes the size zero, but each list of those before it is written all the same.
    _checked(math.prod(itertools.takewhile(bool, value.shape)), most)
    if value.dtype.names is not None:
        return list(value) if is_array else {name: value[name] for name in value.dtype.names}
    if kind in "mM":
        return list(value) if is_array else _time_from_numpy(value[()])
    if kind == "f" and value.dtype.itemsize > _LARGEST_FLOAT_BYTES:
        value = value.astype("f8")
    if kind in _PYTHONS and value.dtype.type is type(value):
        # A short float would grow digits as Python's: np.float32(0.1) is "0.1" to orjson, also in arrays.
        short = kind == "f" and value.dtype.itemsize < _LARGEST_FLOAT_BYTES
        NUMPY_SCALARS[type(value)] = _as_orjson_does if short else _PYTHONS[kind]
        return NUMPY_SCALARS[type(value)](value)
    if is_array and kind in _PYTHONS and not hasattr(value, "mask"):
        return _array_from_numpy(value)
    return value.tolist()


def _array_from_numpy(value: Any) -> orjson.Fragment:
    """Say an array as orjson does in one go: as a list of Python's numbers it would be ten times as large."""
    # orjson reads no other layout than this one; it is a copy only if need be.
    plain = value.astype(value.dtype.newbyteorder("="), order="C", subok=False, copy=False)
    return _as_orjson_does(plain)


def _as_orjson_does(value: Any) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def _time_from_numpy(value: Any) -> object:
    if value.dtype.kind == "O" or value.tolist() is None:  # masked, or NaT
        return None
    if value.dtype.kind == "m":
        return float(value / type(value)(1, "s"))
    try:
        return _as_orjson_does(value)
    except TypeError:  # out of the years that it knows
        return str(value)


_METHODS: Final = (
    "as_py",  # scalars of pyarrow
    "to_pydict",  # its tables
    "to_pylist",  # its arrays
    "tolist",  # series of pandas, tensors of torch
    "to_list",  # series of polars
)


def _by_its_methods(value: Any, most: int) -> object:
    if isinstance(value, type) or callable(value):
        raise UnsayableError(f"is of type {type_name(value)}")
    if type_name(value) == "NAType":  # pandas' NA
        return None
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return _columns(value, most)
    for name in _METHODS:
        method: Callable[[], object] | None = getattr(value, name, None)
        if method is not None:
            if hasattr(value, "__len__") and getattr(value, "ndim", 1) != 0:
                _checked(len(value), most)
            return method()
    if isinstance(value, complex):
        raise UnsayableError("is a complex number: return its real and its imaginary part")
    if isinstance(value, Iterator):
        raise UnsayableError(f"is a {type_name(value)}, which is not read: return a list")
    raise UnsayableError(f"is of type {type_name(value)}")


def _columns(frame: Any, most: int) -> dict[Any, Any]:
    names = list(frame.columns)
    _checked(len(names) * len(frame), most)
    columns = {name: frame[name] for name in names}
    if len(columns) < len(names):
        raise UnsayableError(f"is a {type_name(frame)} of which two columns have the same name")
    return columns
