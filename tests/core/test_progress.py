"""What is counted, and how counters of several lives of one run go together."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from ray_reproducer.core.intake import Delivery
from ray_reproducer.core.outcome import Facts, Outcome
from ray_reproducer.core.progress import Counters, Progress

NOW = {
    "held", "files_incomplete", "files_waiting", "files_in_flight", "outcomes_pending",
    "lag_messages", "broker_trouble", "drained",
}  # fmt: skip
"""What a new life finds anew. Files that were held, it tries again."""
COUNTED = [field.name for field in fields(Progress) if field.name not in {*NOW, "dead_letters_by_reason"}]


def counted(name: str, number: int) -> Progress:
    alone: dict[str, Any] = {name: number}
    return Progress(**alone)


@pytest.mark.parametrize("name", COUNTED)
def test_what_is_counted_is_added_to_that_of_earlier_lives(name: str) -> None:
    assert counted(name, 5).after(counted(name, 2)) == counted(name, 7)


def test_dead_letters_are_added_reason_by_reason() -> None:
    earlier, later = {"timeout": 2, "incomplete": 1}, {"timeout": 1, "tombstone": 4}
    both = Progress(dead_letters_by_reason=later).after(Progress(dead_letters_by_reason=earlier))
    assert both.dead_letters_by_reason == {"timeout": 3, "incomplete": 1, "tombstone": 4}


def test_what_is_so_now_is_that_of_the_last_life() -> None:
    earlier = Progress(
        held=1, files_incomplete=2, files_waiting=3, files_in_flight=4, outcomes_pending=5,
        lag_messages=6, broker_trouble="away", drained=True,
    )  # fmt: skip
    assert Progress().after(earlier) == Progress()


def test_messages_and_bytes_are_counted_when_they_are_read() -> None:
    counters = Counters()
    counters.delivered(Delivery(messages=5, size_bytes=70, filtered=2, lost=((0, 3, 9), (1, 0, 1))))
    assert counters.snapshot() == Progress(messages_read=5, bytes_read=70, filtered=2, offsets_lost=7)


def test_of_a_file_that_was_given_up_the_chunks_that_never_came_are_not_counted() -> None:
    counters = Counters()
    facts = Facts(n_messages=5, size_bytes=30, n_missing=2)
    counters.committed(Outcome("a", "dead_letter", "k", b"why", "incomplete", facts=facts))
    counters.committed(Outcome("b", "result", "k", b"{}", facts=Facts(n_messages=4, size_bytes=40)))
    told = counters.snapshot()
    assert (told.messages_processed, told.bytes_processed) == (3 + 4, 30 + 40)
    assert (told.results, told.bytes_produced, told.dead_letters) == (1, 2, 1)
