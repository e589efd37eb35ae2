"""Reading dead letters. The rules are those at the head of ``core/dead_letter.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.chunk import Chunk, FileVersion, encode
from ray_reproducer.core.dead_letter import SHORT_ERROR_CHARS, DeadLetter, parse
from ray_reproducer.core.errors import DeadLetterError
from ray_reproducer.core.outcome import (
    MAX_OFFSET_RANGES,
    Failure,
    Origin,
    PoisonMessage,
    dead_letter,
    poison_letter,
    refused_by_broker,
    result,
)

VERSION = FileVersion("a/b", "c.csv", "_v2", bytes(range(64)), 3, 1_700_000_000.5)
ORIGIN = Origin("raw", bytes(range(16)), "mine", "ray_reproducer 1.0")
NOW = "2026-01-02T03:04:05.678+01:00"
FAILURE = Failure("extractor_raised", "KeyError: 'x'", "Traceback\n  KeyError", 2)
LETTER = dead_letter(VERSION, FAILURE, {1: [4, 5, 9], 0: [7]}, ORIGIN, NOW).value


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The letter, with something changed in its JSON."""
    record = json.loads(LETTER)
    change(record)
    return json.dumps(record).encode()


def test_what_outcome_writes_is_read() -> None:
    assert parse(LETTER) == DeadLetter(
        path="a/b/c_v2.csv",
        reason="extractor_raised",
        error="KeyError: 'x'",
        traceback="Traceback\n  KeyError",
        attempts=2,
        version_id=VERSION.id,
        n_chunks=3,
        topic="raw",
        topic_id=bytes(range(16)),
        ranges=((0, 7, 7), (1, 4, 5), (1, 9, 9)),
        exact=True,
        extractor="mine",
        program="ray_reproducer 1.0",
        time=datetime(2026, 1, 2, 2, 4, 5, 678_000, timezone.utc),
    )


def test_a_small_letter_in_the_place_of_one_too_large_is_read() -> None:
    refused = result(VERSION, b"x" * 2_000_000)
    letter = parse(refused_by_broker(refused, {0: list(range(0, 20, 2))}, ORIGIN, NOW).value)
    assert (letter.version_id, letter.n_chunks, letter.reason) == (VERSION.id, VERSION.n_chunks, "result_too_large")
    assert (letter.ranges, letter.exact) == (((0, 0, 18),), False)


def test_rule_3_a_message_that_is_no_chunk_is_about_no_file() -> None:
    poison = PoisonMessage("not_a_chunk", "no msgpack", b"\xc1", 1)
    letter = parse(poison_letter(2, 5, poison, ORIGIN, NOW).value)
    assert (letter.path, letter.version_id, letter.n_chunks) == ("", b"", 0)
    assert letter.name == "raw [2] offset 5"
    refused = refused_by_broker(poison_letter(2, 5, poison, ORIGIN, NOW), {2: [5]}, ORIGIN, NOW)
    assert parse(refused.value).version_id == b""


def test_rule_3_a_message_that_is_a_chunk_by_now_is_about_its_file() -> None:
    raw = encode(Chunk(VERSION, 2, 10, bytes(64), b"data"))
    whole = parse(poison_letter(2, 5, PoisonMessage("not_a_chunk", "", raw, len(raw)), ORIGIN, NOW).value)
    assert (whole.version_id, whole.n_chunks, whole.ranges) == (VERSION.id, 3, ((2, 5, 5),))
    cut_off = parse(poison_letter(2, 5, PoisonMessage("not_a_chunk", "", raw, len(raw) + 1), ORIGIN, NOW).value)
    assert cut_off.version_id == b""


def test_rule_4_keys_that_are_not_known_are_passed_over() -> None:
    assert parse(changed(lambda record: record.update(new={"deep": [1]}))) == parse(LETTER)
    assert parse(changed(lambda record: record["file"].update(missing=[[2, 3]]))) == parse(LETTER)


LIES: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("schema", lambda r: r.update(schema=2), "schema version 2"),
    ("schema is true", lambda r: r.update(schema=True), "schema is bool"),
    ("no reason", lambda r: r.pop("reason"), "reason is NoneType"),
    ("empty reason", lambda r: r.update(reason=""), "reason has 0 characters"),
    ("path", lambda r: r.update(path=["a"]), "path is list"),
    ("file", lambda r: r.pop("file"), "file is NoneType"),
    ("another id", lambda r: r["file"].update(id="00" * 12), "file.id is not the one"),
    ("another path", lambda r: r.update(path="a/b/d.csv"), "file.id is not the one"),
    ("id", lambda r: r["file"].update(id="zz" * 12), "12 bytes in hexadecimal"),
    ("id too short", lambda r: r["file"].update(id="00"), "12 bytes in hexadecimal"),
    ("chunks", lambda r: r["file"].update(n_chunks=2**40), "n_chunks"),
    ("topic id", lambda r: r["source"].update(topic_id=None), "topic_id"),
    ("attempts", lambda r: r.update(attempts=-1), "attempts is -1"),
    ("time", lambda r: r.update(time="soon"), "time is no ISO time"),
    ("time without zone", lambda r: r.update(time="2026-01-02T03:04:05"), "no offset from UTC"),
    ("first time", lambda r: r.update(time="0001-01-01T00:00:00+23:59"), "time is no ISO time"),
    ("offsets", lambda r: r["source"].update(offsets=[[1, 2]]), "offsets is list"),
    ("partition", lambda r: r["source"].update(offsets={"x": []}), "no partition"),
    ("huge partition", lambda r: r["source"].update(offsets={"9" * 5_000: []}), "no partition"),
    ("range", lambda r: r["source"].update(offsets={"0": [[2, 1]]}), "a range that is none"),
    ("huge offset", lambda r: r["source"].update(offsets={"0": [[0, 2**63]]}), "a range that is none"),
    ("float", lambda r: r["source"].update(offsets={"0": [[0.0, 1.0]]}), "a range that is none"),
    ("many", lambda r: r["source"].update(offsets={"0": [[1, 1]] * (MAX_OFFSET_RANGES + 1)}), "too many"),
]


@pytest.mark.parametrize(("change", "said"), [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES])
def test_rules_1_and_2_a_letter_that_lies_is_told(change: Callable[[dict[str, Any]], object], said: str) -> None:
    with pytest.raises(DeadLetterError, match=said):
        parse(changed(change))


@pytest.mark.parametrize("value", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"schema":1}'])
def test_rule_1_what_is_no_letter_is_told(value: bytes) -> None:
    with pytest.raises(DeadLetterError):
        parse(value)


PATHS = sorted({(key,) for key in json.loads(LETTER)} | {("source", key) for key in json.loads(LETTER)["source"]})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(st.sampled_from(PATHS), JSON)
def test_rule_1_any_other_value_anywhere_is_read_or_told(path: tuple[str, ...], value: object) -> None:
    def change(record: dict[str, Any]) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    try:
        letter = parse(changed(change))
    except DeadLetterError:
        return
    assert all(0 <= first <= last for _, first, last in letter.ranges)


@given(st.binary(max_size=200) | st.integers(0, len(LETTER)).map(lambda end: LETTER[:end]))
def test_rule_1_any_bytes_are_read_or_told(value: bytes) -> None:
    try:
        parse(value)
    except DeadLetterError as error:
        assert len(str(error)) < 2_000


def test_a_brief_letter_has_no_traceback_and_a_short_error() -> None:
    letter = replace(parse(LETTER), error="x" * 1_000)
    assert letter.brief() == replace(letter, traceback="", error="x" * (SHORT_ERROR_CHARS - 3) + "...")
