"""Faults: at each call of a transaction the committer dies, or does not hear the broker's answer."""

from __future__ import annotations

import random
from typing import ClassVar

from ray_reproducer.kafka import failpoints
from tests.faults import processes
from tests.faults.fault import Fault, register
from tests.faults.plan import Batch
from tests.faults.rig import RECOVERY_S, Rig
from tests.waiting import wait_until

AT_START = ("init", "read")
"""Calls that are made when a committer begins, so that another must end first."""
ONCE = (*AT_START, "abort")
"""Calls that are made once for each time that something else goes wrong."""
WITHOUT_TRANSACTION = ("positions",)
"""Calls of ``delivery=at_least_once`` only."""
FAILPOINT_WEIGHT = 0.25
"""There are many of them."""
MOST_PASSES = 3


class _Failpoint(Fault):
    """Arms a failpoint and waits until it has been reached."""

    weight = FAILPOINT_WEIGHT
    at: ClassVar[str]
    action: ClassVar[str]

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        call = self.at.partition(".")[0]
        passes = random.Random(batch.number).randint(1, MOST_PASSES) if call not in ONCE else 1
        failpoints.arm(rig.failpoints, self.at, self.action, passes)
        if call in AT_START:
            processes.kill(rig.processes_of("committer")[:1])
        if call == "abort":
            failpoints.arm(rig.failpoints, "offsets.before", "refuse")

        def reached() -> bool:
            if not (rig.failpoints / self.at).exists():
                return True
            rig.keep_busy()
            return False

        wait_until(reached, RECOVERY_S, f"the failpoint {self.at} to be reached")


def _fault(at: str, action: str, needs: frozenset[str]) -> type[Fault]:
    name = f"{action} at {at}"
    attributes = {"name": name, "at": at, "action": action, "needs": needs, "__doc__": name}
    return register(type(f"Failpoint_{action}_{at.replace('.', '_')}", (_Failpoint,), attributes))


def _enter_all() -> None:
    for name in failpoints.NAMES:
        call, _, side = name.partition(".")
        needs = {"at_least_once" if call in WITHOUT_TRANSACTION else "exactly_once"}
        if call in ("produce", "flush", "read"):
            needs = set()
        for action in ("kill", "lose"):
            _fault(name, action, frozenset(needs))
        if call in ("produce", "offsets", "commit") and side == "before":
            _fault(name, "refuse", frozenset({"exactly_once"}))


_enter_all()
