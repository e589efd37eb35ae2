"""Which files go to a worker next, together with which others, and what follows from a worker's end.

Rules:

1. There are never more tasks than slots, plus a short queue so that no worker waits for its next task.
2. Files go in the order in which they became whole, several in one task as :mod:`batching` says.
3. A worker's end costs its own file only. A batch that is lost says nothing about which of its files did it: each
   runs again, alone. A file that alone ends its worker ``max_crashes`` times has failed. The loss of a whole machine
   is nobody's fault and counts for nothing. (Halving a lost batch until the culprit is found would be two to three
   times slower: it costs more ends, of a second or more until a new worker has loaded the extractor, to save tasks of
   three milliseconds.)
4. The time limit runs from a task's start in the worker, never while it is queued. A batch has no more time than a
   single file, and is split if it exceeds it; a file that exceeds it alone has failed. So a batch is made to take a
   quarter of the time limit at most, and who shares one with a file that hangs waits for it once.
5. A task that a worker has had for ``warn_after_s`` is named, and again each time it has taken twice as long: the only
   sign of an extractor that hangs, if there is no time limit.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ray_reproducer.core.batching import BatchLimits, BatchSizer
from ray_reproducer.core.limits import PoolLimits
from ray_reproducer.core.outcome import Failure
from ray_reproducer.core.reasons import Reason

_SHARE_OF_TIMEOUT: Final = 0.25
"""Of the time limit, for a whole batch: files that take four times as long as those before them are not killed yet."""


@dataclass(frozen=True, slots=True)
class SlowTask:
    """A task that is to be named (rule 5).

    Attributes:
        versions: ids of its versions.
        seconds: how long a worker has had it.
        worker: which one.
        timeout_s: when it is ended by force; None: never.
    """

    versions: tuple[bytes, ...]
    seconds: float
    worker: str
    timeout_s: float | None


@dataclass(slots=True)
class _Task:
    versions: tuple[bytes, ...]
    began_s: float | None = None
    worker: str = ""
    cancelled: bool = False
    named: int = 0


class ExtractionPool:
    """Waiting files and running tasks. Only the machine changes it."""

    def __init__(self, limits: PoolLimits) -> None:
        """Begin with no slot and nothing waiting."""
        self.slots = 0
        self.waiting_bytes = 0
        self._limits = limits
        self._sizer = BatchSizer(_within_timeout(limits))
        self._sizes: dict[bytes, int] = {}
        # Both queues may hold versions that have been discarded since: `_sizes` tells who really waits.
        self._queue: deque[bytes] = deque()
        self._alone: deque[bytes] = deque()
        self._crashes: Counter[bytes] = Counter()
        self._tasks: dict[int, _Task] = {}
        self._last_task = 0

    @property
    def waiting(self) -> int:
        """How many files wait for a worker."""
        return len(self._sizes)

    @property
    def running(self) -> int:
        """How many tasks have been submitted and have not come back."""
        return len(self._tasks)

    @property
    def files_in_flight(self) -> int:
        """How many files those tasks have."""
        return sum(len(task.versions) for task in self._tasks.values())

    def versions_of(self, task: int) -> tuple[bytes, ...] | None:
        """Return ids of the versions of a running task; None if there is no such task."""
        running = self._tasks.get(task)
        return running.versions if running else None

    def wait(self, version_id: bytes, size_bytes: int, *, alone: bool = False) -> None:
        """Let a whole file wait for a worker; ``alone`` if it must not share a task with others."""
        self._sizes[version_id] = size_bytes
        self.waiting_bytes += size_bytes
        (self._alone if alone else self._queue).append(version_id)

    def discard(self, version_id: bytes) -> None:
        """Let a file wait no longer."""
        self.waiting_bytes -= self._sizes.pop(version_id)

    def start(self) -> Iterator[tuple[int, tuple[bytes, ...]]]:
        """Start as many tasks as there is room for; yields their numbers and the versions of each."""
        room = self.slots + self._limits.queued_tasks if self.slots else 0
        while len(self._tasks) < room and (versions := self._next_batch()):
            self._last_task += 1
            self._tasks[self._last_task] = _Task(versions)
            yield self._last_task, versions

    def began(self, task: int, now_s: float, worker: str = "") -> None:
        """Take note that a worker has begun with a task: its time runs from now."""
        running = self._tasks.get(task)
        if running is not None:
            running.began_s, running.worker = now_s, worker

    def late(self, now_s: float) -> list[int]:
        """Return the tasks whose time is up and that are to be ended by force; each is returned once."""
        limit_s = self._limits.timeout_s
        if limit_s is None:
            return []
        late = [
            number
            for number, task in self._tasks.items()
            if task.began_s is not None and now_s >= task.began_s + limit_s and not task.cancelled
        ]
        for number in late:
            self._tasks[number].cancelled = True
        return late

    def slow(self, now_s: float) -> list[SlowTask]:
        """Return the tasks that are to be named now (rule 5)."""
        first_s = self._limits.warn_after_s
        if first_s is None:
            return []
        slow: list[SlowTask] = []
        for task in self._tasks.values():
            if task.began_s is None or task.cancelled or now_s < task.began_s + first_s * 2**task.named:
                continue
            seconds = now_s - task.began_s
            while seconds >= first_s * 2**task.named:
                task.named += 1
            slow.append(SlowTask(task.versions, seconds, task.worker, self._limits.timeout_s))
        return slow

    def finished(self, task: int, seconds: float) -> tuple[bytes, ...]:
        """Take note that a task has come back after some seconds of work; return its versions."""
        versions = self._tasks.pop(task).versions
        self._sizer.measured(len(versions), seconds)
        for version_id in versions:
            self._crashes.pop(version_id, None)
        return versions

    def crashed(self, task: int, cause: Reason, detail: str) -> dict[bytes, Failure | None]:
        """Take note that a task's worker is gone; return each version's failure, or None if it is to run again."""
        lost = self._tasks.pop(task)
        if len(lost.versions) > 1 or (cause == "node_died" and not lost.cancelled):
            return dict.fromkeys(lost.versions)
        version_id = lost.versions[0]
        self._crashes[version_id] += 1
        attempts = self._crashes[version_id]
        if lost.cancelled:
            limit = f"{self._limits.timeout_s:g}"
            failure = Failure(
                "timeout", f"the extractor took longer than extraction.timeout={limit} seconds", attempts=attempts
            )
        elif attempts >= self._limits.max_crashes:
            times = "once" if attempts == 1 else f"{attempts} times"
            failure = Failure(cause, f"the extractor ended its worker {times}: {detail}", attempts=attempts)
        else:
            return {version_id: None}
        del self._crashes[version_id]
        return {version_id: failure}

    def _next_batch(self) -> tuple[bytes, ...]:
        alone = self._take(self._alone)
        if alone is not None:
            return (alone,)
        batch: list[bytes] = []
        size = 0
        limits = self._limits.batch
        wanted = self._sizer.files(self.waiting, self.slots)
        while len(batch) < wanted and size < limits.max_bytes:
            before = self.waiting_bytes
            version_id = self._take(self._queue)
            if version_id is None:
                break
            size += before - self.waiting_bytes
            batch.append(version_id)
        return tuple(batch)

    def _take(self, queue: deque[bytes]) -> bytes | None:
        while queue:
            version_id = queue.popleft()
            if version_id in self._sizes:
                self.discard(version_id)
                return version_id
        return None


def _within_timeout(limits: PoolLimits) -> BatchLimits:
    if limits.timeout_s is None:
        return limits.batch
    return replace(limits.batch, target_s=min(limits.batch.target_s, _SHARE_OF_TIMEOUT * limits.timeout_s))
