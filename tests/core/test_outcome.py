"""The records that are produced, byte for byte."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.outcome import (
    MAX_ERROR_CHARS,
    MAX_OFFSET_RANGES,
    MAX_RAW_MESSAGE_BYTES,
    MAX_TRACEBACK_CHARS,
    Failure,
    Origin,
    PoisonMessage,
    cut,
    dead_letter,
    held,
    poison_letter,
    refused_by_broker,
    result,
)

VERSION = FileVersion("a/b", "c.csv", "", bytes(range(64)), 3, 1_700_000_000.5)
ORIGIN = Origin("raw", bytes(range(16)), "mine", "ray_reproducer 1.0")
NOW = "2026-01-02T03:04:05.678+00:00"
BROKERS_LIMIT_BYTES = 1_048_588
"""``message.max.bytes`` of a broker that nobody configured."""
ROOM = 1_000_000


def record_of(failure: Failure, offsets: Mapping[int, list[int]] | None = None) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(dead_letter(VERSION, failure, offsets or {0: [1]}, ORIGIN, NOW).value)
    return record


# ---------------------------------------------------------------- rule 1


def test_rule_1_an_outcome_is_a_result_or_a_dead_letter_under_the_same_key() -> None:
    good = result(VERSION, b"{}")
    bad = dead_letter(VERSION, Failure("extractor_raised", "no"), {0: [1]}, ORIGIN, NOW)
    assert (good.kind, good.reason, good.error) == ("result", "", "")
    assert (bad.kind, bad.reason, bad.error) == ("dead_letter", "extractor_raised", "no")
    assert good.path == bad.path == "a/b/c.csv"
    assert good.key == bad.key == "a_b_c.csv_chunk_processing_result"


def test_rule_1_what_is_held_has_texts_that_can_be_said() -> None:
    of_file = held(VERSION, Failure("extractor_raised", "half \ud800 a character", "File \udcff.py"))
    assert (of_file.error, of_file.traceback) == (r"half \ud800 a character", r"File \udcff.py")


# ---------------------------------------------------------------- rule 2


def test_rule_2_a_result_is_the_metadata_and_nothing_else() -> None:
    assert result(VERSION, b'{"a":1}').value == b'{"a":1}'


# ---------------------------------------------------------------- rule 3


def test_rule_3_a_dead_letter_names_everything_that_is_needed_to_run_the_file_again() -> None:
    failure = Failure("extractor_raised", "ValueError: no", "Traceback...", attempts=2)
    assert record_of(failure, {2: [5], 0: [1, 2, 3, 7]}) == {
        "schema": 1,
        "path": "a/b/c.csv",
        "reason": "extractor_raised",
        "error": "ValueError: no",
        "traceback": "Traceback...",
        "attempts": 2,
        "source": {
            "topic": "raw",
            "topic_id": bytes(range(16)).hex(),
            "offsets": {"0": [[1, 3], [7, 7]], "2": [[5, 5]]},
            "exact": True,
        },
        "extractor": "mine",
        "program": "ray_reproducer 1.0",
        "time": NOW,
        "file": {
            "id": VERSION.id.hex(),
            "sha512": bytes(range(64)).hex(),
            "n_chunks": 3,
            "mtime": 1_700_000_000.5,
        },
    }


def test_rule_3_a_letter_of_poison_carries_the_message_itself() -> None:
    poison = PoisonMessage("not_a_chunk", "it is none", b"\x00\xffraw", 9_000)
    letter = poison_letter(3, 77, poison, ORIGIN, NOW)
    record = json.loads(letter.value)
    assert (letter.path, letter.key, letter.partition, letter.offset) == ("", "raw_3_77", 3, 77)
    assert record["path"] is None
    assert record["source"]["offsets"] == {"3": [[77, 77]]}
    assert base64.b64decode(record["message"]["base64"]) == b"\x00\xffraw"
    assert (record["message"]["size_bytes"], record["message"]["truncated"]) == (9_000, True)
    assert record["attempts"] == 0
    assert "file" not in record


def test_rule_3_a_whole_message_is_not_called_truncated() -> None:
    letter = poison_letter(0, 0, PoisonMessage("tombstone", "no value", b"", 0), ORIGIN, NOW)
    assert json.loads(letter.value)["message"] == {"base64": "", "size_bytes": 0, "truncated": False}


@given(st.sets(st.integers(0, 300)))
def test_rule_3_ranges_name_exactly_the_offsets(offsets: set[int]) -> None:
    record = record_of(Failure("timeout", "slow"), {0: sorted(offsets)})
    named = [o for first, last in record["source"]["offsets"]["0"] for o in range(first, last + 1)]
    assert named == sorted(offsets)


# ---------------------------------------------------------------- rule 4


def test_rule_4_a_dead_letter_always_fits_a_message() -> None:
    widest = "\x01"  # six bytes of JSON
    failure = Failure("extractor_raised", widest * 10**6, widest * 10**6)
    offsets = {p: list(range(2**62, 2**62 + 2 * MAX_OFFSET_RANGES // 4, 2)) for p in range(4)}
    version = FileVersion("/".join([widest * 255] * 15), widest * 255, "", bytes(64), 1)
    letter = dead_letter(version, failure, offsets, ORIGIN, NOW)
    assert json.loads(letter.value)["source"]["exact"]
    assert len(letter.value) < BROKERS_LIMIT_BYTES
    poison = PoisonMessage("not_a_chunk", widest * 10**6, b"x" * MAX_RAW_MESSAGE_BYTES, 10**9)
    assert len(poison_letter(0, 0, poison, ORIGIN, NOW).value) < BROKERS_LIMIT_BYTES


def test_rule_4_too_many_ranges_become_the_outermost_and_say_so() -> None:
    scattered = list(range(0, 2 * MAX_OFFSET_RANGES + 2, 2))
    source = record_of(Failure("timeout", "slow"), {0: scattered, 5: [9]})["source"]
    assert source["offsets"] == {"0": [[0, scattered[-1]]], "5": [[9, 9]]}
    assert not source["exact"]


def test_rule_4_of_a_traceback_the_end_is_kept_and_of_an_error_the_beginning() -> None:
    record = record_of(Failure("extractor_raised", "E" + "x" * 5_000, "t" * 30_000 + "the cause"))
    assert len(record["error"]) == MAX_ERROR_CHARS
    assert record["error"].startswith("Ex")
    assert record["error"].endswith("...")
    assert len(record["traceback"]) == MAX_TRACEBACK_CHARS
    assert record["traceback"].endswith("the cause")


def test_rule_4_cutting_keeps_what_fits() -> None:
    assert [cut(text, 5) for text in ("", "12345", "123456")] == ["", "12345", "12..."]


def test_rule_4_texts_of_user_code_may_hold_what_utf_8_can_not() -> None:
    record = record_of(Failure("extractor_raised", "bad \ud800 name", "in \udfff.py"))
    assert (record["error"], record["traceback"]) == ("bad \\ud800 name", "in \\udfff.py")


def test_rule_4_what_the_broker_refused_is_replaced_by_something_small() -> None:
    refused = result(VERSION, b"x" * 2_000_000)
    small = refused_by_broker(refused, {0: list(range(0, 20_000, 2))}, ORIGIN, NOW)
    assert (small.kind, small.reason, small.path, small.key) == (
        "dead_letter", "result_too_large", refused.path, refused.key,
    )  # fmt: skip
    assert "2000000 bytes" in small.error
    assert json.loads(small.value)["file"]["sha512"] == VERSION.file_hash.hex()
    assert len(small.value) < 1_000


def test_rule_4_a_dead_letter_that_the_broker_refused_keeps_its_reason() -> None:
    poison = PoisonMessage("unsafe_path", "it leaves the root", b"x" * 200_000, 200_000)
    small = refused_by_broker(poison_letter(1, 5, poison, ORIGIN, NOW), {1: [5]}, ORIGIN, NOW)
    assert (small.reason, small.error, small.partition, small.offset) == ("unsafe_path", "it leaves the root", 1, 5)
    assert json.loads(small.value)["path"] is None
    assert "file" not in json.loads(small.value)
    assert len(small.value) < 1_000
    tried = dead_letter(VERSION, Failure("timeout", "slow", attempts=3), {0: [1]}, ORIGIN, NOW)
    assert json.loads(refused_by_broker(tried, {0: [1]}, ORIGIN, NOW).value)["attempts"] == 3
