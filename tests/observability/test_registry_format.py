"""The registries' format: any name goes in, comes back out of csv and ast, and stays on one line."""

from __future__ import annotations

import ast
import csv
import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.outcome import Facts, Outcome
from ray_reproducer.observability import registry_format
from ray_reproducer.observability.registry_format import (
    IN_PROGRESS_COLUMNS,
    RESULTS_COLUMNS,
    header,
    in_progress_name,
    in_progress_row,
    result_row,
    results_name,
    row,
    status_of,
    time_text,
    values,
)

THEIR_TIME = "%a %b %d, %Y at %H:%M:%S"
NOON_MS = int(datetime(2026, 11, 23, 16, 48, 12).astimezone().timestamp()) * 1000
HOSTILE = st.text(st.sampled_from(";'\"\n\r\t\\\0\x85\u2028\ud800\udfff,é中 a.")) | st.text(
    st.characters(exclude_categories=())
)


def result(path: str, facts: Facts) -> Outcome:
    return Outcome(path=path, kind="result", key="k", value=b"{}", facts=facts)


@given(st.lists(HOSTILE | st.integers(), min_size=1))
def test_rule_1_any_values_come_back_out_of_csv_and_ast(written: list[str | int]) -> None:
    line = row(written)
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    line.encode("utf-8")  # no lone surrogate is left
    fields = next(csv.reader([line], delimiter=";"))
    assert [ast.literal_eval(field) for field in fields] == written
    assert values(line) == written
    assert values(line.rstrip("\n")) == written


@given(HOSTILE, st.integers(1, 10**6), st.integers(), st.integers(0, 2**45))
def test_rule_1_rows_of_registries_have_their_columns(path: str, n_chunks: int, first_ms: int, done_ms: int) -> None:
    facts = Facts(n_messages=n_chunks, first_ms=first_ms, done_ms=done_ms)
    name, relative, chunks, first, done = values(result_row(result(path, facts)))
    assert (relative, chunks) == (path, n_chunks)
    assert name == path.rpartition("/")[2]
    for when in (first, done):
        datetime.strptime(str(when), THEIR_TIME)  # noqa: DTZ007 - theirs has no zone
    assert len(values(in_progress_row(path, "in_progress", n_chunks, first_ms, first_ms, done_ms))) == 6


def test_rows_are_what_the_other_program_writes() -> None:
    facts = Facts(n_messages=3, first_ms=NOON_MS, done_ms=NOON_MS + 1999)
    assert header(RESULTS_COLUMNS) == "filename;rel_filepath;n_chunks;first_message;processed_at\n"
    assert header(IN_PROGRESS_COLUMNS) == "filename;rel_filepath;status;n_chunks;first_message;most_recent_message\n"
    assert result_row(result("a/b/c.csv", facts)) == (
        "'c.csv';'a/b/c.csv';3;'Mon Nov 23, 2026 at 16:48:12';'Mon Nov 23, 2026 at 16:48:13'\n"
    )
    assert in_progress_row("c.csv", "mismatched_hash", 1, NOON_MS, NOON_MS, 0) == (
        "'c.csv';'c.csv';'mismatched_hash';1;'Mon Nov 23, 2026 at 16:48:12';'Mon Nov 23, 2026 at 16:48:12'\n"
    )


@pytest.mark.parametrize("name", ["a;b.csv", 'a"b.csv', "it's.csv", """both'".csv""", "new\nline", "\udcff"])
def test_rule_1_names_that_would_break_a_row(name: str) -> None:
    assert values(row([name, 1])) == [name, 1]


def test_rule_2_times_are_english_and_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    registry_format._second_text.cache_clear()
    try:
        assert time_text(1_795_452_492_000, 0) == "Tue Nov 24, 2026 at 01:48:12"
    finally:
        monkeypatch.undo()
        time.tzset()
        registry_format._second_text.cache_clear()


@pytest.mark.parametrize("no_time", [0, -1, 2**62, -(2**62)])
def test_rule_3_a_time_that_no_clock_shows_is_another_one(no_time: int) -> None:
    assert time_text(no_time, NOON_MS) == "Mon Nov 23, 2026 at 16:48:12"


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("hash_mismatch", "mismatched_hash"),
        ("result_too_large", "producing_message_failed"),
        ("extractor_raised", "computing_result_message_failed"),
        ("timeout", "computing_result_message_failed"),
    ],
)
def test_failures_in_the_other_programs_words(reason: str, status: str) -> None:
    assert status_of(Outcome(path="a", kind="dead_letter", key="k", value=b"", reason=reason)) == status


@pytest.mark.parametrize("line", ["", "filename;rel_filepath", "'a';'b", "[1];2", "'a';{'b': 1}", "'a';open('x')"])
def test_what_is_no_row_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no row"):
        values(line)


def test_names_of_the_files() -> None:
    assert in_progress_name("raw", "g") == "consuming_from_raw_in_progress_by_g.csv"
    assert in_progress_name("raw", "a/../b\0") == "consuming_from_raw_in_progress_by_a_.._b_.csv"
    assert results_name("metadata") == "results_produced_to_metadata.csv"
