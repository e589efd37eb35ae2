"""What the committer keeps for the driver: all of it only if asked for, and bounded otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_reproducer.actors import kept_outcomes
from ray_reproducer.actors.kept_outcomes import FAILURES_KEPT, KeptOutcomes
from ray_reproducer.core.outcome import Facts, Outcome

DONE_MS = 1_795_452_492_000


def result(path: str) -> Outcome:
    return Outcome(path, "result", "k", b'{"much": "metadata"}', facts=Facts(n_messages=3, done_ms=DONE_MS))


def failure(path: str) -> Outcome:
    return Outcome(path, "dead_letter", "k", b"a whole record", reason="timeout", error="too long")


def test_all_that_was_asked_for_is_kept_as_it_is() -> None:
    kept = KeptOutcomes(everything=True, registries=True)
    outcomes = [result(str(number)) for number in range(1000)]
    assert kept.add(outcomes) == ""
    assert kept.take() == tuple(outcomes)
    assert kept.take() == ()


def test_normally_only_the_last_failures_are_kept() -> None:
    kept = KeptOutcomes(everything=False, registries=False)
    for number in range(FAILURES_KEPT + 1):
        assert kept.add([result("a"), failure(str(number))]) == ""
    assert [outcome.path for outcome in kept.take()] == [str(number) for number in range(1, FAILURES_KEPT + 1)]


def test_for_the_registries_all_are_kept_without_their_records() -> None:
    kept = KeptOutcomes(everything=False, registries=True)
    kept.add([result("a"), failure("b")])
    first, second = kept.take()
    assert (first.path, first.value, first.facts.n_messages) == ("a", b"", 3)
    assert (second.path, second.value, second.error) == ("b", b"", "too long")


def test_for_the_registries_what_is_left_out_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_outcomes, "REGISTRY_OUTCOMES_KEPT", 2)
    kept = KeptOutcomes(everything=False, registries=True)
    assert kept.add([result("a"), result("b")]) == ""
    assert "come there later" in kept.add([result("c")])
    assert kept.add([result("d")]) == ""
    assert [outcome.path for outcome in kept.take()] == ["c", "d"]


def test_for_the_registries_it_is_known_since_when_outcomes_were_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_outcomes, "REGISTRY_OUTCOMES_KEPT", 2)
    kept = KeptOutcomes(everything=False, registries=True)
    kept.add([failure("no file, no time")])
    kept.add([replace(result(str(number)), facts=Facts(done_ms=DONE_MS + number)) for number in range(2)])
    assert kept.take_left_out() is None
    kept.add([replace(result(str(number)), facts=Facts(done_ms=DONE_MS + number)) for number in range(2, 6)])
    assert [outcome.path for outcome in kept.take()] == ["4", "5"]
    assert kept.take_left_out() == DONE_MS
    assert kept.take_left_out() is None
