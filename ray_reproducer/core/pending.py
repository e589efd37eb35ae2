"""Which outcomes the next transaction is to carry.

Rules:

1. Outcomes go in the order in which they came, up to a number in each transaction.
2. If some of these do not fit the commit metadata, all that wait are offered together: one that is not among the
   first may be what makes room, and some may fit together only.
3. While most outcomes wait for room, it is looked for again when the position of a partition could move, which is
   what makes room; when nothing else is to come; and every few seconds. To find out that there is none takes up to a
   second: done with each outcome that comes, it would leave no time for anything else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from ray_reproducer.core.ledger import CommitPlan, Ledger
from ray_reproducer.core.outcome import Outcome


class PendingOutcomes:
    """Outcomes that are not in a committed transaction yet, by the ids of their versions.

    Attributes:
        size_bytes: length of their records' values together.
    """

    def __init__(self, ledger: Ledger, max_records: int, retry_s: float) -> None:
        """Begin with none.

        Args:
            ledger: what plans the commits.
            max_records: how many outcomes go in one transaction (rule 1).
            retry_s: after how many seconds room is looked for again (rule 3).
        """
        self.size_bytes = 0
        self._ledger = ledger
        self._max_records = max_records
        self._retry_s = retry_s
        self._outcomes: OrderedDict[bytes, Outcome] = OrderedDict()
        self._no_room_since_s: float | None = None
        self._no_room_at: list[int] = []

    def __len__(self) -> int:
        """How many there are."""
        return len(self._outcomes)

    def __getitem__(self, version_id: bytes) -> Outcome:
        """Return a version's outcome."""
        return self._outcomes[version_id]

    def __iter__(self) -> Iterator[Outcome]:
        """Go through them, oldest first."""
        return iter(self._outcomes.values())

    def add(self, version_id: bytes, outcome: Outcome) -> None:
        """Take the outcome of a version."""
        self._outcomes[version_id] = outcome
        self.size_bytes += len(outcome.value)

    def drop(self, version_id: bytes) -> Outcome:
        """Return the outcome of a version and forget it."""
        outcome = self._outcomes.pop(version_id)
        self.size_bytes -= len(outcome.value)
        return outcome

    def worth_planning(self, now_s: float) -> bool:
        """Whether there may be room now for what waits (rule 3)."""
        since = self._no_room_since_s
        return since is None or now_s - since >= self._retry_s or self._positions() != self._no_room_at

    def plan(self, now_s: float, *, refresh: bool) -> CommitPlan:
        """Plan the next transaction.

        Args:
            now_s: the time.
            refresh: commit every partition, also those whose state stays the same.
        """
        offered = list(islice(self._outcomes, self._max_records if self._no_room_since_s is None else None))
        plan = self._ledger.plan(offered, refresh=refresh)
        if len(plan.carried) < len(offered) < len(self._outcomes):
            offered = list(self._outcomes)
            plan = self._ledger.plan(offered, refresh=refresh)
        if 2 * len(plan.carried) >= len(offered) or not self._ledger.caught_up:
            self._no_room_since_s = None
        else:
            self._no_room_since_s, self._no_room_at = now_s, self._positions()
        return plan

    def _positions(self) -> list[int]:
        """Where positions would be if everything that waits were committed."""
        return [partition.position(self._outcomes.keys()) for partition in self._ledger.partitions.values()]
