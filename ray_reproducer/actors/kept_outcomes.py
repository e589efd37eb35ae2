"""Which committed outcomes the committer keeps until the driver fetches them, and how much of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from ray_reproducer.core.outcome import Outcome

FAILURES_KEPT: Final = 200
"""Dead letters whose errors wait to be fetched for the log; what comes beyond is only counted."""
REGISTRY_OUTCOMES_KEPT: Final = 20_000
"""Outcomes that wait to be fetched for the registries, without their records: some seconds at the highest rate, where
they are fetched several times a second. The oldest ones make room for what comes beyond: the registries are told since
when, and read it from the topics."""


class KeptOutcomes:
    """Outcomes that wait for the driver. Not safe for threads: its owner has a lock.

    Args:
        everything: keep all outcomes whole, however many they are: they were asked for.
        registries: keep all without their records, up to a limit. Neither: only the last dead letters.
    """

    def __init__(self, *, everything: bool, registries: bool) -> None:
        self._everything = everything
        self._registries = registries
        self._outcomes: deque[Outcome] = deque(maxlen=None if everything or registries else FAILURES_KEPT)
        self._left_out_since_ms: int | None = None
        self._left_out_is_said = False

    def add(self, outcomes: Sequence[Outcome]) -> str:
        """Take outcomes that have just been committed; return what is to be said about that, "" if nothing."""
        if self._everything:
            self._outcomes.extend(outcomes)
            return ""
        if not self._registries:
            self._outcomes.extend(outcome for outcome in outcomes if outcome.kind == "dead_letter")
            return ""
        self._outcomes.extend(outcome.without_record() for outcome in outcomes)
        too_many = len(self._outcomes) > REGISTRY_OUTCOMES_KEPT
        while len(self._outcomes) > REGISTRY_OUTCOMES_KEPT:
            self._leave_out(self._outcomes.popleft())
        if not too_many or self._left_out_is_said:
            return ""
        self._left_out_is_said = True
        return "The registries can't keep up: some rows come there later, from the topics. Nothing is lost."

    def _leave_out(self, outcome: Outcome) -> None:
        done_ms, since_ms = outcome.facts.done_ms, self._left_out_since_ms
        if done_ms:  # else it is no file's, and has no row
            self._left_out_since_ms = done_ms if since_ms is None else min(since_ms, done_ms)

    def take(self) -> tuple[Outcome, ...]:
        """Hand over what is kept, and forget it."""
        outcomes = tuple(self._outcomes)
        self._outcomes.clear()
        return outcomes

    def take_left_out(self) -> int | None:
        """Say since when, in ms since the epoch, outcomes of files were left out, and forget it; None: none was."""
        since_ms, self._left_out_since_ms = self._left_out_since_ms, None
        return since_ms
