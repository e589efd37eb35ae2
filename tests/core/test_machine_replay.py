"""What the committer's machine does differently in a replay."""

from __future__ import annotations

import json

from ray_reproducer.core.events import Commit, SlotsChanged, StartTask
from ray_reproducer.core.ledger import Ledger, PartitionStart
from ray_reproducer.core.limits import Moment
from ray_reproducer.core.machine import Machine
from ray_reproducer.core.outcome import Failure
from tests.core.test_machine import ORIGIN, SLOW_COMMITS, TOPIC_ID, Program, a_version, of_kind


def test_a_file_that_fails_again_counts_its_attempts_on() -> None:
    program = Program()
    tried, new = a_version("tried"), a_version("new")
    ledger = Ledger(TOPIC_ID, {0: PartitionStart(0)})
    attempts_before = {tried.id: 4}
    program.machine = Machine(ledger, ORIGIN, SLOW_COMMITS, Moment(0.0, 0.0), attempts_before=attempts_before)
    program.handle(SlotsChanged(1))
    for version in (tried, new):
        (start,) = of_kind(StartTask, program.chunks(version, 1))
        program.answer(start.task, Failure("extractor_raised", "no", attempts=2))
    (commit,) = of_kind(Commit, program.tick())
    assert commit.versions == (tried.id, new.id)
    assert [json.loads(outcome.value)["attempts"] for outcome in commit.outcomes] == [6, 2]
