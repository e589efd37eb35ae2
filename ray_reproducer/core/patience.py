"""Which incomplete files are given up, and when.

Rules:

1. The age of a file is that of its newest chunk, by Kafka's timestamp: a restart does not start the clock again. A
   chunk without a timestamp, or with one in the future, counts from when it was read.
2. A file is given up only when the *topic* has been read that far, not merely the clock has advanced: after a week's
   holiday the missing chunk may be the next message. Each partition is read to the timestamp of its last message, or to
   now if its end was reached; the topic is read to where the slowest partition is.
3. A file of which a chunk was read just now is not given up for a while: an uploader's clock may be wrong.
4. In a drain, when all that was to be read has been read, the clock alone decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ray_reproducer.core.assembly import OpenVersion
    from ray_reproducer.core.limits import Moment, PatienceLimits

AT_END: Final = 2**63 - 1
"""Stands for a Kafka timestamp where all that a partition holds has been read: later than any message."""


class Patience:
    """Knows how far the topic has been read, in time, and which files have been waited for long enough."""

    def __init__(self, limits: PatienceLimits, partitions: Iterable[int], now: Moment) -> None:
        """Begin with nothing read.

        Args:
            limits: how long a file is waited for.
            partitions: those of the topic.
            now: the time.
        """
        self._limits = limits
        self._read_to_ms: dict[int, int] = dict.fromkeys(partitions, 0)
        self._next_look_s = now.monotonic_s + self._look_interval_s

    @property
    def _look_interval_s(self) -> float:
        after_s = self._limits.incomplete_after_s
        return self._limits.look_interval_s if after_s is None else min(self._limits.look_interval_s, after_s / 4)

    def add(self, partitions: Iterable[int]) -> None:
        """Take note of partitions that the topic did not have before."""
        self._read_to_ms.update(dict.fromkeys(partitions, 0))

    def read(self, read_to_ms: Mapping[int, int]) -> None:
        """Take note of how far partitions have been read: Kafka timestamps in ms, or ``AT_END``."""
        self._read_to_ms.update(read_to_ms)

    def overdue(self, versions: Iterable[OpenVersion], now: Moment, *, drained: bool) -> Iterator[OpenVersion]:
        """Yield those of the open versions that are to be given up, if it is time to look for them.

        Args:
            versions: all versions of which chunks are held.
            now: the time.
            drained: whether all that was to be read has been read (rule 4).
        """
        after_s = self._limits.incomplete_after_s
        if after_s is None or not (drained or now.monotonic_s >= self._next_look_s):
            return
        self._next_look_s = now.monotonic_s + self._look_interval_s
        read_to_s = min(now.epoch_s, min(self._read_to_ms.values(), default=0) / 1000)
        grace_s = min(self._limits.grace_s, after_s)
        for version in versions:
            if version.whole:
                continue
            quiet_s = now.monotonic_s - version.touched_s
            waited_s = waited_for(version, now)
            if drained:
                over = waited_s >= after_s
            else:
                not_read_s = now.epoch_s - read_to_s if _is_dated(version, now) else 0.0
                over = quiet_s >= grace_s and waited_s - not_read_s >= after_s
            if over:
                yield version


def waited_for(version: OpenVersion, now: Moment) -> float:
    """Return how old the newest chunk of a version is, in seconds (rule 1)."""
    if not _is_dated(version, now):
        return now.monotonic_s - version.touched_s
    return now.epoch_s - version.newest_ms / 1000


def _is_dated(version: OpenVersion, now: Moment) -> bool:
    """Whether the newest chunk of a version has a timestamp that can be true: none is from the future."""
    return 0 < version.newest_ms <= now.epoch_s * 1000
