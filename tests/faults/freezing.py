"""Faults: processes of the program stand still for a while, and wake up in a world that went on."""

from __future__ import annotations

import random
from typing import ClassVar, Final

import psutil

from ray_reproducer.kafka import failpoints
from tests.faults import processes
from tests.faults.dying import LOCAL, RESTART
from tests.faults.fault import Fault, register
from tests.faults.plan import Batch
from tests.faults.rig import ACTOR_TIMEOUT_S, RECOVERY_S, RESULT_PARTITIONS, Rig
from tests.faults.watching import has_open_transaction
from tests.waiting import wait_until

SHORTEST_S: Final = 0.5
LONGEST_S: Final = 3.0
"""How long something stands still, in seconds: less than what makes the rest of the program give it up."""
EXIT_FENCED: Final = 4
MORE_FILES: Final = 10
"""Put on the topic until the committer has something to commit."""


class _Freeze(Fault):
    """SIGSTOP, and SIGCONT a little later."""

    role: ClassVar[str]

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        victims = _victims(rig, self.role)
        processes.suspend(victims)
        try:
            rig.hold(random.Random(batch.number).uniform(SHORTEST_S, LONGEST_S))
        finally:
            processes.resume(victims)


@register
class FreezeCommitter(_Freeze):
    """The committer, maybe in the middle of a transaction, which it can still end."""

    name = "freeze committer"
    role = "committer"


@register
class FreezeConsumer(_Freeze):
    """A consumer."""

    name = "freeze consumer"
    role = "consumer"


@register
class FreezeWorker(_Freeze):
    """A worker in the middle of a file."""

    name = "freeze busy worker"
    role = "extract"


@register
class FreezeDriver(_Freeze):
    """The driver: the others go on without it."""

    name = "freeze driver"
    role = "driver"


@register
class FreezeTree(Fault):
    """The whole program, as a laptop that is closed for a moment."""

    name = "freeze whole tree"
    needs = LOCAL

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        family = rig.family()
        processes.suspend(family)
        try:
            rig.hold(random.Random(batch.number).uniform(SHORTEST_S, LONGEST_S))
        finally:
            processes.resume(family)


class _FreezePastActorTimeout(Fault):
    """SIGSTOP, until the program says that it has noticed, or has ended the process for another reason."""

    role: ClassVar[str]
    weight = RESTART

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        said = f"has not answered for actor_timeout={ACTOR_TIMEOUT_S} s"
        before = rig.running().err().count(said)
        victims = rig.processes_of(self.role)[:1]
        processes.suspend(victims)

        def noticed() -> bool:
            return rig.running().err().count(said) > before or not any(map(processes.is_alive, victims))

        try:
            wait_until(noticed, RECOVERY_S, f"the program to say: {said}")
        finally:
            processes.resume(victims)


@register
class FreezeConsumerPastActorTimeout(_FreezePastActorTimeout):
    """A consumer: nothing else stands still."""

    name = "freeze consumer past actor timeout"
    role = "consumer"


@register
class FreezeCommitterPastActorTimeout(_FreezePastActorTimeout):
    """The committer: if it lives on, it wakes up fenced."""

    name = "freeze committer past actor timeout"
    role = "committer"


@register
class FreezePastTransactionTimeout(Fault):
    """The committer in an open transaction, until the broker has aborted it; it wakes up fenced by nobody."""

    name = "freeze committer past transaction timeout"
    weight = RESTART
    needs = frozenset({"exactly_once"})

    def strike(self, rig: Rig, batch: Batch) -> None:
        """The program may go on; or end as if it were fenced, which is what the broker tells it."""
        rig.expect_end(EXIT_FENCED, said="suspended in the middle of a transaction")
        while True:
            failpoints.arm(rig.failpoints, "commit.before", "stop")
            stopped = wait_until(lambda: _stopped_with_work(rig), RECOVERY_S, "the committer to stand in a transaction")
            try:
                if _is_open(rig):
                    wait_until(lambda: not _is_open(rig), RECOVERY_S, "the broker to abort the transaction")
                    return
            finally:
                processes.resume(stopped)


@register
class SecondInstance(Fault):
    """The whole program stands still, a second one takes the group over; then the first wakes up."""

    name = "second instance while the first is frozen"
    weight = RESTART / 2
    needs = LOCAL | {"exactly_once"}

    def strike(self, rig: Rig, batch: Batch) -> None:
        """The first has to stop with exit code 4 and say why; the second goes on."""
        family = rig.family()
        processes.suspend(family)
        try:
            first = rig.adopt(rig.launch())
            rig.put(20)
            rig.wait_for_share(batch, 1.0)
        finally:
            processes.resume(family)
        rig.put(20)
        wait_until(lambda: first.process.poll() is not None, RECOVERY_S, "the older instance to stop")
        err = first.err()
        assert first.process.returncode == EXIT_FENCED, err
        assert f"another instance with group_id={rig.group} has taken over" in err, err
        assert f"it is process {rig.running().process.pid} on " in err, err


def _victims(rig: Rig, role: str) -> list[psutil.Process]:
    """One process of a role, waited for; with work for the program: all may be done before a worker is seen."""

    def found() -> list[psutil.Process]:
        rig.keep_busy()
        return rig.find(role)[:1]

    return wait_until(found, RECOVERY_S, f"a process of role {role}")


def _stopped_with_work(rig: Rig) -> list[psutil.Process]:
    """The committer, if it is stopped; more work is put on the topic if it has none."""
    stopped = [process for process in rig.find("committer") if _is_stopped(process)]
    rig.look()
    if not stopped and not rig.judge.missing():
        rig.put(MORE_FILES)
    return stopped


def _is_open(rig: Rig) -> bool:
    """Whether a transaction of the program is open; one that only commits positions does not show."""
    topics = {rig.results: RESULT_PARTITIONS, rig.dead_letters: 1}
    return any(has_open_transaction(rig.servers, topic, partitions) for topic, partitions in topics.items())


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False
