"""Statistics of one column of a table, gathered batch by batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

MAX_DISTINCT: Final = 1000
"""Up to here distinct values are counted; a column with more of them has no ``distinct``."""
MAX_TEXT_CHARACTERS: Final = 200
MAX_BINARY_BYTES: Final = 32


class ColumnStatistics:
    """Nulls, NaNs, minimum, maximum, mean and number of distinct values, as far as a type has them.

    Args:
        kind: the column's type.
    """

    def __init__(self, kind: pa.DataType) -> None:
        import pyarrow as pa

        types = pa.types
        self._plain = _plain_type(kind)
        self._is_float = types.is_floating(self._plain)
        self._is_number = self._is_float or types.is_integer(self._plain) or types.is_decimal(self._plain)
        self._has_mean = self._is_number and not types.is_duration(_storage_type(kind))
        self._is_simple = self._is_number or types.is_boolean(self._plain) or _is_text_or_time(self._plain)
        self._nulls = self._nans = self._count = 0
        self._sum = 0.0
        self._extremes: list[pa.Array] = []
        self._distinct: pa.Array | None = pa.array([], self._plain) if self._is_simple else None

    def add(self, array: pa.Array) -> None:
        """Take the column's values in the next batch."""
        import pyarrow as pa
        import pyarrow.compute as pc

        self._nulls += array.null_count
        if not self._is_simple:
            return
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        values = array.cast(self._plain).drop_null()
        if self._is_float:
            numbers = values.filter(pc.invert(pc.is_nan(values)))
            self._nans += len(values) - len(numbers)
            values = numbers
        if not len(values):
            return
        self._count += len(values)
        if self._has_mean:
            self._sum += pc.sum(values.cast(pa.float64(), safe=False)).as_py()
        self._extremes += [pa.repeat(extreme, 1) for extreme in pc.min_max(values).values()]
        self._add_distinct(values)

    def _add_distinct(self, values: pa.Array) -> None:
        import pyarrow as pa

        if self._distinct is None:
            return
        distinct = pa.concat_arrays([self._distinct, values.unique()]).unique()
        self._distinct = distinct if len(distinct) <= MAX_DISTINCT else None

    def result(self) -> dict[str, Any]:
        """What was gathered, in values that JSON can say.

        Times are ISO 8601 (in UTC, with a Z, if the column has a time zone), durations numbers in the type's unit,
        decimals text; long text is cut, and binary is the hexadecimal of its first bytes.
        """
        about: dict[str, Any] = {"nulls": self._nulls}
        if self._is_float:
            about["nans"] = self._nans
        if self._is_simple:
            about |= self._range()
        if self._has_mean:
            about["mean"] = _finite(self._sum / self._count) if self._count else None
        if self._distinct is not None:
            about["distinct"] = len(self._distinct)
        return about

    def _range(self) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.compute as pc

        if not self._extremes:
            return {"min": None, "max": None}
        low, high = pc.min_max(pa.concat_arrays(self._extremes)).values()
        return {"min": _json_value(low), "max": _json_value(high)}


def text_prefix(text: str | bytes, limit: int) -> str:
    """Make text of bytes that should be UTF-8, and cut what is longer than ``limit`` characters."""
    if isinstance(text, bytes):
        text = text[: 4 * limit + 4].decode("utf-8", "replace")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _storage_type(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return _storage_type(kind.storage_type)
    return _storage_type(kind.value_type) if pa.types.is_dictionary(kind) else kind


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type, of the same values, that Arrow's functions work on."""
    import pyarrow as pa

    types = pa.types
    kind = _storage_type(kind)
    if types.is_float16(kind):
        return pa.float32()
    if types.is_duration(kind):
        return pa.int64()
    if types.is_decimal(kind) and kind.bit_width < 128:
        return pa.decimal128(kind.precision, kind.scale)
    if types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if types.is_binary_view(kind) else kind


def _is_text_or_time(kind: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    tests = (types.is_string, types.is_large_string, types.is_date, types.is_time, types.is_timestamp, _is_binary)
    return any(test(kind) for test in tests)


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _json_value(value: pa.Scalar) -> Any:
    import pyarrow as pa

    types, kind = pa.types, value.type
    if types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind):
        return _time(value)
    if types.is_decimal(kind):
        return str(value.as_py())
    if _is_binary(kind):
        return value.as_py()[:MAX_BINARY_BYTES].hex()
    if types.is_string(kind) or types.is_large_string(kind):
        return text_prefix(value.as_buffer().to_pybytes(), MAX_TEXT_CHARACTERS)
    plain = value.as_py()
    return _finite(plain) if isinstance(plain, float) else plain


def _time(value: pa.Scalar) -> str | int:
    """Write a time in ISO 8601; one beyond the calendar stays the number that it is, in its type's unit."""
    import pyarrow as pa

    zone = ""
    if pa.types.is_timestamp(value.type) and value.type.tz:
        # By way of the number: the column's time zone may be one that this machine does not know.
        value, zone = pa.scalar(value.value, pa.timestamp(value.type.unit)), "Z"
    text = str(value.cast(pa.string()).as_py())
    return int(value.value) if text.startswith("<") else text.replace(" ", "T", 1) + zone


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
