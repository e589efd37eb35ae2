"""What becomes of what an extractor returned: JSON byte for byte, or a failure that names the culprit's place."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import enum
import functools
import json
import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ray_reproducer.core.metadata_json import encode_metadata
from ray_reproducer.core.outcome import Failure

ROOM = 1_000_000
SECONDS_FOR_A_REFUSAL = 20.0
"""Far more than a refusal takes; far less than reading what has no end."""


def said(value: object) -> str:
    """JSON of a value that an extractor returned under the key "a"."""
    encoded = encode_metadata({"a": value}, ROOM)
    assert isinstance(encoded, bytes), encoded
    assert encoded.startswith(b'{"a":')
    return encoded.decode()[5:-1]


def refused(value: object, reason: str = "not_json", room: int = ROOM) -> str:
    failure = encode_metadata(value, room)
    assert isinstance(failure, Failure), failure
    assert failure.reason == reason
    assert not failure.error.endswith(": ")
    return failure.error


# ---------------------------------------------------------------- rule 1


def test_rule_1_a_result_is_the_json_object_itself() -> None:
    returned = {"b": 1, "a": [True, None, "ü", 1.5, 2**64 - 1, -(2**63)], "c": {}}
    text = '{"b":1,"a":[true,null,"ü",1.5,18446744073709551615,-9223372036854775808],"c":{}}'
    assert encode_metadata(returned, ROOM) == text.encode()
    assert encode_metadata({}, ROOM) == b"{}"


@pytest.mark.parametrize("returned", [None, [], "text", 5, [("a", 1)]])
def test_rule_1_what_is_no_dictionary_is_a_failure(returned: object) -> None:
    assert type(returned).__name__ in refused(returned, "not_a_dict")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_rule_1_readers_get_back_what_was_returned(returned: dict[str, Any]) -> None:
    value = encode_metadata(returned, ROOM)
    assert isinstance(value, bytes)
    assert json.loads(value) == returned


# ---------------------------------------------------------------- rule 2


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(str, enum.Enum):
    YES = "yes"


@dataclasses.dataclass
class Point:
    x: int
    y: float
    _cache: int = 7


@dataclasses.dataclass(frozen=True)
class Slotted:
    __slots__ = ("x",)
    x: int


class Named(NamedTuple):
    left: int
    right: str


class Text(str):
    __slots__ = ()


class Number(float):
    __slots__ = ()


class Whole(int):
    pass


class Mine(Sequence[int]):
    """A sequence whose iterator has no end, but whose length is known."""

    def __getitem__(self, index: Any) -> Any:
        return index

    def __len__(self) -> int:
        return 3


class NAType:
    """pandas' NA: its truth can't be asked for."""

    def __eq__(self, other: object) -> Any:
        return self

    def __hash__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


class Timestamp(dt.datetime):
    """As pandas' Timestamp: a datetime that orjson does not know."""


class NaT(dt.datetime):
    """As pandas' NaT: a datetime that differs from itself."""

    __hash__ = dt.datetime.__hash__

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True


