"""Every fault that can strike the program itself, once, in the middle of the work.

Each name is a case. They share one life of the program as far as they leave one.
"""

from __future__ import annotations

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.conftest import Rigs
from tests.faults.fault import strike

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

FEATURES = frozenset({"exactly_once", "local"})
SAME_MOMENT = ("produce.before", "flush.after", "produce.after", "offsets.after", "init.after")
"""Right behind or before another failpoint, with nothing in between: a death there is no other. The soak has them."""
CASES = [
    name
    for name, fault in FAULTS.items()
    if fault.needs <= FEATURES and not (name.startswith("kill") and name.endswith(SAME_MOMENT))
]


def test_without_a_fault_all_is_well(rigs: Rigs) -> None:
    rig = rigs.shared("local")
    rig.put(60, costly=3)
    assert rig.recover().starts == 0
    assert rig.judge.tally.is_clean


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_lost_and_nothing_is_there_twice(name: str, rigs: Rigs) -> None:
    rig = rigs.shared("local")
    strike(rig, FAULTS[name](), share=0.4)
    assert rig.judge.tally.is_clean
