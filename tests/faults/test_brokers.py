"""One broker of three dies, stops or is frozen in the middle of the work; the program goes on with the others."""

from __future__ import annotations

import pytest

from tests.faults.brokers import BROKERS
from tests.faults.catalogue import FAULTS
from tests.faults.conftest import Rigs
from tests.faults.fault import strike

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.needs == BROKERS])
def test_nothing_is_lost_and_nothing_is_there_twice(name: str, rigs: Rigs) -> None:
    rig = rigs.shared("brokers")
    assert strike(rig, FAULTS[name](), share=0.3).starts == 0
    assert rig.judge.tally.is_clean