class Series:
    """As pandas' Series."""

    def __init__(self, values: list[object]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def tolist(self) -> list[object]:
        return self._values


class Frame:
    """As a DataFrame of pandas or polars."""

    def __init__(self, *columns: tuple[object, list[object]]) -> None:
        self._columns = columns

    @property
    def columns(self) -> list[object]:
        return [name for name, _ in self._columns]

    def __len__(self) -> int:
        return len(self._columns[0][1])

    def __getitem__(self, name: object) -> list[object]:
        return dict(self._columns)[name]

    def to_dict(self) -> dict[object, object]:
        raise AssertionError("pandas' and polars' arguments differ")


UTC = dt.timezone.utc
STRUCTURED = np.array([(1, 2.5, b"x"), (2, np.nan, b"\xff")], dtype=[("n", ">i2"), ("v", "<f4"), ("s", "S1")])
CONVERSIONS: list[tuple[object, str]] = [
    # mappings and sequences
    (MappingProxyType({"c": 1}), '{"c":1}'),
    (collections.OrderedDict(c=1), '{"c":1}'),
    (collections.ChainMap({"c": 1}), '{"c":1}'),
    ((1, 2), "[1,2]"),
    (collections.deque([1, 2]), "[1,2]"),
    (range(3), "[0,1,2]"),
    (array.array("d", [1.0, 2.0]), "[1.0,2.0]"),
    (Mine(), "[0,1,2]"),
    ({"x": 1}.keys(), '["x"]'),
    ({"x": 1}.values(), "[1]"),
    ({"x": 1}.items(), '[["x",1]]'),
    (Named(1, "r"), '{"left":1,"right":"r"}'),
    (time.gmtime(0)[:3], "[1970,1,1]"),
    (Point(1, 2.0), '{"x":1,"y":2.0}'),
    ({"b", "a", "c"}, '["a","b","c"]'),
    (frozenset({3, 1, 2}), "[1,2,3]"),
    # scalars
    ([math.nan, math.inf, -math.inf, 1.5], "[null,null,null,1.5]"),
    (
        [Text("t"), Number(1.5), Number("nan"), Whole(3), Colour.RED, Level.HIGH, Word.YES],
        '["t",1.5,null,3,"red",3,"yes"]',
    ),
    ([Decimal("0.10"), Decimal("NaN"), Decimal("Infinity"), Fraction(1, 3)], '["0.10",null,null,"1/3"]'),
    (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), '"2026-01-02T03:04:05+00:00"'),
    (dt.datetime(2026, 1, 2, 3, 4, 5, 6), '"2026-01-02T03:04:05.000006"'),  # noqa: DTZ001 - no time zone, no offset
    (dt.datetime(1970, 1, 1), '"1970-01-01T00:00:00"'),  # noqa: DTZ001
    (dt.date(2026, 1, 2), '"2026-01-02"'),
    ([dt.time(3, 4), dt.time(3, 4, tzinfo=UTC)], '["03:04:00","03:04:00+00:00"]'),
    (dt.timedelta(minutes=1, milliseconds=500), "60.5"),
    ([b"caf\xc3\xa9", bytearray(b"x"), memoryview(b"abc")[::2]], '["café","x","ac"]'),
    (b"\xb5m", '{"base64":"tW0="}'),
    (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
    (PurePosixPath("x/y"), '"x/y"'),
    # pandas and polars by their methods
    ([Timestamp(2026, 1, 2), NaT(2026, 1, 2), NAType()], '["2026-01-02T00:00:00",null,null]'),
    (Frame(("x", [1, NAType()]), (2, [b"y", dt.date(2026, 1, 2)])), '{"x":[1,null],"2":["y","2026-01-02"]}'),
    # pyarrow
    (pa.scalar(3), "3"),
    (pa.array([1, None]), "[1,null]"),
    (pa.chunked_array([["x"], ["y"]]), '["x","y"]'),
    (pa.table({"x": [1.5, None]}), '{"x":[1.5,null]}'),
    (pa.array([dt.timedelta(seconds=2)]), "[2.0]"),
]


@pytest.mark.parametrize(
    ("value", "text"), CONVERSIONS, ids=[f"{type(v).__name__}-{n}" for n, (v, _) in enumerate(CONVERSIONS)]
)
def test_rule_2_conversions_that_are_promised(value: object, text: str) -> None:
    assert said(value) == text


@pytest.mark.parametrize(
    ("value", "text"), CONVERSIONS, ids=[f"{type(v).__name__}-{n}" for n, (v, _) in enumerate(CONVERSIONS)]
)
def test_rule_2_the_conversions_are_the_same_where_python_walks(value: object, text: str) -> None:
    # A key that is no text makes it walk.
    assert encode_metadata({"a": value, 1: 2}, ROOM) == f'{{"a":{text},"1":2}}'.encode()


NUMPY: list[tuple[object, str]] = [
    ([np.float32(0.5), np.float16(2), np.int64(3), np.uint8(4), np.bool_(True), np.str_("x"), np.bytes_(b"y")],
     '[0.5,2.0,3,4,true,"x","y"]'),
    ([np.longdouble(1.5), np.float64("nan"), np.array(1.5, "g"), np.array(5)], "[1.5,null,1.5,5]"),
    ([np.float32(0.1), np.float16(0.1), np.float32("nan")], "[0.1,0.099975586,null]"),
    (np.array([0.1], "f4"), "[0.1]"),
    (np.uint64(2**64 - 1), "18446744073709551615"),
    (np.array([1.0, np.nan, np.inf]), "[1.0,null,null]"),
    (np.arange(6).reshape(2, 3).T, "[[0,3],[1,4],[2,5]]"),
    (np.arange(6)[::-2], "[5,3,1]"),
    (np.arange(2).astype(">i4"), "[0,1]"),
    (np.array([1.5, np.nan], ">f8"), "[1.5,null]"),
    (np.array([1.5], "g"), "[1.5]"),
    (np.asmatrix([[1, 2]]), "[[1,2]]"),
    (np.zeros((0, 3)), "[]"),
    (np.zeros((2, 0)), "[[],[]]"),
    (np.array([True, False]), "[true,false]"),
    (np.array(["x", "yy"]), '["x","yy"]'),
    (np.array([b"x", b"\xff"]), '["x",{"base64":"/w=="}]'),
    (np.array([1, None, "x", {2: 3}], dtype=object), '[1,null,"x",{"2":3}]'),
    (np.ma.masked_array([1, 2], mask=[False, True]), "[1,null]"),
    (np.ma.masked_array([[1, 2], [3, 4]], mask=[[False, True], [False, False]], dtype=">i2"), "[[1,null],[3,4]]"),
    (np.ma.masked, "null"),
    (STRUCTURED, '[{"n":1,"v":2.5,"s":"x"},{"n":2,"v":null,"s":{"base64":"/w=="}}]'),
    (STRUCTURED[0], '{"n":1,"v":2.5,"s":"x"}'),
    (STRUCTURED.view(np.recarray)[:1], '[{"n":1,"v":2.5,"s":"x"}]'),
    (np.void(b"raw"), '"raw"'),
    (np.datetime64("2026-01-02"), '"2026-01-02T00:00:00"'),
    (np.timedelta64(1500, "ms"), "1.5"),
    (np.array([1, "NaT"], "m8[m]"), "[60.0,null]"),
    (np.ma.masked_array(np.array(["2026", "2027"], "M8[s]"), mask=[False, True]), '["2026-01-01T00:00:00",null]'),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), NUMPY, ids=map(str, range(len(NUMPY))))
