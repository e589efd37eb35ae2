"""Processes of the program die, one after the other and all together, in the middle of the work."""

from __future__ import annotations

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.conftest import Rigs
from tests.faults.fault import strike

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

GOES_ON = ("kill committer", "kill consumer 1", "kill consumer 2", "kill busy worker", "kill idle worker")
STARTS_AGAIN = ("kill whole tree", "kill driver", "kill raylet")


def test_nothing_happens_and_all_is_well(rigs: Rigs) -> None:
    rig = rigs.shared("dying")
    rig.put(60, costly=3)
    assert rig.recover().starts == 0
    assert rig.judge.tally.is_clean


@pytest.mark.parametrize("name", [*GOES_ON, *STARTS_AGAIN])
def test_nothing_is_lost_and_nothing_is_there_twice(name: str, rigs: Rigs) -> None:
    rig = rigs.shared("dying")
    recovery = strike(rig, FAULTS[name](), share=0.4)
    assert recovery.starts == (name in STARTS_AGAIN)
