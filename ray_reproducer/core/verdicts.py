"""Says what the outcome of a file, or of a message that is no chunk, is; changes nothing.

Rules:

1. What a worker says of a file becomes a result, or a dead letter; with ``failures=hold`` a file that fails is held
   instead, also one whose result the broker does not take.
2. A message that is no chunk, and a file that is given up, become dead letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from ray_reproducer.core import outcome as outcomes
from ray_reproducer.core.assembly import OpenVersion
from ray_reproducer.core.ledger import Ledger
from ray_reproducer.core.limits import Moment
from ray_reproducer.core.open_files import facts_of
from ray_reproducer.core.outcome import Failure, Origin, Outcome, PoisonMessage
from ray_reproducer.core.patience import waited_for


class Verdicts:
    """Makes outcomes."""

    def __init__(
        self,
        ledger: Ledger,
        origin: Origin,
        failures: Literal["dead_letter", "hold"],
        attempts_before: Mapping[bytes, int] | None,
    ) -> None:
        """Begin.

        Args:
            ledger: asked where the chunks of a file are.
            origin: what all dead letters have in common.
            failures: what becomes of a file that fails (rule 1).
            attempts_before: id of a version that is replayed -> how often the extractor was started on it before.
        """
        self._ledger = ledger
        self._origin = origin
        self._hold = failures == "hold"
        self._attempts_before = attempts_before or {}

    def answer(self, held: OpenVersion, answer: bytes | Failure, now: Moment) -> Outcome:
        """Make the outcome of a whole file from what its worker said, or from how that ended."""
        version, facts = held.version, facts_of(held, now.epoch_s)
        if isinstance(answer, bytes):
            return outcomes.result(version, answer, facts)
        if self._hold:
            return outcomes.held(version, answer, facts)
        failure = replace(answer, attempts=answer.attempts + self._attempts_before.get(version.id, 0))
        return outcomes.dead_letter(version, failure, self._ledger.offsets(version.id), self._origin, now.iso, facts)

    def poison(self, partition: int, offset: int, message: PoisonMessage, now: Moment) -> Outcome:
        """Make the outcome of a message that is no chunk."""
        return outcomes.poison_letter(partition, offset, message, self._origin, now.iso)

    def given_up(self, held: OpenVersion, now: Moment) -> Outcome:
        """Make the outcome of a file of which chunks are missing for too long."""
        offsets, facts = self._ledger.offsets(held.version.id), facts_of(held, now.epoch_s)
        return outcomes.given_up(held, offsets, self._origin, now.iso, waited_for(held, now), facts)

    def refused(self, version_id: bytes, refused: Outcome, now: Moment) -> Outcome:
        """Make an outcome in the place of one that the broker does not take because of its size."""
        letter = outcomes.refused_by_broker(refused, self._ledger.offsets(version_id), self._origin, now.iso)
        if refused.kind == "result" and self._hold:
            return replace(letter, kind="held", value=b"")
        return letter