def test_rule_2_numpy(value: object, text: str) -> None:
    assert said(value) == text
    assert encode_metadata({"a": value, 1: 2}, ROOM) == f'{{"a":{text},"1":2}}'.encode()


@pytest.mark.parametrize("unit", ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns"])
def test_rule_2_nat_is_null_whatever_its_unit(unit: Any) -> None:
    """orjson 3.13 makes 1970, 1677 or broken JSON of these, without a word."""
    assert said(np.array(["2026-01-01", "NaT", "1970-01-01"], f"M8[{unit}]")).count("null") == 1
    assert said(np.array([["NaT"], ["NaT"]], f"M8[{unit}]")) == "[[null],[null]]"
    assert said(np.datetime64("NaT", unit)) == "null"
    assert said([np.datetime64("1970-01-01", unit)]).startswith('["1970-01-01')


@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(max_dims=2, max_side=3)))
def test_rule_2_an_array_is_said_or_refused_as_its_elements_are(values: Any) -> None:
    """In every type that NumPy has, of either byte order."""
    try:
        elements = [said(element) for element in values.ravel()]
    except AssertionError:
        refused({"a": values})
        return
    flat = json.loads(said(values.ravel()))
    assert flat == [json.loads(element) for element in elements]
    assert [*np.array(json.loads(said(values)), dtype=object).ravel()] == flat


# ---------------------------------------------------------------- rule 3


def test_rule_3_keys_become_text() -> None:
    keys: dict[Any, int] = {
        True: 0, -2.5: 1, None: 2, "t": 4, np.int64(5): 5, np.str_("u"): 6, Colour.RED: 7, Word.YES: 8,
        dt.date(2026, 1, 2): 9, uuid.UUID(int=1): 10, PurePosixPath("p/q"): 11, b"b": 12, Decimal("1.10"): 13,
    }  # fmt: skip
    assert " ".join(json.loads(said(keys))) == (
        f"true -2.5 null t 5 u red yes 2026-01-02 {uuid.UUID(int=1)} p/q b 1.10"
    )


