"""When the next transaction is planned, and which one is open.

Rules:

1. At most one transaction is open at a time.
2. One is planned when something has changed and the commit interval is over; at once when waiting longer would add
   nothing; and when positions that stay the same are to be committed again before the broker forgets them.
3. While files wait for a worker the interval is a longer one: nobody waits for a single result then, and what a
   transaction costs the machine, the workers lack. Unless there are enough outcomes for a transaction by themselves.
4. A plan that neither carries nor commits anything is none.
"""

from __future__ import annotations

from typing import Final

from ray_reproducer.core.errors import IllegalEventError
from ray_reproducer.core.ledger import CommitPlan
from ray_reproducer.core.limits import MachineLimits
from ray_reproducer.core.pending import PendingOutcomes

ENOUGH_BYTES_SHARE: Final = 0.25
"""Outcomes that are so much of what may wait for the broker at all are enough for a transaction: what is collected
between two must not grow without bound."""


class CommitSchedule:
    """The open transaction, and the time of the next one. Only the machine changes it.

    Attributes:
        open: what the open transaction carries; None if there is none.
    """

    def __init__(self, limits: MachineLimits, outcomes: PendingOutcomes, now_s: float) -> None:
        """Begin with none.

        Args:
            limits: how often.
            outcomes: what waits for a transaction.
            now_s: the time.
        """
        self.open: CommitPlan | None = None
        self._limits = limits
        self._outcomes = outcomes
        self._may_differ = True
        self._last_plan_s = now_s
        self._last_refresh_s = now_s

    @property
    def settled(self) -> bool:
        """Whether no transaction is open, and another one would have nothing to say."""
        return self.open is None and not self._may_differ

    def changed(self) -> None:
        """Take note that the next plan may differ from the last one."""
        self._may_differ = True

    def plan(self, now_s: float, *, last: bool, busy: bool = False) -> CommitPlan | None:
        """Return the plan of a transaction that is to be carried out now, and is open from now on.

        Args:
            now_s: the time.
            last: whether waiting longer would add nothing to it.
            busy: whether files wait for a worker.
        """
        refresh = now_s - self._last_refresh_s >= self._limits.refresh_interval_s
        due = last or now_s - self._last_plan_s >= self._interval_s(busy=busy)
        if self.open is not None or not (refresh or (due and self._may_differ)):
            return None
        if not (refresh or last or self._outcomes.worth_planning(now_s)):
            return None
        self._last_plan_s = now_s
        self._may_differ = False
        plan = self._outcomes.plan(now_s, refresh=refresh)
        if refresh:
            self._last_refresh_s = now_s
        if plan.carried or plan.commits:
            self.open = plan
        return self.open

    def _interval_s(self, *, busy: bool) -> float:
        limits = self._limits
        enough = (
            len(self._outcomes) >= limits.max_records
            or self._outcomes.size_bytes >= ENOUGH_BYTES_SHARE * limits.max_pending_bytes
        )
        if enough or not busy:
            return limits.commit_interval_s
        return max(limits.commit_interval_s, limits.busy_commit_interval_s)

    def end(self) -> CommitPlan:
        """Return the plan of the open transaction, which is open no more.

        Raises:
            IllegalEventError: there is none.
        """
        plan, self.open = self.open, None
        if plan is None:
            raise IllegalEventError("a transaction ended that nobody asked for")
        self._may_differ = True
        return plan
