"""Faults: processes of the program die."""

from __future__ import annotations

import random
from typing import ClassVar

import psutil

from tests.faults import processes
from tests.faults.fault import Fault, register
from tests.faults.plan import Batch
from tests.faults.rig import RECOVERY_S, Rig
from tests.waiting import wait_until

RESTART = 0.15
"""Weight of a fault that costs a start of Ray."""
LOCAL = frozenset({"local"})
"""What faults of Ray itself need: a Ray that the program has started."""


class _KillOne(Fault):
    """Kill -9 one process of a role; the program goes on by itself."""

    role: ClassVar[str]
    which: ClassVar[int] = 0

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""

        def victims() -> list[psutil.Process]:
            rig.keep_busy()
            return rig.find(self.role)[self.which :]

        processes.kill(wait_until(victims, RECOVERY_S, f"{self.role} to kill")[:1])


@register
class KillCommitter(_KillOne):
    """The committer: the one that has the open transaction and the state of everything."""

    name = "kill committer"
    role = "committer"


@register
class KillFirstConsumer(_KillOne):
    """A consumer, with the segments that it owns."""

    name = "kill consumer 1"
    role = "consumer"


@register
class KillSecondConsumer(_KillOne):
    """The other one."""

    name = "kill consumer 2"
    role = "consumer"
    which = 1


@register
class KillBusyWorker(_KillOne):
    """A worker in the middle of the user's function."""

    name = "kill busy worker"
    role = "extract"


@register
class KillIdleWorker(Fault):
    """A worker that waits for work: Ray finds out only when it hands it some."""

    name = "kill idle worker"

    def strike(self, rig: Rig, batch: Batch) -> None:
        """Let the batch be done first, so that workers idle; the batch of the next fault finds what is left."""
        rig.wait_for_share(batch, 1.0)
        processes.kill(rig.processes_of("idle")[:1])
        rig.put(10)


@register
class KillEverythingButDriver(Fault):
    """All actors and workers at once."""

    name = "kill all actors"

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        processes.kill([p for role in processes.ROLES for p in rig.find(role)])


@register
class KillDriver(Fault):
    """The driver alone: all that it started must end with it, and the next start goes on."""

    name = "kill driver"
    weight = RESTART

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        rig.expect_end(-9)
        driver = rig.find("driver")
        family = [p for role in processes.ROLES for p in rig.find(role)]
        processes.kill(driver)
        wait_until(
            lambda: not any(map(processes.is_alive, family)), RECOVERY_S, "the processes of a dead driver to end"
        )


@register
class KillTree(Fault):
    """Everything at once, as a machine that loses its power."""

    name = "kill whole tree"
    weight = RESTART
    needs = LOCAL

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        rig.expect_end(-9)
        processes.kill(rig.family())


@register
class KillRaylet(Fault):
    """Ray's own daemon on this node: nothing works without it. The program may end, or start another Ray."""

    name = "kill raylet"
    weight = RESTART
    needs = LOCAL

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        rig.expect_end()
        _kill_of_ray(rig, "raylet")


@register
class KillGcs(Fault):
    """Ray's control service: what has begun goes on, until the program sees it and starts another Ray."""

    name = "kill gcs"
    weight = RESTART / 2
    needs = LOCAL

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        _kill_of_ray(rig, "gcs")


@register
class KillTwice(Fault):
    """A consumer, and the committer while the program is still getting over that."""

    name = "kill consumer, then committer"

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        processes.kill(rig.processes_of("consumer")[:1])
        rig.hold(random.Random(batch.number).uniform(0.0, 2.0), unless=rig.has_ended)
        processes.kill(rig.processes_of("committer")[:1])


def _kill_of_ray(rig: Rig, role: str) -> None:
    """Kill a daemon of Ray, and wait until that has had its effect."""
    killed = rig.processes_of(role)
    processes.kill(killed)
    wait_until(
        lambda: rig.has_ended() or set(rig.find(role)) - set(killed),
        RECOVERY_S,
        "the program to end or to start another Ray",
    )