@pytest.mark.parametrize("keys", [(1, "1"), (None, "null"), (b"x", "x"), (math.nan, None), (Colour.RED, "red")])
def test_rule_3_two_keys_that_become_the_same_are_refused(keys: tuple[object, object]) -> None:
    assert "is one of two keys that both become" in refused({"a": dict.fromkeys(keys, 1)})


@pytest.mark.parametrize("key", [(1, 2), frozenset({1}), Named(1, "x"), b"\xff", object(), len, 1j])
def test_rule_3_keys_that_are_no_text_are_refused(key: object) -> None:
    assert f"has a {type(key).__name__} as its key" in refused({"a": {key: 1}})


# ---------------------------------------------------------------- rule 4


def cycle() -> dict[str, object]:
    made: dict[str, object] = {}
    made["a"] = [made]
    return made


def deep(levels: int) -> dict[str, object]:
    made: dict[str, object] = {}
    for _ in range(levels):
        made = {"a": made}
    return made


class Endless(Mapping[str, object]):
    def __getitem__(self, key: str) -> object:
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b"])

    def __len__(self) -> int:
        return 2


class Deeper(Endless):
    def __getitem__(self, key: str) -> object:
        return Deeper()


class Speechless:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


CULPRITS: dict[str, tuple[Any, str]] = {
    "a huge integer": ({"a": {"b": [0, 0, 0, 2**64]}}, "metadata['a']['b'][3] is an integer beyond 64 bits"),
    "an integer too huge for text": ({"a": 10**5000}, "metadata['a'] is an integer beyond 64 bits"),
    "a huge integer in a tuple": ({"a": (0, -(2**63) - 1)}, "metadata['a'][1] is an integer beyond 64 bits"),
    "half a character": ({"a": "x\ud800"}, "metadata['a'] has half a character, '\\ud800', at 1"),
    "half a character as a key": ({"\udfff": 1}, "metadata['\\udfff'] has half a character"),
    "half a character in an array": ({"a": np.array(["\ud800"])}, "metadata['a'][0] has half a character"),
    "a complex number": ({"a": 1j}, "metadata['a'] is a complex number"),
    "a complex array": ({"a": np.ones(2, complex)}, "metadata['a'][0] is a complex number"),
    "a cycle": (cycle(), "metadata['a'][0] lies within itself"),
    "a mapping that holds itself": (Endless(), "metadata['a'] lies within itself"),
    "300 levels": (deep(300), "is deeper than 254 levels"),
    "100,000 levels": (deep(100_000), "is deeper than 254 levels"),
    "an iterator": ({"a": iter([])}, "metadata['a'] is a list_iterator, which is not read: return a list"),
    "a generator": ({"a": (n for n in range(3))}, "metadata['a'] is a generator"),
    "a function": ({"a": {3: len}}, "metadata['a'][3] is of type builtin_function_or_method"),
    "a class": ({"a": Point}, "metadata['a'] is of type type"),
    "an object": ({"a": object()}, "metadata['a'] is of type object"),
    "in a dataclass": ({"a": Point(1, object())}, "metadata['a']['y'] is of type object"),  # type: ignore[arg-type]
    "in a named tuple": ({"a": Named(1, object())}, "metadata['a']['right'] is of type object"),  # type: ignore[arg-type]
    "in a structure": ({"a": np.array([(1j,)], [("f", "c8")])}, "metadata['a'][0]['f'] is a complex number"),
    "in an array of objects": ({"a": np.array([1, object()])}, "metadata['a'][1] is of type object"),
    "months, which have no length": ({"a": np.timedelta64(3, "M")}, "metadata['a'] can't be read: "),
    "two columns of a name": ({"a": Frame(("x", []), ("x", []))}, "metadata['a'] is a Frame of which two columns"),
    "a key that says nothing": ({Speechless(): 1}, "metadata[a Speechless] has a Speechless as its key"),
}  # fmt: skip


@pytest.mark.parametrize(("returned", "error"), CULPRITS.values(), ids=CULPRITS.keys())
def test_rule_4_what_json_can_not_say_is_refused_with_its_place(returned: object, error: str) -> None:
    assert error in refused(returned)


def test_rule_4_what_is_as_deep_as_orjson_goes_is_said() -> None:
    assert isinstance(encode_metadata(deep(250), ROOM), bytes)
    assert isinstance(encode_metadata({1: deep(240)}, ROOM), bytes)


