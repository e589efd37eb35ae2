"""Faults: one broker of three dies, stops or is frozen; partitions, groups and transactions get other leaders.

Everything has three replicas, of which two must be in sync: with two brokers all goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.faults.broker_process import ANSWER_S, START_S, BrokerProcess, free_ports
from tests.faults.fault import Fault, register
from tests.faults.plan import Batch
from tests.faults.rig import RECOVERY_S, Rig
from tests.waiting import wait_until

BROKERS: Final = frozenset({"brokers"})
"""What a rig must have: ``rig.broker`` is a ``BrokerCluster``."""
NODES: Final = 3
SESSION_S: Final = 4
"""After so long without a word from a broker the others take its partitions."""
_SETTINGS: Final = (
    "offsets.topic.replication.factor=3",
    "transaction.state.log.replication.factor=3",
    "transaction.state.log.min.isr=2",
    "default.replication.factor=3",
    "min.insync.replicas=2",
    f"broker.session.timeout.ms={SESSION_S * 1000}",
    "broker.heartbeat.interval.ms=500",
    # A follower that is behind for so long is in sync no more: until then, nothing can be committed.
    f"replica.lag.time.max.ms={SESSION_S * 1000}",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms=500",
)


class BrokerCluster:
    """Three brokers on this machine, each also a controller; a context manager that starts and ends them.

    Args:
        directory: where their data are.
    """

    def __init__(self, directory: Path) -> None:
        ports = free_ports(2 * NODES)
        ports, controllers = ports[:NODES], ports[NODES:]
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(controllers, start=1))
        self.nodes = [
            BrokerProcess(
                directory / str(number),
                port,
                [
                    f"node.id={number}",
                    f"controller.quorum.voters={voters}",
                    f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
                    *_SETTINGS,
                ],
            )
            for number, port, controller in zip(range(1, NODES + 1), ports, controllers, strict=True)
        ]

    def __enter__(self) -> BrokerCluster:
        try:
            with ThreadPoolExecutor(NODES) as pool:  # none answers before there are two
                list(pool.map(BrokerProcess.start, self.nodes))
            wait_until(self.in_sync, START_S, "the brokers to know each other")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        for node in self.nodes:
            if node.is_running():
                node.kill()  # asked to stop, the last two would wait for each other
        for node in self.nodes:
            node.end()

    @property
    def servers(self) -> str:
        """Their addresses."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def in_sync(self) -> bool:
        """Whether all are there, and each has a replica of everything that is up to date."""
        try:
            found = AdminClient({"bootstrap.servers": self.servers}).list_topics(timeout=ANSWER_S)
        except KafkaException:
            return False
        partitions = [partition for topic in found.topics.values() for partition in topic.partitions.values()]
        return len(found.brokers) == NODES and all(len(partition.isrs) == NODES for partition in partitions)


class _OneOfThree(Fault):
    """Something happens to one broker, and some time later it is there again."""

    needs = BROKERS
    happens: ClassVar[Callable[[BrokerProcess], None]]
    ends: ClassVar[Callable[[BrokerProcess], None]] = BrokerProcess.start
    shortest_s: ClassVar[float] = 0.0
    longest_s: ClassVar[float] = 2.0 * SESSION_S

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class. The one before must be in sync again: with one replica nothing could be committed."""
        cluster, dice = cluster_of(rig), random.Random(batch.number)
        wait_until(cluster.in_sync, RECOVERY_S, "all replicas")
        node = dice.choice(cluster.nodes)
        type(self).happens(node)
        try:
            rig.hold(dice.uniform(self.shortest_s, self.longest_s))
        finally:
            type(self).ends(node)


@register
class KillOneBroker(_OneOfThree):
    """SIGKILL."""

    name = "one broker of three killed"
    happens = BrokerProcess.kill


@register
class StopOneBroker(_OneOfThree):
    """SIGTERM: it hands its partitions over first."""

    name = "one broker of three stopped"
    happens = BrokerProcess.stop


@register
class FreezeOneBroker(_OneOfThree):
    """SIGSTOP for so long that the others take its partitions; when it wakes, it believes that it leads them."""

    name = "one broker of three frozen"
    happens, ends = BrokerProcess.freeze, BrokerProcess.thaw
    shortest_s, longest_s = SESSION_S + 1.0, SESSION_S + 5.0


def cluster_of(rig: Rig) -> BrokerCluster:
    """The rig's brokers."""
    assert isinstance(rig.broker, BrokerCluster), "the rig has no three brokers"
    return rig.broker
