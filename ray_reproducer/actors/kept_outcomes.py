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
they are fetched several times a second. What comes beyond is left out of the registries, and said."""


class KeptOutcomes:
    """Outcomes that wait for the driver. Not safe for threads: its owner has a lock.

    Args:
        everything: keep all outcomes whole, however many they are: they were asked for.
        registries: keep all without their records, up to a limit. Neither: only the last dead letters.
    """

    def __init__(self, *, everything: bool, registries: bool) -> None:
        self._everything = everything
        self._registries = registries
        limit = None if everything else REGISTRY_OUTCOMES_KEPT if registries else FAILURES_KEPT
        self._outcomes: deque[Outcome] = deque(maxlen=limit)
        self._left_out_is_said = False

    def add(self, outcomes: Sequence[Outcome]) -> str:
        """Take outcomes that have just been committed; return what is to be said about that, "" if nothing."""
        if self._everything:
            self._outcomes.extend(outcomes)
            return ""
        if not self._registries:
            self._outcomes.extend(outcome for outcome in outcomes if outcome.kind == "dead_letter")
            return ""
        too_many = len(self._outcomes) + len(outcomes) > REGISTRY_OUTCOMES_KEPT
        self._outcomes.extend(outcome.without_record() for outcome in outcomes)
        if not too_many or self._left_out_is_said:
            return ""
        self._left_out_is_said = True
        return "The registries can't keep up: some outcomes are left out there until the next start. Nothing is lost."

    def take(self) -> tuple[Outcome, ...]:
        """Hand over what is kept, and forget it."""
        outcomes = tuple(self._outcomes)
        self._outcomes.clear()
        return outcomes
