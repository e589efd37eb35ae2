"""Stages: what the program runs on while faults strike, each with the faults that are possible there.

A test makes the rig that it needs by itself; `scripts/soak` goes through all stages that are entered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ray_reproducer.kafka import failpoints
from ray_reproducer.kafka.group_offsets import STALE_S
from tests.faults import broker_troubles, brokers
from tests.faults.broker import PrivateBroker
from tests.faults.rig import OBJECT_STORE_BYTES, Rig, failpoints_directory
from tests.ray_nodes import RayNodes

CLUSTER_NODES: Final = 2
NODE_LOOK_MS: Final = 1_000
"""How often Ray looks whether a node is alive; it is dead after five looks in vain. 3,000 by default."""


@dataclass(frozen=True)
class Stage:
    """One of them.

    Attributes:
        name: on the command line of the soak.
        share: of the soak's time, relative to the others.
        rig: makes a rig in a directory, for a seed; the program is not started. The second argument gives the address
            of a broker, which is started when it is asked for first.
    """

    name: str
    share: float
    rig: Callable[[Path, Callable[[], str], int], AbstractContextManager[Rig]]


STAGES: Final[dict[str, Stage]] = {}
"""By name; filled when the modules with stages are imported (``tests.faults.catalogue``)."""
_Make = Callable[[Path, Callable[[], str], int], Iterator[Rig]]


def stage(name: str, share: float) -> Callable[[_Make], Stage]:
    """Enter a generator function that yields a rig as a stage (a decorator)."""

    def enter(make: _Make) -> Stage:
        if name in STAGES:
            raise ValueError(f"there are two stages called {name!r}")
        STAGES[name] = Stage(name, share, contextmanager(make))
        return STAGES[name]

    return enter


@stage("local", share=4)
def local(directory: Path, servers: Callable[[], str], seed: int) -> Iterator[Rig]:
    """A Ray of the program's own, and transactions."""
    with Rig(directory, servers(), seed, features={"exactly_once", "local"}) as rig:
        yield rig


@stage("at_least_once", share=1)
def at_least_once(directory: Path, servers: Callable[[], str], seed: int) -> Iterator[Rig]:
    """A Ray of the program's own, and no transactions."""
    features = {"at_least_once", "local"}
    with Rig(directory, servers(), seed, delivery="at_least_once", features=features) as rig:
        yield rig


@stage("broker", share=4)
def broker(directory: Path, servers: Callable[[], str], seed: int) -> Iterator[Rig]:
    """A Ray of the program's own, transactions, and a broker of its own that misbehaves, behind a line that does."""
    del servers
    with (
        PrivateBroker(directory / "broker") as own,
        broker_troubles.rig_with(own, directory, seed, "exactly_once", {"exactly_once", "local"}) as rig,
    ):
        yield rig


@stage("brokers", share=1)
def brokers_(directory: Path, servers: Callable[[], str], seed: int) -> Iterator[Rig]:
    """A Ray of the program's own, transactions, and three brokers."""
    del servers
    features = {"exactly_once", "local", *brokers.BROKERS}
    with (
        brokers.BrokerCluster(directory / "brokers") as own,
        Rig(directory, own.servers, seed, features=features, broker=own, stale_s=STALE_S) as rig,
    ):
        yield rig


@stage("cluster", share=1)
def cluster(directory: Path, servers: Callable[[], str], seed: int) -> Iterator[Rig]:
    """A Ray cluster with some nodes, and transactions."""
    environment = {
        failpoints.ENVIRONMENT_VARIABLE: str(failpoints_directory(directory)),
        "RAY_health_check_period_ms": str(NODE_LOOK_MS),
    }
    # The processes of a node look for it when they are started.
    failpoints_directory(directory).mkdir(parents=True)
    nodes = RayNodes(environment, OBJECT_STORE_BYTES, others=CLUSTER_NODES)
    try:
        consumers = f"consumers={CLUSTER_NODES + 1}"  # SPREAD: one on each node, the head included
        features = {"exactly_once", "cluster"}
        with Rig(directory, servers(), seed, [consumers], features=features, nodes=nodes) as rig:
            yield rig
    finally:
        nodes.close()
