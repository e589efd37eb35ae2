"""When the next transaction is planned."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from ray_reproducer.core.commit_schedule import CommitSchedule
from ray_reproducer.core.errors import IllegalEventError
from ray_reproducer.core.ledger import CommitPlan, PartitionCommit
from ray_reproducer.core.limits import MachineLimits
from ray_reproducer.core.pending import PendingOutcomes

LIMITS = MachineLimits(
    commit_interval_s=1.0, busy_commit_interval_s=3.0, refresh_interval_s=100.0, max_records=10, max_pending_bytes=100
)
SOMETHING = CommitPlan((b"a",), {0: PartitionCommit(1, "x")})


class Outcomes:
    """Stands for the outcomes: says whether planning is worth it, and takes note of each plan."""

    def __init__(self) -> None:
        self.worth = True
        self.number, self.size_bytes = 1, 1
        self.next = SOMETHING
        self.plans: list[tuple[float, bool]] = []

    def __len__(self) -> int:
        return self.number

    def worth_planning(self, now_s: float) -> bool:
        assert now_s >= 0.0
        return self.worth

    def plan(self, now_s: float, *, refresh: bool) -> CommitPlan:
        self.plans.append((now_s, refresh))
        return self.next


@pytest.fixture
def outcomes() -> Outcomes:
    return Outcomes()


@pytest.fixture
def schedule(outcomes: Outcomes) -> CommitSchedule:
    return CommitSchedule(LIMITS, cast("PendingOutcomes", outcomes), 0.0)


def test_rule_1_there_is_one_at_a_time(schedule: CommitSchedule) -> None:
    assert schedule.plan(1.0, last=False) is SOMETHING
    schedule.changed()
    assert schedule.plan(200.0, last=True) is None
    assert schedule.end() is SOMETHING
    assert schedule.plan(201.0, last=False) is SOMETHING


def test_rule_1_none_ends_that_was_not_open(schedule: CommitSchedule) -> None:
    with pytest.raises(IllegalEventError, match=r"^a transaction ended that nobody asked for$"):
        schedule.end()


def test_rule_2_when_something_has_changed_and_the_interval_is_over(
    schedule: CommitSchedule, outcomes: Outcomes
) -> None:
    assert schedule.plan(0.9, last=False) is None
    assert schedule.plan(1.0, last=False) is SOMETHING
    assert outcomes.plans == [(1.0, False)]


def test_rule_2_not_without_a_change(schedule: CommitSchedule, outcomes: Outcomes) -> None:
    outcomes.next = CommitPlan()
    schedule.plan(1.0, last=False)
    assert schedule.settled
    schedule.plan(5.0, last=True)
    assert len(outcomes.plans) == 1


@pytest.mark.parametrize("worth", [True, False])
def test_rule_2_at_once_when_waiting_would_add_nothing(
    schedule: CommitSchedule, outcomes: Outcomes, worth: bool
) -> None:
    outcomes.worth = worth
    assert schedule.plan(0.1, last=True) is SOMETHING


@pytest.mark.parametrize("last", [False, True])
def test_rule_2_a_refresh_comes_at_its_time_also_when_there_is_no_room(
    schedule: CommitSchedule, outcomes: Outcomes, last: bool
) -> None:
    outcomes.worth = False
    assert schedule.plan(99.9, last=False) is None
    assert schedule.plan(100.0, last=last) is SOMETHING
    assert outcomes.plans == [(100.0, True)]
    schedule.end()
    assert schedule.plan(199.9, last=False) is None
    assert schedule.plan(200.0, last=False) is SOMETHING


def test_rule_3_the_interval_is_longer_while_files_wait_for_a_worker(schedule: CommitSchedule) -> None:
    assert schedule.plan(2.9, last=False, busy=True) is None
    assert schedule.plan(3.0, last=False, busy=True) is SOMETHING
    schedule.end()
    assert schedule.plan(4.0, last=False, busy=False) is SOMETHING
    schedule.end()
    assert schedule.plan(4.1, last=True, busy=True) is SOMETHING


@pytest.mark.parametrize(("number", "size_bytes", "due_s"), [(9, 24, 3.0), (10, 24, 1.0), (9, 25, 1.0)])
def test_rule_3_unless_there_are_enough_outcomes(
    schedule: CommitSchedule, outcomes: Outcomes, number: int, size_bytes: int, due_s: float
) -> None:
    outcomes.number, outcomes.size_bytes = number, size_bytes
    assert schedule.plan(due_s - 0.1, last=False, busy=True) is None
    assert schedule.plan(due_s, last=False, busy=True) is SOMETHING


def test_rule_3_it_is_never_shorter(outcomes: Outcomes) -> None:
    limits = replace(LIMITS, busy_commit_interval_s=0.5)
    schedule = CommitSchedule(limits, cast("PendingOutcomes", outcomes), 0.0)
    assert schedule.plan(0.9, last=False, busy=True) is None
    assert schedule.plan(1.0, last=False, busy=True) is SOMETHING


def test_rule_4_a_plan_of_nothing_is_none(schedule: CommitSchedule, outcomes: Outcomes) -> None:
    outcomes.next = CommitPlan()
    assert schedule.plan(1.0, last=False) is None
    assert schedule.open is None
