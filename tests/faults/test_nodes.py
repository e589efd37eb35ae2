"""Nodes of a cluster die in the middle of the work; others take over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.conftest import Rigs
from tests.faults.fault import strike
from tests.faults.nodes import CLUSTER
from tests.faults.rig import OBJECT_STORE_BYTES
from tests.ray_nodes import RayNodes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(name="nodes", scope="module")
def _nodes() -> Iterator[RayNodes]:
    """A head without cores and two nodes with one each."""
    nodes = RayNodes({}, OBJECT_STORE_BYTES)
    try:
        nodes.add()
        nodes.add()
        yield nodes
    finally:
        nodes.close()


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.needs == CLUSTER])
def test_nothing_is_lost_and_nothing_is_there_twice(name: str, nodes: RayNodes, rigs: Rigs) -> None:
    rig = rigs.shared("cluster", features=CLUSTER, nodes=nodes)
    assert strike(rig, FAULTS[name](), share=0.4).starts == 0
    assert rig.judge.tally.is_clean
