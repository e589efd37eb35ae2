"""Without transactions: a crash may repeat outcomes, never lose one."""

from __future__ import annotations

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.conftest import Rigs
from tests.faults.fault import strike
from tests.faults.rig import Rig

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

ANY_DELIVERY = ("kill committer", "kill consumer 1", "kill at produce.before", "kill at produce.after")
ITS_OWN = [name for name, fault in FAULTS.items() if "at_least_once" in fault.needs]


def the_rig(rigs: Rigs) -> Rig:
    return rigs.shared("at_least_once")


def test_without_a_crash_nothing_is_there_twice(rigs: Rigs) -> None:
    rig = the_rig(rigs)
    rig.put(60, costly=1)
    rig.recover()
    assert rig.judge.repeats == 0
    assert rig.judge.tally.is_clean


@pytest.mark.parametrize("name", [*ITS_OWN, *ANY_DELIVERY])
def test_nothing_is_lost(name: str, rigs: Rigs) -> None:
    rig = the_rig(rigs)
    assert strike(rig, FAULTS[name](), share=0.4).starts == 0
    assert rig.judge.tally.is_clean


def test_what_was_written_but_not_committed_is_written_again(rigs: Rigs) -> None:
    rig = the_rig(rigs)
    before = rig.judge.repeats
    strike(rig, FAULTS["kill at positions.before"](), share=0.4)
    # Otherwise the repeats that are allowed here, and forbidden with transactions, would be looked for in vain.
    assert rig.judge.repeats > before
