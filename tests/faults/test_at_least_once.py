"""Without transactions: a crash may repeat outcomes, never lose one."""

from __future__ import annotations

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.conftest import Rigs
from tests.faults.fault import strike
from tests.faults.rig import Rig

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

BEFORE_ITS_COMMIT = "kill at positions.before"
CASES = [name for name, fault in FAULTS.items() if "at_least_once" in fault.needs and name != BEFORE_ITS_COMMIT]


def the_rig(rigs: Rigs) -> Rig:
    return rigs.shared("at_least_once")


def test_without_a_crash_nothing_is_there_twice(rigs: Rigs) -> None:
    rig = the_rig(rigs)
    rig.put(60, costly=1)
    rig.recover()
    assert rig.judge.repeats == 0
    assert rig.judge.tally.is_clean


@pytest.mark.parametrize("name", [*CASES, "kill consumer 1", "kill at flush.before"])
def test_nothing_is_lost(name: str, rigs: Rigs) -> None:
    rig = the_rig(rigs)
    before = rig.judge.repeats
    assert strike(rig, FAULTS[name](), share=0.4).starts == 0
    assert rig.judge.tally.is_clean
    if not name.startswith("kill"):
        assert rig.judge.repeats == before, "there is something twice though nothing has crashed"


def test_what_was_written_but_not_committed_is_written_again(rigs: Rigs) -> None:
    rig = rigs.make("at_least_once")
    # Otherwise the ids beside the records that are there tell the next life which files are finished. A chunk that
    # comes again would begin a file then, which is never whole.
    rig.sends_again = False
    rig.start("duplicates=reprocess")
    strike(rig, FAULTS[BEFORE_ITS_COMMIT](), share=0.4)
    assert rig.judge.tally.is_clean
    # Otherwise the repeats that are allowed here, and forbidden with transactions, would be looked for in vain.
    assert rig.judge.repeats > 0
