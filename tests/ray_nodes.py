"""A Ray cluster of a test's own: nodes that are processes on this machine, can be added, and die as machines do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from tests.waiting import wait_until

PORTS: Final = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
)
"""Ports of a head; all must be its own."""
HEAD_ONLY: Final = ("port", "dashboard-port", "ray-client-server-port")
END_DEADLINE_S: Final = 180.0
START_DEADLINE_S: Final = 180.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens to; all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def end_tree(root: subprocess.Popen[bytes]) -> None:
    """End a process and what it started, and only these."""
    tree = psutil.Process(root.pid).children(recursive=True) if root.poll() is None else []
    root.terminate()
    _, alive = psutil.wait_procs(tree, timeout=10)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=END_DEADLINE_S)
    root.wait(END_DEADLINE_S)


@dataclass(frozen=True)
class Node:
    """One node: `ray start --block` and what it started."""

    process: subprocess.Popen[bytes]
    log: Path

    def is_up(self) -> bool:
        """Whether it belongs to the cluster by now."""
        return "Ray runtime started" in self.log.read_text()

    def has_ended(self) -> bool:
        """Whether it is gone; Ray gives a node 30 s to come up, which a busy machine may need."""
        return self.process.poll() is not None

    def processes(self) -> list[psutil.Process]:
        """All of it, from its root; empty if it is gone."""
        if self.process.poll() is not None:
            return []
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def kill(self) -> None:
        """Kill -9 all of it at once, as when a machine loses its power."""
        family = self.processes()
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=END_DEADLINE_S)
        self.process.wait(END_DEADLINE_S)


class RayNodes:
    """A head and some nodes; their files, ports and processes are their own, and end with them.

    Args:
        environment: added to this process's; actors and workers inherit it.
        object_store_bytes: of each node.
        head_cores: for tasks and actors on the head.
        others: how many nodes there are beside the head, to begin with.
        takes_jobs: whether the head has the server for jobs (and so the dashboard), at ``jobs_address``.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        object_store_bytes: int,
        head_cores: int = 0,
        others: int = 0,
        *,
        takes_jobs: bool = False,
    ) -> None:
        # Not in pytest's directory: the names of Ray's sockets may have 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="ray_", dir="/tmp"))
        programs = Path(sys.executable).parent
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            **environment,
        }
        self._ray = str(programs / "ray")
        self._object_store_bytes = object_store_bytes
        self._started = 0
        self._others = others
        self.nodes: list[Node] = []
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.address = f"127.0.0.1:{ports['port']}"
        self.jobs_address = f"127.0.0.1:{ports['dashboard-port']}"
        head = ["--head", f"--num-cpus={head_cores}", f"--include-dashboard={'true' if takes_jobs else 'false'}"]
        head.append(f"--temp-dir={self.directory}")
        self._head = [*head, *(f"--{name}={port}" for name, port in ports.items())]
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start the head and the first nodes, at the address that they have always; nothing of them may be running."""
        self.head = self._start(*self._head)
        wait_until(self._head_is_up, START_DEADLINE_S, f"the cluster at {self.address}")
        for _ in range(self._others):
            self.add()
            self.wait()  # two that join at the same time disturb each other, and one is given up after 30 s

    def add(self) -> Node:
        """Start another node, with one core."""
        names = [name for name in PORTS if name not in HEAD_ONLY]
        ports = (f"--{name}={port}" for name, port in zip(names, free_ports(len(names)), strict=True))
        node = self._start(f"--address={self.address}", "--num-cpus=1", *ports)
        self.nodes.append(node)
        return node

    def wait(self) -> None:
        """Wait until all nodes belong to the cluster; one that could not come up is started again."""
        wait_until(self._all_up, START_DEADLINE_S, f"the nodes of the cluster at {self.address}")

    def _all_up(self) -> bool:
        for node in [node for node in self.nodes if node.has_ended()]:
            self.nodes.remove(node)
            self.add()
        return all(node.is_up() for node in self.nodes)

    def kill(self, node: Node) -> None:
        """Let a node die."""
        self.nodes.remove(node)
        node.kill()

    def _head_is_up(self) -> bool:
        if self.head.has_ended():  # a connection of somebody may have one of its ports for a moment
            self.head = self._start(*self._head)
        return self.head.is_up()

    def kill_all(self) -> None:
        """Let the cluster die, its head first; ``start`` makes it anew."""
        for node in (self.head, *self.nodes):
            node.kill()
        self.nodes.clear()

    def processes(self) -> list[psutil.Process]:
        """All processes of all nodes."""
        return [process for node in (self.head, *self.nodes) for process in node.processes()]

    def close(self) -> None:
        """End all nodes, the head last."""
        for node in (*self.nodes, self.head):
            end_tree(node.process)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self, *arguments: str) -> Node:
        command = [self._ray, "start", "--block", "--node-ip-address=127.0.0.1", *arguments]
        command.append(f"--object-store-memory={self._object_store_bytes}")
        self._started += 1
        path = self.directory / f"start{self._started}.txt"
        with path.open("w") as log:
            process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return Node(process, path)
