"""Faults: nodes of a Ray cluster die, with everything that runs there and all segments in their memory."""

from __future__ import annotations

from typing import ClassVar

from tests.faults import processes
from tests.faults.dying import RESTART
from tests.faults.fault import Fault, register
from tests.faults.plan import Batch
from tests.faults.rig import RECOVERY_S, Rig
from tests.ray_nodes import Node, RayNodes
from tests.waiting import wait_until

MOVES = 20
"""So often a committer on the head is killed until one is elsewhere; Ray chooses a node at random."""
CLUSTER = frozenset({"cluster"})
"""What a rig must have: ``rig.nodes``."""


class _KillNode(Fault):
    """A node with an actor dies, and another one joins."""

    needs = CLUSTER
    role: ClassVar[str]

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class; a cluster whose head has the actor loses another node."""
        nodes = nodes_of(rig)

        def victims() -> list[Node]:
            rig.keep_busy()
            on_head = processes.of_role(nodes.head.processes(), self.role)
            return _with_role(nodes, self.role) or (nodes.nodes if on_head else [])

        nodes.kill(wait_until(victims, RECOVERY_S, f"a node with a {self.role}")[0])
        nodes.add()
        nodes.wait()


@register
class KillNodeWithConsumer(_KillNode):
    """A consumer's node."""

    name = "kill node with a consumer"
    role = "consumer"


@register
class KillNodeWithWorker(_KillNode):
    """A node in the middle of the user's function."""

    name = "kill node with a busy worker"
    role = "extract"


@register
class KillNodeWithCommitter(Fault):
    """The committer's node: its open transaction, the state of everything, and what a consumer beside it held."""

    name = "kill node with the committer"
    needs = CLUSTER

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class. Ray may have put it on the head: then it is killed there until the next one is elsewhere."""
        nodes = nodes_of(rig)
        for _ in range(MOVES):
            if found := self._place(rig):
                break
            processes.kill(processes.of_role(nodes.head.processes(), "committer"))
            rig.wait_for_share(rig.put(10), 1.0)  # lives that finish no file end the run
        assert found, "Ray puts each committer on the head"
        nodes.kill(found[0])
        nodes.add()
        nodes.wait()

    def _place(self, rig: Rig) -> list[Node]:
        """The node with the committer, once there is one; empty: it is the head."""
        nodes = nodes_of(rig)

        def somewhere() -> bool:
            rig.keep_busy()
            return bool(rig.find("committer"))

        wait_until(somewhere, RECOVERY_S, "a committer")
        return _with_role(nodes, "committer")


@register
class KillCluster(Fault):
    """All machines of the cluster, its head first: the program ends, and goes on with the next cluster."""

    name = "kill the whole cluster"
    weight = RESTART
    needs = CLUSTER
    at_once: ClassVar[bool] = False

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        nodes = nodes_of(rig)
        rig.expect_end(1, said="Start the cluster, and then this program again")
        nodes.kill_all()
        if self.at_once:
            nodes.start()
        wait_until(rig.has_ended, RECOVERY_S, "the end of a program whose cluster is gone")
        if not self.at_once:
            nodes.start()


@register
class ReplaceCluster(KillCluster):
    """The same, but the next cluster is there before the program has given the last one up; it knows nothing of it."""

    name = "replace the whole cluster"
    at_once = True


def nodes_of(rig: Rig) -> RayNodes:
    """The rig's cluster."""
    assert rig.nodes is not None, "the rig has no cluster"
    return rig.nodes


def _with_role(nodes: RayNodes, role: str) -> list[Node]:
    return [node for node in nodes.nodes if processes.of_role(node.processes(), role)]
