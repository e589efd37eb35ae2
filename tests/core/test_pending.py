"""Which outcomes the next transaction is to carry."""

from __future__ import annotations

from random import Random

import pytest

from ray_reproducer.core.events import Commit, DrainTo, StopRequested
from ray_reproducer.core.ledger import CommitPlan, Ledger, PartitionStart
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.core.pending import PendingOutcomes
from tests.core.test_ledger import W, limit_metadata, numbered, restored
from tests.core.test_machine import of_kind, without_room

RETRY_S = 5.0
FEW = 3


def outcome(number: int, size: int = 10) -> Outcome:
    return Outcome(path=str(number), kind="result", key="", value=b"x" * size)


class Setting:
    """Pairs of offsets, one of them whole, the other not, at random; below them all one that is incomplete."""

    def __init__(self, files: int, max_records: int = FEW) -> None:
        self.ledger = Ledger(bytes(16), {0: PartitionStart(0)})
        self.pending = PendingOutcomes(self.ledger, max_records, RETRY_S)
        self.ledger.deliver(0, 0, 1)
        self.ledger.open(W, 0, 0)
        self.files = 0
        self.random = Random(1)
        self.more(files)

    def more(self, files: int) -> None:
        for number in range(self.files, self.files + files):
            pair = self.random.sample([2 * number + 1, 2 * number + 2], 2)
            self.ledger.deliver(0, 2 * number + 1, 2 * number + 3)
            self.ledger.open(numbered(number), 0, pair[0])
            self.ledger.open(numbered(1_000 + number), 0, pair[1])
            self.pending.add(numbered(number), outcome(number))
        self.files += files

    def commit(self, now_s: float = 0.0) -> CommitPlan:
        plan = self.pending.plan(now_s, refresh=False)
        self.ledger.committed(plan)
        for version_id in plan.carried:
            self.pending.drop(version_id)
        return plan

    def fill(self) -> None:
        """Commit until there is no more room."""
        while self.commit().carried:
            pass
        assert len(self.pending) > FEW


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_metadata(monkeypatch, 60)


def test_rule_1_outcomes_go_in_the_order_in_which_they_came_up_to_a_number() -> None:
    setting = Setting(files=8)
    carried = [setting.commit().carried for _ in range(4)]
    assert carried == [tuple(map(numbered, part)) for part in [(0, 1, 2), (3, 4, 5), (6, 7), ()]]


@pytest.mark.usefixtures("little_room")
def test_rule_2_what_does_not_fit_is_offered_together_with_all_that_waits() -> None:
    setting = Setting(files=200)
    setting.fill()
    waiting = len(setting.pending)
    for number in range(200):
        setting.pending.add(numbered(1_000 + number), outcome(number))
    setting.pending.add(W, outcome(0))
    assert len(setting.commit().carried) == waiting + 201


@pytest.mark.usefixtures("little_room")
def test_rule_3_while_there_is_no_room_it_is_looked_for_every_few_seconds_only() -> None:
    setting = Setting(files=200)
    assert setting.pending.worth_planning(0.0)
    setting.fill()
    setting.more(10)
    assert not setting.pending.worth_planning(RETRY_S - 0.1)
    assert setting.pending.worth_planning(RETRY_S)
    assert setting.commit(RETRY_S).carried == ()
    assert not setting.pending.worth_planning(2 * RETRY_S - 0.1)


@pytest.mark.usefixtures("little_room")
def test_rule_3_it_is_looked_for_at_once_when_the_position_could_move() -> None:
    setting = Setting(files=200)
    setting.fill()
    setting.pending.add(W, outcome(0))
    assert setting.pending.worth_planning(0.0)


@pytest.mark.usefixtures("little_room")
def test_rule_3_when_there_was_room_for_most_there_may_be_more() -> None:
    setting = Setting(files=2)
    assert len(setting.commit().carried) == 2
    assert setting.pending.worth_planning(0.0)


@pytest.mark.parametrize("last", [StopRequested(), "drain"], ids=["stop", "drain"])
def test_rule_3_it_is_looked_for_when_nothing_else_is_to_come(
    monkeypatch: pytest.MonkeyPatch, last: StopRequested | str
) -> None:
    limit_metadata(monkeypatch, 40)
    program = without_room(files=20)
    monkeypatch.undo()  # there is room now, and no position has moved
    program.poison()
    assert not of_kind(Commit, program.tick())
    event = DrainTo({0: program.next[0]}) if isinstance(last, str) else last
    assert of_kind(Commit, program.handle(event))


@pytest.mark.parametrize("retry_s", [3.0, 30.0])
def test_rule_3_every_few_seconds_are_as_many_as_the_limits_say(
    monkeypatch: pytest.MonkeyPatch, retry_s: float
) -> None:
    limit_metadata(monkeypatch, 40)
    program = without_room(files=20, room_retry_s=retry_s)
    since_s = program.machine._outcomes._no_room_since_s
    assert since_s is not None
    monkeypatch.undo()
    program.poison()
    assert not of_kind(Commit, program.tick(since_s + retry_s - 0.1 - program.now_s))
    assert of_kind(Commit, program.tick(0.2))


def test_rule_3_waiting_for_the_past_to_be_read_again_is_no_want_of_room() -> None:
    ledger = Ledger(bytes(16), {0: restored(end=8)})
    pending = PendingOutcomes(ledger, FEW, RETRY_S)
    ledger.deliver(0, 0, 1)
    ledger.open(W, 0, 0)
    pending.add(W, outcome(0))
    assert pending.plan(0.0, refresh=False).carried == ()
    assert pending.worth_planning(0.0)


def test_sizes_add_up() -> None:
    setting = Setting(files=0)
    setting.pending.add(W, outcome(1, size=7))
    setting.pending.add(numbered(1), outcome(2, size=5))
    assert (len(setting.pending), setting.pending.size_bytes) == (2, 12)
    assert setting.pending[W] == outcome(1, size=7)
    assert setting.pending.drop(W) == outcome(1, size=7)
    assert (len(setting.pending), setting.pending.size_bytes) == (1, 5)
