"""The committer's time a file: the core alone, without Ray and without a broker (`scripts/bench core`).

A topic that does not exist is read by two intakes; what they make of it goes to the machine in the order of virtual
time, as the actors would hand it over: small files faster than the workers are, so that the backlog grows until the
machine stops the reading; large files that are open all along, of which a chunk comes now and then; tasks that come
back as whole batches; a transaction every 0.1 s that takes 0.02 s. Everything around the core is done between two
readings of the clock. What counts is the processor time of this process, so that others on the machine disturb little.

Two series. `seen`: the time a file after so many files, with the limits that the program has. `in_flight`: the time a
file while so many files wait for a worker, with these limits out of the way. Both must not grow: what a file costs may
depend neither on how many went before nor on how many wait.
"""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from ray_reproducer.actors import collector
from ray_reproducer.core.chunk import Chunk, FileVersion, encode
from ray_reproducer.core.events import (
    Commit,
    Delivered,
    DrainTo,
    Event,
    Finish,
    SetReading,
    SlotsChanged,
    StartTask,
    TaskBegan,
    TaskFinished,
    Tick,
    TransactionCommitted,
)
from ray_reproducer.core.intake import Intake
from ray_reproducer.core.ledger import Ledger, PartitionStart
from ray_reproducer.core.limits import MachineLimits, Moment
from ray_reproducer.core.machine import Machine
from ray_reproducer.core.outcome import Failure, Origin

SEEN = (1_000, 10_000, 100_000, 1_000_000)
IN_FLIGHT = (1_000, 10_000, 100_000, 1_000_000)
QUICK = (1_000, 10_000)
MOST_GROWTH = 3.0
"""How much more a file may take at the slowest point of a series than at the fastest. A thousand files fit the
processor's cache and 20,000 that wait do not: that alone makes 1.7. Work that grew with their number would make
hundreds."""

_MEASURED_IN_FLIGHT = 20_000
"""Files whose time is taken once the others wait: 4 s of virtual time, 40 transactions."""
_LEAST_FILES = 20_000
"""Short runs are repeated until so many files were measured; the median of the runs counts."""
_LEAST_RUNS = 3
_PARTITIONS = 4
_CONSUMERS = 2
_SLOTS = 4
_STEP_S = 0.01
_ARRIVALS_A_STEP = 100
_WORKED_A_STEP = 50
_MOST_WORK_A_STEP = 1_024
"""Files that were not worked on for want of a task can be made up for, up to two full batches."""
_SECONDS_A_FILE = 0.0002
_TRANSACTION_S = 0.02
_LARGE_FILES = 3
_LARGE_FILE_CHUNKS = 100_000
_SMALL_TO_LARGE = 25
"""A chunk of a large file comes after so many small files."""
_FAILED = 1_000
"""One of so many files fails."""
_FAILURE = Failure("extractor_raised", "ValueError: no")
_VALUE = b'{"file": "a small file", "lines": 42}'
_TOPIC_ID = b"sixteen bytes id"


@dataclass(frozen=True)
class Point:
    """One point of a series.

    Attributes:
        files: how many files were seen, or were in flight.
        committer_us: processor time of the machine for a file, in microseconds.
        consumer_us: processor time of the intakes for a file, in microseconds.
        memory_mb: memory of the process at its end, less that at its beginning.
        runs: how many runs these are the medians of.
    """

    files: int
    committer_us: float
    consumer_us: float
    memory_mb: float
    runs: int


class _Topic:
    """Messages without end, made when they are asked for."""

    def __init__(self) -> None:
        self.n_small = 0
        self._n_large = 0
        self._next = [0] * _PARTITIONS

    def take(self, n_small: int) -> Iterator[tuple[int, int, bytes]]:
        """Make small files, with chunks of large ones between them: (partition, offset, value)."""
        for _ in range(n_small):
            if self.n_small % _SMALL_TO_LARGE == 0:
                yield self._place(self._n_large, self._large())
                self._n_large += 1
            yield self._place(self.n_small, self._small())
            self.n_small += 1

    @property
    def ends(self) -> dict[int, int]:
        return dict(enumerate(self._next))

    def _place(self, number: int, value: bytes) -> tuple[int, int, bytes]:
        partition = number % _PARTITIONS
        offset = self._next[partition]
        self._next[partition] += 1
        return partition, offset, value

    def _small(self) -> bytes:
        digest = hashlib.sha512(b"%d" % self.n_small).digest()
        version = FileVersion(f"day{self.n_small // 10_000}", f"scan_{self.n_small:07}.csv", "", digest, 1)
        return encode(Chunk(version, 1, 0, digest, b"x" * 64))

    def _large(self) -> bytes:
        file, index = self._n_large % _LARGE_FILES, self._n_large // _LARGE_FILES + 1
        version = FileVersion("large", f"film_{file}.h5", "", bytes([file]) * 64, _LARGE_FILE_CHUNKS)
        return encode(Chunk(version, index, index * 64, bytes(64), b"x" * 64))


