"""A result's value: the JSON of what an extractor returned, byte for byte, or the reason why there is none.

Rules:

1. The value is the JSON object itself, UTF-8, with nothing around it (OpenMSIStream's readers parse it).
2. These conversions are made, at any depth:

   =========================================  =====================================================================
   dict and other mappings                    object; keys that are no text: see rule 3
   list, tuple, deque, range, other sequences array
   named tuple, dataclass                     object; fields of a dataclass that begin with ``_`` are left out
   set, frozenset                             array, sorted if its elements have an order
   str, bool, None, int of 64 bits            as they are
   float                                      number; NaN and infinities: ``null``
   Decimal, Fraction                          text, because a number would be rounded (``"0.1"``, ``"1/3"``)
   datetime, date, time                       text, ISO 8601, with an offset only if it has a time zone
   timedelta                                  number of seconds
   bytes, bytearray, memoryview               text if it is UTF-8, else ``{"base64": "..."}``
   UUID, Path                                 text
   Enum                                       its value
   NumPy scalar, array                        number or (nested) array; masked: ``null``; datetime64 and timedelta64
                                              as above, NaT: ``null``; with fields: object (of each row)
   pandas Timestamp, Timedelta; NaT, NA       as datetime, timedelta; ``null``
   pandas, polars Series; DataFrame           array; object of columns. Their index is left out
   pyarrow scalar, array; table               as Python's; object of columns
   =========================================  =====================================================================

3. Keys become text: numbers, dates, UUIDs, enums, paths, bytes and None as their values do (``{1: ...}`` has the key
   ``"1"``). Two keys that become the same text are refused.
4. What is left is no JSON: integers beyond 64 bits, complex numbers, text with half a character (a lone surrogate),
   what contains itself or is deeper than 254 levels, iterators, functions, other objects. It is refused with the place
   of the culprit: ``metadata['scan'][3]['n'] is an integer beyond 64 bits``.
5. User code that runs meanwhile (a mapping's ``__getitem__``) and raises is treated in the same way.
6. A result that is larger than a message is refused. Iterators are not read, and a value with more elements than a
   message has bytes is refused before it is read. Plain lists and dictionaries are written first and measured then,
   as they take more room in memory than as JSON (unless they name one list many times).

How: orjson goes first, and nearly always last. Only if it fails does Python walk through the metadata, to convert what
orjson can't (keys) and to find the culprit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import orjson

from ray_reproducer.core.json_conversions import NUMPY_SCALARS, TooManyElementsError, UnsayableError, converted
from ray_reproducer.core.outcome import Failure
from ray_reproducer.core.user_error import one_line, type_name

MAX_DEPTH: Final = 254
"""How deep orjson goes."""
_ITSELF: Final = "lies within itself"
_MAX_PATH_CHARS: Final = 300
_MAX_KEY_CHARS: Final = 60
_LOWEST_INT: Final = -(2**63)
_HIGHEST_INT: Final = 2**64 - 1


def encode_metadata(returned: object, max_bytes: int) -> bytes | Failure:
    """Turn what an extractor returned into a result's value, or say why that can't be.

    Args:
        returned: what the extractor returned.
        max_bytes: the largest value that the result topic takes.
    """
    try:
        if type(returned) is not dict and not isinstance(returned, Mapping):  # the second costs as much as the JSON
            return Failure("not_a_dict", f"the extractor returned {type_name(returned)}, not a dictionary")
        value = _encode(returned, max_bytes)
    except TooManyElementsError as error:
        return Failure("result_too_large", f"the metadata is too large: {error}; a message may have {max_bytes} bytes")
    except UnsayableError as error:
        return Failure("not_json", f"the extractor returned something that JSON can't say: {error}")
    # Reading what is the user's may run code of theirs that raises anything, SystemExit and Rust's panics too.
    except BaseException as error:  # noqa: BLE001
        return Failure("not_json", f"reading what the extractor returned failed: {one_line(error)}")
    if len(value) > max_bytes:
        return Failure(
            "result_too_large", f"the metadata is {len(value)} bytes of JSON; a message may have {max_bytes} bytes"
        )
    return value


# NumPy is not left to orjson, which can say it: orjson 3.13 makes 1970, 1677 or broken JSON of NaT in arrays.
def _encode(returned: Mapping[Any, Any], max_bytes: int) -> bytes:
    try:
        return orjson.dumps(returned, default=_Steps(max_bytes).take)
    except TypeError:  # orjson's own, and what it makes of all that `take` raises
        return orjson.dumps(_Walk(max_bytes).plain(returned))


class _Steps:
    """Converts for orjson, as often as a result may have bytes: each value is one at least, and there may be no end."""

    __slots__ = ("_left", "_most")

    def __init__(self, most: int) -> None:
        self._left = self._most = most

    def take(self, value: Any) -> object:
        scalar = NUMPY_SCALARS.get(type(value))
        if scalar is not None:
            return scalar(value)
        self._left -= 1
        if self._left < 0:
            raise TooManyElementsError(self._most)
        return converted(value, self._most)


class _Walk:
    """Goes through metadata as orjson does, knowing where it is.

    Args:
        max_values: the most values that it may meet.
    """

    def __init__(self, max_values: int) -> None:
        self._max_values = max_values
        self._met = 0
        self._path: list[object] = []
        self._inside: set[int] = set()

    def plain(self, value: Any) -> object:
        """Return what orjson can say.

        Raises:
            UnsayableError: that is not possible; says where.
            TooManyElementsError: it is too large.
        """
        try:
            return self._plain(value)
        except UnsayableError as error:
            raise UnsayableError(f"{self._place()} {error}") from None
        except TooManyElementsError:
            raise
        except RecursionError:
            raise UnsayableError(f"{self._place()} is too deep to be read") from None
        except Exception as error:
            raise UnsayableError(f"{self._place()} can't be read: {one_line(error)}") from error

    def _plain(self, value: Any) -> object:
        self._met += 1
        if self._met > self._max_values:
            raise TooManyElementsError(self._met)
        if isinstance(value, Enum):
            value = value.value
        if value is None or type(value) in (bool, float):
            return value
        if isinstance(value, str):
            return _whole(str.__str__(value))
        if isinstance(value, int):
            return _of_64_bits(value)
        if isinstance(value, (dict, list)) or type(value) is tuple:
            return self._container(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._container(_fields(value))
        return self._other(value)

    def _container(self, value: Any) -> object:
        if id(value) in self._inside:
            raise UnsayableError(_ITSELF)
        if len(self._path) >= MAX_DEPTH:
            raise UnsayableError(f"is deeper than {MAX_DEPTH} levels")
        self._inside.add(id(value))
        made: Any
        if isinstance(value, dict):
            made = {}
            for key, inner in dict.items(value):
                self._path.append(key)
                text = self._key(key)
                if text in made:
                    raise UnsayableError(f"is one of two keys that both become {text[:_MAX_KEY_CHARS]!r}")
                made[text] = self._plain(inner)
                self._path.pop()
        else:
            made = []
            for number, inner in enumerate(value):
                self._path.append(number)
                made.append(self._plain(inner))
                self._path.pop()
        self._inside.discard(id(value))
        return made

    def _other(self, value: Any) -> object:
        if id(value) in self._inside:
            raise UnsayableError(_ITSELF)
        try:
            return orjson.Fragment(orjson.dumps(value))
        except TypeError:
            pass
        # Noted while what it becomes is looked at: a mapping of one's own may contain itself.
        self._inside.add(id(value))
        made = self._plain(converted(value, self._max_values))
        self._inside.discard(id(value))
        return made

    def _key(self, key: Any) -> str:
        if isinstance(key, str) and not isinstance(key, Enum):
            return _whole(str.__str__(key))
        if type(key) is int:
            return str(key)
        try:
            said = orjson.dumps(key, default=lambda value: converted(value, self._max_values))
        except TypeError:
            said = b"[]"
        text = orjson.loads(said)
        if isinstance(text, (list, dict)):
            raise UnsayableError(f"has a {type_name(key)} as its key")
        return text if isinstance(text, str) else said.decode()

    def _place(self) -> str:
        keys = [f"[{_shown(key)}]" for key in self._path]
        place = "metadata" + "".join(keys)
        if len(place) > _MAX_PATH_CHARS:
            place = f"{place[: _MAX_PATH_CHARS // 2]}...{place[-_MAX_PATH_CHARS // 2 :]}"
        return place


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnsayableError(f"has half a character, {text[error.start]!r}, at {error.start}") from None
    return text


def _of_64_bits(value: int) -> int:
    plain = int(value)
    if not _LOWEST_INT <= plain <= _HIGHEST_INT:
        raise UnsayableError("is an integer beyond 64 bits")
    return plain


def _fields(value: Any) -> dict[str, Any]:
    """Return a dataclass's fields as orjson sees them: all attributes, those with ``_`` in front left out."""
    names = getattr(value, "__dict__", None) or [field.name for field in dataclasses.fields(value)]
    return {name: getattr(value, name) for name in names if not name.startswith("_")}


def _shown(key: object) -> str:
    try:
        text = repr(key)
    # A key of the user's may not even be able to say what it is.
    except Exception:  # noqa: BLE001
        text = f"a {type_name(key)}"
    return text if len(text) <= _MAX_KEY_CHARS else f"{text[:_MAX_KEY_CHARS]}..."
