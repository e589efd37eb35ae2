"""Every fault of the broker and of the line to it, once, in one life of the program: nothing lost, nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.faults.broker import PrivateBroker
from tests.faults.broker_troubles import rig_with
from tests.faults.catalogue import FAULTS
from tests.faults.fault import strike
from tests.faults.lines import OWN_BROKER
from tests.faults.rig import Rig

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

SEED = 20261125
FEATURES = frozenset({"exactly_once", "local"})


@pytest.fixture(scope="module")
def rig(one_private_broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Rig]]:
    """The rig with the program running; a new one after it has failed."""
    with ExitStack() as stack:
        rigs: list[Rig] = []

        def running() -> Rig:
            if not rigs or rigs[-1].is_spoilt:
                if rigs:
                    rigs[-1].end_program()
                directory = tmp_path_factory.mktemp("rig")
                made = rig_with(one_private_broker, directory, SEED, "exactly_once", FEATURES)
                rigs.append(stack.enter_context(made))
                rigs[-1].start()
            return rigs[-1]

        yield running


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.needs >= OWN_BROKER])
def test_nothing_is_lost_and_nothing_is_there_twice(name: str, rig: Callable[[], Rig]) -> None:
    starts = rig().starts
    strike(rig(), FAULTS[name](), share=0.2)
    assert rig().starts == starts, "the program has ended and was started again"
    assert rig().judge.tally.is_clean