def test_rule_4_a_mapping_that_goes_deeper_for_ever_is_refused() -> None:
    assert "metadata['a']['a']" in refused(Deeper())


def test_rule_4_the_place_stays_short() -> None:
    returned: object = 2**64
    for number in range(200):
        returned = {f"{number}" + "k" * 1000: returned}
    error = refused(returned)
    assert len(error) < 500
    assert "metadata['199kk" in error
    assert "kk'...] is an integer" in error or error.endswith("kkk...] is an integer beyond 64 bits")


def test_rule_4_one_container_twice_is_no_cycle() -> None:
    shared = [1]
    assert encode_metadata({"a": shared, 2: [shared, shared]}, ROOM) == b'{"a":[1],"2":[[1],[1]]}'


# ---------------------------------------------------------------- rule 5


class Closed(Mapping[str, int]):
    """As the attributes of a file that is closed, or worse."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __getitem__(self, key: str) -> int:
        raise self._error

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError("the file is closed"), "OSError: the file is closed"),
        (MuteError(), "MuteError: (its text can't be made)"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (RuntimeError("a\nb" + "c" * 10**6), "RuntimeError: a bccc"),
    ],
)
def test_rule_5_user_code_that_raises_while_it_is_read_is_a_failure(error: BaseException, text: str) -> None:
    assert text in refused(Closed(error))
    assert text in refused({"b": [Closed(error)]})
    assert len(refused(Closed(error))) < 11_000


def who(_value: object) -> type:
    raise RuntimeError("who am I?")


Liar = type("Liar", (), {"__class__": property(who)})
"""Can't be asked what it is."""


def test_rule_5_a_value_that_raises_when_it_is_asked_what_it_is_is_a_failure() -> None:
    assert "RuntimeError: who am I?" in refused(Liar())
    assert "RuntimeError: who am I?" in refused({"a": Liar()})


# ---------------------------------------------------------------- rule 6


def test_rule_6_what_is_too_large_for_a_message_is_refused() -> None:
    assert encode_metadata({"a": "x" * 92}, 100) == b'{"a":"' + b"x" * 92 + b'"}'
    error = refused({"a": "x" * 93}, "result_too_large", 100)
    assert "101 bytes" in error
    assert "100 bytes" in error


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(np.broadcast_to, 1.0, (10**6, 10**6)),
        functools.partial(np.zeros, (10**9, 0)),
        functools.partial(range, 10**15),
        functools.partial(np.zeros, ROOM + 1, ">i1"),
        functools.partial(collections.deque, [None] * (ROOM + 1)),
        functools.partial(pa.nulls, ROOM + 1),
        functools.partial(Series, [None] * (ROOM + 1)),
    ],
)
def test_rule_6_what_has_more_elements_than_a_message_has_bytes_is_not_read(make: Any) -> None:
    began = time.monotonic()
    assert "may have 1000000 bytes" in refused({"a": make()}, "result_too_large")
    assert time.monotonic() - began < SECONDS_FOR_A_REFUSAL


class Wide(Mapping[str, object]):
    """Two new ones in each, down to where orjson stops: more than there is memory for."""

    def __init__(self, levels: int) -> None:
        self._levels = levels

    def __getitem__(self, key: str) -> object:
        return Wide(self._levels - 1) if self._levels else 0

    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b"])

    def __len__(self) -> int:
        return 2


def test_rule_6_mappings_of_ones_own_can_not_go_on_for_ever() -> None:
    assert "may have 10000 bytes" in refused(Wide(100), "result_too_large", 10_000)


def test_rule_6_where_python_walks_it_stops_at_the_size_of_a_message() -> None:
    shared: list[object] = [2**64]
    for _ in range(30):
        shared = [shared, shared]
    # The culprit is deep down: found at once, as the walk is depth first.
    assert "is an integer beyond 64 bits" in refused({"a": shared})
    shared = [0]
    for _ in range(12):
        shared = [shared, shared]
    assert getattr(encode_metadata({1: shared}, 5_000), "reason", None) == "result_too_large"


def test_rule_6_a_result_of_50_megabytes_is_refused() -> None:
    assert "50000008 bytes of JSON" in refused({"a": "x" * 50_000_000}, "result_too_large")
