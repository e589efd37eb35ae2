"""Nodes of a cluster die in the middle of the work, and others take over; or all of them, and the next cluster does."""

from __future__ import annotations

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.conftest import Rigs
from tests.faults.fault import strike
from tests.faults.nodes import CLUSTER, KillCluster

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.needs == CLUSTER])
def test_nothing_is_lost_and_nothing_is_there_twice(name: str, rigs: Rigs) -> None:
    rig = rigs.shared("cluster")
    ends = issubclass(FAULTS[name], KillCluster)
    assert strike(rig, FAULTS[name](), share=0.4).starts == int(ends)
    assert rig.judge.tally.is_clean
