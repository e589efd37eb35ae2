"""Results on stdout: one JSON object a line, and an orderly end when nobody reads them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from ray_reproducer.core.errors import ResultsOutputError
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.observability.results import ResultsWriter, line

RESULT = Outcome(path="sub/ä.csv", kind="result", key="k", value='{"a":[1,null],"ö":"x\\ny"}'.encode())
FAILURE = Outcome(path="b.csv", kind="dead_letter", key="k", value=b"{}", reason="extractor_raised", error='say "no"')
POISON = Outcome(
    path="", kind="dead_letter", key="k", value=b"{}", reason="tombstone", error="empty", partition=3, offset=7
)


def test_each_outcome_is_one_line_of_json() -> None:
    lines = [line(outcome) for outcome in (RESULT, FAILURE, POISON)]
    assert all(text.endswith(b"\n") and text.count(b"\n") == 1 for text in lines)
    assert [json.loads(text) for text in lines] == [
        {"path": "sub/ä.csv", "outcome": "result", "metadata": {"a": [1, None], "ö": "x\ny"}},
        {"path": "b.csv", "outcome": "dead_letter", "reason": "extractor_raised", "error": 'say "no"'},
        {
            "path": None,
            "outcome": "dead_letter",
            "reason": "tombstone",
            "error": "empty",
            "partition": 3,
            "offset": 7,
        },
    ]


def test_they_are_flushed_each_time(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as stream:
        writer = ResultsWriter(stream, on_closed=lambda: None)
        writer.write([RESULT, FAILURE])
        assert (tmp_path / "out").read_bytes() == line(RESULT) + line(FAILURE)
        writer.write([])
        writer.write([POISON])
        assert (tmp_path / "out").read_bytes().count(b"\n") == 3


def test_when_the_reader_goes_away_the_run_is_asked_to_stop_once() -> None:
    closed: list[bool] = []
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as stream:
        writer = ResultsWriter(stream, on_closed=lambda: closed.append(True))
        writer.write([RESULT])
        os.close(reading)
        writer.write([RESULT])
        writer.write([RESULT])
        assert closed == [True]
        assert stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)  # /dev/null: closing it can't fail any more


def test_a_full_disk_is_an_error_that_says_so() -> None:
    if not Path("/dev/full").exists():
        pytest.fail("this test needs /dev/full")
    with Path("/dev/full").open("wb", buffering=0) as stream, pytest.raises(ResultsOutputError, match="No space left"):
        ResultsWriter(cast("BinaryIO", stream), on_closed=lambda: None).write([RESULT])
