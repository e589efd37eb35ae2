"""Memory and processor time of every process of a program, looked at five times a second.

`rss` is what a process has in memory, object store pages that it has touched included (each Ray worker shows them
again). `heap` is rss without shared and file-backed pages: what the process alone costs. It is not USS, which counts
an object store page as the process's own as long as no other process has touched it (1.36 GB for a consumer with a heap
of 139 MB), and walks the page tables of gigabytes to say so.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_INTERVAL_S = 0.2
_TREE_INTERVAL_S = 0.6
"""Finding the tree reads /proc of every process of the machine: less often than its memory."""


@dataclass
class ProcessPeaks:
    """What one process took at most, in bytes, and its processor time in seconds."""

    role: str
    rss: int = 0
    heap: int = 0
    cpu_s: float = 0.0


@dataclass
class Usage:
    """What a program took.

    Attributes:
        processes: peaks by process id.
        tree_heap: the largest sum of all heaps at one moment, in bytes.
        shared: the largest shared memory that one process had mapped: about the object store in use, in bytes.
    """

    processes: dict[int, ProcessPeaks] = field(default_factory=dict)
    tree_heap: int = 0
    shared: int = 0

    def by_role(self) -> dict[str, dict[str, float]]:
        """Peaks of the largest process of each role in MB, how many there were, and their processor time."""
        roles: dict[str, dict[str, float]] = {}
        for process in self.processes.values():
            role = roles.setdefault(process.role, {"processes": 0, "rss_mb": 0, "heap_mb": 0, "cpu_s": 0})
            role["processes"] += 1
            role["rss_mb"] = max(role["rss_mb"], round(process.rss / 1e6, 1))
            role["heap_mb"] = max(role["heap_mb"], round(process.heap / 1e6, 1))
            role["cpu_s"] = round(role["cpu_s"] + process.cpu_s, 2)
        return dict(sorted(roles.items()))


class Sampler:
    """Watches a process and all that it started, until it is stopped.

    Attributes:
        usage: what was seen so far.
        seen: every process of the program that was seen, by its id. `psutil` knows an id that was given again.

    Args:
        pid: the program.
        on_new_role: called with a process id and its role, once for each; for profilers.
    """

    def __init__(self, pid: int, *, on_new_role: Callable[[int, str], None] | None = None) -> None:
        self.usage = Usage()
        self.seen: dict[int, psutil.Process] = {}
        self._root = psutil.Process(pid)
        self._on_new_role = on_new_role
        self._tree: list[psutil.Process] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def stop(self) -> Usage:
        """End watching.

        Returns:
            What was seen.
        """
        self._stop.set()
        self._thread.join()
        return self.usage

    def _run(self) -> None:
        next_tree = 0.0
        while not self._stop.wait(_INTERVAL_S):
            now = time.monotonic()
            if now >= next_tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._tree = [self._root, *self._root.children(recursive=True)]
                next_tree = now + _TREE_INTERVAL_S
            self._sample()

    def _sample(self) -> None:
        tree_heap = 0
        for process in self._tree:
            # Processes end while they are looked at: what was seen before stays.
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                tree_heap += self._sample_one(process)
        self.usage.tree_heap = max(self.usage.tree_heap, tree_heap)

    def _sample_one(self, process: psutil.Process) -> int:
        role = role_of(process.cmdline())
        peaks = self.usage.processes.get(process.pid)
        if peaks is None:
            peaks = self.usage.processes[process.pid] = ProcessPeaks(role)
            self.seen[process.pid] = process
            self._announce(process.pid, role)
        elif role not in ("", "ray::IDLE", peaks.role):
            # A Ray worker is named after what it does: idle at first, then an actor or a task.
            peaks.role = role
            self._announce(process.pid, role)
        memory = process.memory_info()
        heap: int = memory.rss - memory.shared
        peaks.rss = max(peaks.rss, memory.rss)
        peaks.heap = max(peaks.heap, heap)
        times = process.cpu_times()
        peaks.cpu_s = times.user + times.system
        self.usage.shared = max(self.usage.shared, memory.shared)
        return heap

    def _announce(self, pid: int, role: str) -> None:
        if self._on_new_role is not None:
            self._on_new_role(pid, role)


def role_of(command: list[str]) -> str:
    """What a process is, in a word or two, from its command line.

    A Ray actor that runs a method is `ray::ConsumerActor.run`, an idle one `ray::ConsumerActor`: both are the latter.
    """
    if not command:
        return ""
    if command[0].startswith("ray::"):
        return re.split(r"[.(\s]", command[0], maxsplit=1)[0]
    if "-m" in command[1:3]:
        return command[command.index("-m") + 1]
    scripts = [Path(word).name for word in command[:4] if word.endswith(".py")]
    return scripts[0] if scripts else Path(command[0]).name
