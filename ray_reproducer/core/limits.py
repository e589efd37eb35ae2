"""The time that comes in with an event, and the sizes and times that the machine keeps to."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal, NamedTuple

from ray_reproducer.core.batching import BatchLimits


class Moment(NamedTuple):
    """The time that comes in with an event: a clock that only goes on, and the time of day (seconds)."""

    monotonic_s: float
    epoch_s: float

    @property
    def iso(self) -> str:
        """The time of day in ISO format, UTC."""
        return datetime.fromtimestamp(self.epoch_s, timezone.utc).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What the pool of extraction tasks keeps to.

    Attributes:
        max_crashes: how often a file may end its worker, alone in it, before it becomes a dead letter.
        timeout_s: how long the extractor may take for one file; None: for ever.
        warn_after_s: how long a worker has a task until it is named; None: it never is.
        queued_tasks: tasks submitted beyond the free slots, so that a worker never waits for its next one.
        batch: what bounds a batch of files.
    """

    max_crashes: int = 3
    timeout_s: float | None = None
    warn_after_s: float | None = 300.0
    queued_tasks: int = 2
    batch: BatchLimits = field(default_factory=BatchLimits)


@dataclass(frozen=True, slots=True)
class PatienceLimits:
    """How long an incomplete file is waited for (:mod:`patience`).

    Attributes:
        incomplete_after_s: a file is given up when the Kafka timestamp of its newest chunk lies this far back, in
            seconds; None: never.
        grace_s: a file of which a chunk has just been read is not given up for this long, whatever the timestamps say:
            the clock of an uploader may be wrong.
        look_interval_s: how often it is looked for such files; looking goes through all that are incomplete.
    """

    incomplete_after_s: float | None = 24 * 3600.0
    grace_s: float = 60.0
    look_interval_s: float = 10.0


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """Sizes and times that the machine keeps to, and what it does with failures and repeats.

    Attributes:
        commit_interval_s: how long outcomes are collected for a transaction. A transaction costs the broker 10-30 ms
            whatever it carries, and readers see nothing before its end.
        busy_commit_interval_s: the same while files wait for a worker, if it is longer. What it brings is told by
            ``scripts/bench --set busy_commit_interval=0.1``.
        max_records: outcomes in one transaction: it should stay well below the transaction timeout. More go together
            only if fewer do not fit the commit metadata.
        room_retry_s: while outcomes wait for room in the commit metadata and no position moves: how often, in seconds,
            room is looked for. Looking takes up to a second.
        max_waiting_bytes: whole files that may wait for a worker before consumers hold still.
        max_waiting_files: the same by number.
        max_pending_bytes: outcomes that may wait for the broker before consumers hold still.
        versions_remembered: finished versions whose late repeats are recognised (about 200 bytes each).
        versions_read_back: of how many finished files a new life reads the ids back from each topic.
        refresh_interval_s: when positions that stay the same are committed again; brokers forget them after 7 days.
        story_length: happenings kept to tell what became of a file.
        failures: what becomes of a file that fails: a dead letter; or it is held, its offsets stay undone, and the next
            start tries it again.
        duplicates: what becomes of a finished file that is uploaded again with the same content: it is skipped; or it
            is a file like any other.
        patience: how long an incomplete file is waited for.
        pool: what the pool of extraction tasks keeps to.
    """

    commit_interval_s: float = 0.1
    busy_commit_interval_s: float = 0.5
    max_records: int = 10_000
    room_retry_s: float = 5.0
    max_waiting_bytes: int = 512 * 1024 * 1024
    max_waiting_files: int = 20_000
    max_pending_bytes: int = 64 * 1024 * 1024
    versions_remembered: int = 500_000
    versions_read_back: int = 50_000
    refresh_interval_s: float = 24 * 3600.0
    story_length: int = 20_000
    failures: Literal["dead_letter", "hold"] = "dead_letter"
    duplicates: Literal["skip", "reprocess"] = "skip"
    patience: PatienceLimits = field(default_factory=PatienceLimits)
    pool: PoolLimits = field(default_factory=PoolLimits)