class _Run:
    """The program's core in virtual time."""

    def __init__(self, limits: MachineLimits) -> None:
        starts = {p: PartitionStart(0) for p in range(_PARTITIONS)}
        self.topic = _Topic()
        self.now_s = 0.0
        self.committer_s = self.consumer_s = 0.0
        self.outcomes = 0
        self.working = True
        self.finished = False
        self._machine = Machine(
            Ledger(_TOPIC_ID, starts), Origin("raw", _TOPIC_ID, "bench", "core"), limits, self._moment()
        )
        self._intakes = [Intake(n, {p: s for p, s in starts.items() if p % _CONSUMERS == n}) for n in range(_CONSUMERS)]
        self._reading = True
        self._tasks: deque[StartTask] = deque()
        self._work_left = 0
        self._answered = 0
        self._transaction_ends_s: float | None = None
        self.handle(SlotsChanged(_SLOTS))

    def _moment(self) -> Moment:
        return Moment(self.now_s, 1_700_000_000 + self.now_s)

    def handle(self, event: Event) -> None:
        """Hand an event to the machine, by the clock, and take note of what it wants."""
        now = self._moment()
        # The committer is a process of its own: what the collector has to look at there is the machine's alone.
        gc.enable()
        begin = time.process_time()
        instructions = self._machine.handle(event, now)
        self.committer_s += time.process_time() - begin
        gc.disable()
        for instruction in instructions:
            if isinstance(instruction, StartTask):
                self._tasks.append(instruction)
            elif isinstance(instruction, Commit):
                self._transaction_ends_s = self.now_s + _TRANSACTION_S
                self.outcomes += len(instruction.outcomes)
            elif isinstance(instruction, SetReading):
                self._reading = instruction.reading
            elif isinstance(instruction, Finish):
                self.finished = True

    def step(self, arrivals: int) -> None:
        """Let a hundredth of a second pass."""
        self.now_s += _STEP_S
        if arrivals and self._reading:
            self._arrive(arrivals)
        if self.working:
            self._work()
        if self._transaction_ends_s is not None and self.now_s >= self._transaction_ends_s:
            self._transaction_ends_s = None
            self.handle(TransactionCommitted())
        if not self.finished:
            self.handle(Tick())

    def _arrive(self, arrivals: int) -> None:
        messages = list(self.topic.take(arrivals))
        begin = time.process_time()
        for partition, offset, value in messages:
            self._intakes[partition % _CONSUMERS].message(partition, offset, value, 0)
        flushes = [intake.flush() for intake in self._intakes]
        self.consumer_s += time.process_time() - begin
        for flush in flushes:
            if flush is not None:
                self.handle(Delivered(flush.delivery))

    def _work(self) -> None:
        """Answer tasks, oldest first, at the pace of the workers."""
        self._work_left = min(self._work_left + _WORKED_A_STEP, _MOST_WORK_A_STEP)
        while self._tasks and len(self._tasks[0].files) <= self._work_left and not self.finished:
            task = self._tasks.popleft()
            n_files = len(task.files)
            self._work_left -= n_files
            self.handle(TaskBegan(task.task))
            answers = [_VALUE if (self._answered + n) % _FAILED else _FAILURE for n in range(n_files)]
            self._answered += n_files
            self.handle(TaskFinished(task.task, tuple(answers), n_files * _SECONDS_A_FILE))

    def drain(self) -> None:
        """Finish all that arrived, but the large files; there is one outcome for each small one, or this is no result.

        Raises:
            RuntimeError: there is not.
        """
        self.working = True
        self.handle(DrainTo(self.topic.ends))
        while not self.finished:
            self.step(0)
        progress = self._machine.progress()
        if not self.outcomes == self.topic.n_small == progress.results + progress.dead_letters:
            raise RuntimeError(f"{self.topic.n_small} files, {self.outcomes} outcomes, {progress}")

    @property
    def waiting(self) -> int:
        return self._machine.progress().files_waiting

    @property
    def answered(self) -> int:
        """How many files workers have answered."""
        return self._answered


