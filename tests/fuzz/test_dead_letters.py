"""Whatever is on the dead-letter topic: it is read as a letter that makes sense, or refused by one kind of error."""

from __future__ import annotations

import json
import pickle
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.chunk import VERSION_ID_BYTES, Chunk, FileVersion, encode
from ray_reproducer.core.dead_letter import DeadLetter, parse
from ray_reproducer.core.errors import DeadLetterError
from ray_reproducer.core.outcome import (
    MAX_ERROR_CHARS,
    MAX_OFFSET_RANGES,
    Failure,
    Origin,
    PoisonMessage,
    dead_letter,
    poison_letter,
)
from tests.fuzz.budget import fuzz
from tests.fuzz.hostile import damaged, names, numbers

VERSION = FileVersion("a", "b.csv", "", bytes(range(64)), 3, 1.0)
ORIGIN = Origin("raw", bytes(16), "mine", "ray_reproducer 1")
NOW = "2026-01-02T03:04:05+00:00"
FAILURE = Failure("extractor_raised", "no", "Traceback")
CHUNK = encode(Chunk(VERSION, 1, 0, bytes(64), b"data"))
LETTERS = [
    dead_letter(
        VERSION,
        Failure("extractor_raised", "no", "Traceback"),
        {0: [1, 2, 5], 3: [0]},
        ORIGIN,
        "2026-01-02T03:04:05+00:00",
    ),
    poison_letter(2, 5, PoisonMessage("not_a_chunk", "none", b"\xc1", 1), ORIGIN, NOW),
    poison_letter(2, 5, PoisonMessage("not_a_chunk", "none", CHUNK, len(CHUNK)), ORIGIN, NOW),
]
values = [letter.value for letter in LETTERS]
times = ["2026-02-30T00:00:00+00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-01"]
texts = st.sampled_from(["00" * 12, "0" * 128, "Infinity", "9" * 400, *times]) | names
partitions = st.sampled_from(["0", "-1", "99999999999", "٣"]) | names
leaves = st.none() | st.booleans() | numbers | st.floats() | texts
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(partitions, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A letter in which some values are others, wherever they are."""
    record: dict[str, Any] = json.loads(draw(st.sampled_from(values)))
    for _ in range(draw(st.integers(1, 3))):
        inner = record
        while True:
            key = draw(st.sampled_from(sorted(inner)) if inner else st.just("new"))
            if not isinstance(inner.get(key), dict) or draw(st.booleans()):
                break
            inner = inner[key]
        if draw(st.sampled_from([False, False, False, True])):
            inner.pop(key, None)
        else:
            inner[key] = draw(anything)
    return json.dumps(record).encode("utf-8", "surrogatepass")


def check(letter: DeadLetter) -> None:
    assert len(letter.version_id) in (0, VERSION_ID_BYTES)
    assert bool(letter.path) <= bool(letter.version_id)
    assert letter.n_chunks >= 0
    assert len(letter.ranges) <= MAX_OFFSET_RANGES
    assert all(p >= 0 and 0 <= first <= last < 2**63 - 1 for p, first, last in letter.ranges)
    assert list(letter.ranges) == sorted(letter.ranges)
    assert letter.time.utcoffset() == timedelta(0)
    assert len(letter.error) <= MAX_ERROR_CHARS
    assert letter.name
    assert letter.brief().version_id == letter.version_id
    assert pickle.loads(pickle.dumps(letter)) == letter


@given(
    st.binary(max_size=200)
    | damaged(st.sampled_from(values))
    | changed()
    | anything.map(lambda a: json.dumps(a).encode())
)
@fuzz("dead_letter")
def test_any_record_is_a_letter_or_is_refused(value: bytes) -> None:
    try:
        letter = parse(value)
    except DeadLetterError as error:
        assert 0 < len(error.message) < 500
    else:
        check(letter)


def test_a_letter_of_a_megabyte_of_brackets_is_refused() -> None:
    for value in (b"[" * 1_000_000, b'{"a":' * 200_000, b'{"source":{"offsets":{"0":' + b"[" * 1_000_000):
        try:
            parse(value)
        except DeadLetterError:
            continue
        raise AssertionError("it was read")
