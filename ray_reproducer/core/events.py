"""What the committer's state machine is told, and what it tells others to do. Frozen values, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ray_reproducer.core.assembly import SegmentSlice
from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.errors import IllegalEventError
from ray_reproducer.core.intake import Delivery
from ray_reproducer.core.ledger import PartitionCommit
from ray_reproducer.core.outcome import Failure, Outcome

CrashCause = Literal["worker_crashed", "out_of_memory", "node_died"]
"""How a task was lost: its worker process ended, the memory monitor ended it, or its machine did."""


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Delivered:
    """A consumer has put segments into the object store."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class TaskBegan:
    """A worker has begun with a task; it was queued until now.

    Attributes:
        task: its number.
        worker: names the process for a person.
    """

    task: int
    worker: str = ""


@dataclass(frozen=True, slots=True)
class TaskFinished:
    """A task has come back.

    Attributes:
        task: its number.
        answers: one for each of its files, in their order: the result's value, or why there is none.
        seconds: how long the worker was busy with them.
    """

    task: int
    answers: tuple[bytes | Failure, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class TaskCrashed:
    """A task has not come back: its worker is gone."""

    task: int
    cause: CrashCause
    detail: str


@dataclass(frozen=True, slots=True)
class TransactionCommitted:
    """The transaction that was asked for is committed."""


@dataclass(frozen=True, slots=True)
class TransactionAborted:
    """The transaction that was asked for has certainly left no trace; it is to be asked for again.

    Attributes:
        too_large: index of the record that the broker refused because of its size; -1 if that was not the reason.
    """

    too_large: int = -1


@dataclass(frozen=True, slots=True)
class SlotsChanged:
    """The cluster can run this many tasks at a time."""

    slots: int

    def __post_init__(self) -> None:
        """Check that the number can be true.

        Raises:
            IllegalEventError: it is negative.
        """
        if self.slots < 0:
            raise IllegalEventError(f"{self.slots} slots")


@dataclass(frozen=True, slots=True)
class DrainTo:
    """Everything below these offsets is to be finished, and then nothing more."""

    ends: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class PartitionsAdded:
    """The source topic has got further partitions: partition -> first offset to read."""

    starts: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Read no more; finish what workers have, commit, and be done."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = (
    Delivered
    | TaskBegan
    | TaskFinished
    | TaskCrashed
    | TransactionCommitted
    | TransactionAborted
    | SlotsChanged
    | DrainTo
    | PartitionsAdded
    | StopRequested
    | Tick
)


# ---------------------------------------------------------------- instructions


@dataclass(frozen=True, slots=True)
class FileWork:
    """One file for a worker: which version, and where its chunks are (with repeats, first come first)."""

    version: FileVersion
    slices: tuple[SegmentSlice, ...]


@dataclass(frozen=True, slots=True)
class StartTask:
    """Run the extractor on these files, in one worker, one after the other."""

    task: int
    files: tuple[FileWork, ...]


@dataclass(frozen=True, slots=True)
class CancelTask:
    """End a task's worker by force; the task will be reported as crashed."""

    task: int


@dataclass(frozen=True, slots=True)
class ReleaseSegments:
    """Nobody needs these segments any more."""

    segments: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """Carry these outcomes and commits in one transaction.

    Attributes:
        versions: ids of the versions, or of the messages that are no chunks, whose outcomes these are.
        outcomes: one for each of them.
        commits: partition -> what to commit.
    """

    versions: tuple[bytes, ...]
    outcomes: tuple[Outcome, ...]
    commits: Mapping[int, PartitionCommit]


@dataclass(frozen=True, slots=True)
class Announce:
    """These outcomes are committed, or these files are held: whoever shows them may."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Warn:
    """The user is to be told this."""

    text: str


@dataclass(frozen=True, slots=True)
class SetReading:
    """Consumers are to read on, or to hold still."""

    reading: bool


@dataclass(frozen=True, slots=True)
class ReadPartitions:
    """A consumer is to read these partitions too: partition -> first offset."""

    starts: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Finish:
    """All that was to be done is done: the program can end."""


Instruction: TypeAlias = (
    StartTask | CancelTask | ReleaseSegments | Commit | Announce | Warn | SetReading | ReadPartitions | Finish
)