def _seen(files: int) -> tuple[float, float, int]:
    """Take a number of files through everything; return processor seconds of machine and intakes, and files."""
    run = _Run(MachineLimits())
    while run.topic.n_small < files:
        run.step(min(_ARRIVALS_A_STEP, files - run.topic.n_small))
    run.drain()
    return run.committer_s, run.consumer_s, files


def _in_flight(files: int) -> tuple[float, float, int]:
    """Let a number of files wait, and measure others that come while as many are answered."""
    run = _Run(replace(MachineLimits(), max_waiting_files=2 * files, max_waiting_bytes=2**62))
    run.working = False
    while run.waiting < files:
        run.step(_ARRIVALS_A_STEP)
    run.working = True
    committer_s, consumer_s, answered = run.committer_s, run.consumer_s, run.answered
    while run.answered - answered < _MEASURED_IN_FLIGHT:
        run.step(_WORKED_A_STEP)
    measured = run.committer_s - committer_s, run.consumer_s - consumer_s, run.answered - answered
    run.drain()
    return measured


_SERIES = {"seen": _seen, "in_flight": _in_flight}


def _point(series: str, files: int) -> Point:
    """Measure one point, in a process that has done nothing else."""
    collector.relax()  # as the committer does
    process = psutil.Process()
    before = process.memory_full_info().uss
    runs: list[tuple[float, float, int]] = []
    peak = 0
    while len(runs) < (_LEAST_RUNS if files < SEEN[-1] else 1) or sum(n for *_, n in runs) < _LEAST_FILES:
        runs.append(_SERIES[series](files))
        peak = max(peak, process.memory_full_info().uss)
        gc.collect()
    return Point(
        files,
        round(median(committer / n for committer, _, n in runs) * 1e6, 2),
        round(median(consumer / n for _, consumer, n in runs) * 1e6, 2),
        round((peak - before) / 1e6, 1),
        len(runs),
    )


def measure(series: str, sizes: Sequence[int]) -> Iterator[Point]:
    """Measure the points of a series, smallest first, each in a process of its own."""
    for files in sizes:
        with get_context("spawn").Pool(1) as pool:
            yield pool.apply(_point, (series, files))


def growth(points: Sequence[Point]) -> float:
    """How much more a file takes where it takes most than where it takes least."""
    times = [point.committer_us for point in points]
    return max(times) / min(times)


def run(console: Console, path: Path, machine: dict[str, Any], *, quick: bool) -> bool:
    """Measure, show and write both series.

    Args:
        console: where the figures are shown.
        path: the JSON file.
        machine: what is measured on.
        quick: only the smallest sizes.

    Returns:
        Whether the time a file stays the same.
    """
    report: dict[str, Any] = {"machine": machine, "most_growth": MOST_GROWTH}
    fine = True
    for series, sizes in (("seen", SEEN), ("in_flight", IN_FLIGHT)):
        table = Table(title=f"the core alone, files {series.replace('_', ' ')}", title_justify="left")
        for heading in ("files", "committer, a file", "consumers, a file", "memory", "runs"):
            table.add_column(heading, justify="right")
        points: list[Point] = []
        for point in measure(series, QUICK if quick else sizes):
            points.append(point)
            table.add_row(
                f"{point.files:,}",
                f"{point.committer_us:.1f} µs",
                f"{point.consumer_us:.1f} µs",
                f"{point.memory_mb:,.0f} MB",
                str(point.runs),
            )
        console.print(table)
        grown = growth(points)
        same = grown <= MOST_GROWTH
        fine = fine and same
        console.print(
            f"  slowest to fastest: {grown:.2f} ({'under' if same else '[bold red]NOT under[/]'} {MOST_GROWTH})"
        )
        report[series] = {"growth": round(grown, 2), "points": [asdict(point) for point in points]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return fine
