"""The header that names a record's file: what goes in comes out, and nothing else is believed."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.outcome import Facts, Outcome
from ray_reproducer.core.result_header import HEADER, decode, encode, group_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(0, 2**62)


@given(TEXT.filter(bool), TEXT, TEXT, st.builds(Facts, *[NUMBERS] * len(Facts._fields)))
def test_an_outcome_comes_back_without_its_record(path: str, reason: str, group_id: str, facts: Facts) -> None:
    outcome = Outcome(path, "dead_letter" if reason else "result", "key", b"{}", reason=reason, facts=facts)
    ((name, value),) = encode(outcome, group_id)
    assert name == HEADER
    assert decode("key", value, group_id) == outcome.without_record()
    assert decode("key", value, f"{group_id}x") is None
    assert group_of(value) == group_id


def test_a_message_that_is_no_chunk_has_no_file_to_name() -> None:
    assert encode(Outcome("", "dead_letter", "key", b"{}", reason="tombstone"), "group") == ()


@pytest.mark.parametrize(
    "fields",
    [
        None,
        {},
        [],
        [1, "group"],
        [2, "group", "a", "", 1, 2, 3, 4, 5, 6],
        [1, "group", 7, "", 1, 2, 3, 4, 5, 6],
        [1, "group", "a", None, 1, 2, 3, 4, 5, 6],
        [1, "group", "a", "", 1, 2, 3, 4, 5, "6"],
    ],
)
def test_what_is_not_understood_is_passed_over(fields: object) -> None:
    assert decode("key", orjson.dumps(fields), "group") is None


@pytest.mark.parametrize("fields", [None, {}, [], [1], [2, "group"], [1, 7], [1, "x" * 40_000]])
def test_what_names_no_group_is_of_none(fields: object) -> None:
    assert group_of(orjson.dumps(fields)) == ""
    assert group_of(fields) == ""


@given(st.binary())
def test_no_bytes_are_an_error(value: bytes) -> None:
    decode("key", value, "group")
    group_of(value)
