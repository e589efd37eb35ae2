"""Which file versions were finished lately, so that a chunk that comes late, or again, is known for a repeat.

Rules:

1. A version is remembered when its outcome is committed; up to a number of them, the longest known is forgotten first.
2. With ``duplicates=reprocess`` nothing is remembered: what comes after the outcome is a file like any other.
3. A new life of the program remembers what it is told of earlier ones (the ids stand beside the results in Kafka).
4. With results of others (programs, groups), which tell paths and no versions, a file counts as finished if its result
   is not older than its chunks: what was sent after that is a new version. Each result covers one version, once in a
   life of the program: which ones an earlier life has passed over is written down nowhere.
5. That the only chunk of a version is done says that the version is finished, too; unless it is known to have come
   damaged, or nothing is known of that: then it may be sent again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ray_reproducer.core.chunk import FileVersion


class ExistingResults:
    """Keys of results that others have made, each with the time of the newest (rule 4)."""

    def __init__(self) -> None:
        """Begin with none."""
        self._of_key: dict[bytes, tuple[int, int]] = {}  # time of the newest, and how many cover no version yet

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._of_key)

    def add(self, key: bytes, timestamp_ms: int) -> None:
        """Take note of a result: its key, and its Kafka timestamp in milliseconds since the epoch."""
        digest = _digest(key)
        newest_ms, left = self._of_key.get(digest, (timestamp_ms, 0))
        self._of_key[digest] = (max(timestamp_ms, newest_ms), left + 1)

    def discard(self, key: bytes) -> None:
        """Take note that the results with a key were deleted."""
        self._of_key.pop(_digest(key), None)

    def cover(self, version: FileVersion, oldest_ms: int) -> bool:
        """Whether a version has a result: one with its key that covers no other, and is not older than its chunks.

        Args:
            version: the file version.
            oldest_ms: Kafka timestamp of the oldest of its chunks that have come, in milliseconds since the epoch.
        """
        digest = _digest(version.result_key.encode())
        newest_ms, left = self._of_key.get(digest, (0, 0))
        if not left or oldest_ms > newest_ms:
            return False
        self._of_key[digest] = (newest_ms, left - 1)
        return True


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=8).digest()


class DoneLately:
    """A set of version ids with a limit."""

    def __init__(
        self,
        limit: int,
        duplicates: Literal["skip", "reprocess"],
        known: Iterable[bytes] = (),
        damaged: Iterable[bytes] | None = (),
        existing: ExistingResults | None = None,
    ) -> None:
        """Begin with what is known of earlier lives.

        Args:
            limit: how many ids are remembered.
            duplicates: whether any are (rule 2).
            known: ids of versions that were finished, in their order.
            damaged: ids of versions that have come damaged; None if that is not known.
            existing: results of others; None: none.
        """
        self._existing = existing
        self._limit = limit if duplicates == "skip" else 0
        self._ids: OrderedDict[bytes, None] = OrderedDict()
        for version_id in known:
            self.add(version_id)
        self._damaged = None if damaged is None else frozenset(damaged)

    def __contains__(self, version_id: bytes) -> bool:
        """Whether a version is remembered as finished."""
        return version_id in self._ids

    def recognise(self, version: FileVersion, oldest_ms: int) -> bool:
        """Whether a version is finished, as far as is remembered, or by results of others: then it is now.

        Args:
            version: the file version.
            oldest_ms: Kafka timestamp of the oldest of its chunks that have come, in milliseconds since the epoch.
        """
        if version.id in self._ids:
            return True
        if self._existing is None or not self._existing.cover(version, oldest_ms):
            return False
        self.add(version.id)  # so that a chunk of it that comes late is known, too
        return True

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._ids)

    def add(self, version_id: bytes) -> None:
        """Remember a version."""
        self._ids[version_id] = None
        self._ids.move_to_end(version_id)
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)

    def learn(self, version_id: bytes) -> bool:
        """Remember a version of which the only chunk is known to be done, if that says so (rule 5); return whether."""
        if self._damaged is None or version_id in self._damaged:
            return version_id in self._ids
        self.add(version_id)
        return True
