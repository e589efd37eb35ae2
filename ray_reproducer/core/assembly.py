"""Which file versions are whole: receipts of chunks in, whole files out.

Rules:

1. A version is whole when each index from 1 to its number of chunks is held once. Chunks come in any order, from
   any partition, interleaved with those of other versions.
2. Two versions of one path are two files: their chunks never mix.
3. A chunk that repeats one already held adds nothing; its data is not used.
4. What is held are references: which entries of which segment, in the order of arrival. The bytes stay where the
   consumers put them.
5. A version is superseded when one of the same path with a later modification time is open beside it; it is told
   then, and nothing else follows from it here.
6. A segment is used as long as an open version holds a chunk in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ray_reproducer.core.chunk import FileVersion


class SegmentSlice(NamedTuple):
    """Some consecutive entries of one segment, all of one file version.

    Attributes:
        segment: id of the segment.
        first: index of the first entry in the segment's table.
        n_entries: how many entries.
    """

    segment: int
    first: int
    n_entries: int


class SegmentReceipt(NamedTuple):
    """What a consumer tells of chunks of one file version that it has put into a segment.

    The tuples are columns with one element for each chunk, in the order of the segment's entries.

    Attributes:
        version: the file version.
        slice: where the chunks are.
        partitions: partition that each came from.
        offsets: offset that each came from.
        indices: index of each in its file, from 1.
        size_bytes: length of their data together.
        timestamp_ms: Kafka timestamp of the newest of them, in milliseconds since the epoch.
        oldest_ms: Kafka timestamp of the oldest of them, in milliseconds since the epoch; 0 if none has one.
    """

    version: FileVersion
    slice: SegmentSlice
    partitions: tuple[int, ...]
    offsets: tuple[int, ...]
    indices: tuple[int, ...]
    size_bytes: int
    timestamp_ms: int
    oldest_ms: int = 0


@dataclass(slots=True)
class OpenVersion:
    """A file version of which chunks are held.

    Attributes:
        version: the file version.
        held: indices of the chunks that are held.
        slices: where they are, in the order of arrival.
        size_bytes: length of the data that is held, repeated chunks included.
        newest_ms: newest Kafka timestamp among its chunks; 0 if none has any.
        oldest_ms: oldest Kafka timestamp among its chunks; 0 if none has any.
        touched_s: when a chunk of it came last, by the machine's monotonic clock.
        superseded: whether a version of the same path with a later modification time has come while it was open.
    """

    version: FileVersion
    held: set[int] = field(default_factory=set)
    slices: list[SegmentSlice] = field(default_factory=list)
    size_bytes: int = 0
    newest_ms: int = 0
    oldest_ms: int = 0
    touched_s: float = 0.0
    superseded: bool = False

    @property
    def whole(self) -> bool:
        """Whether every chunk is held."""
        return len(self.held) == self.version.n_chunks

    def missing(self) -> list[tuple[int, int]]:
        """Which chunks are not held, as ascending runs of indices (first, last)."""
        held = sorted(self.held)
        edges = zip([0, *held], [*held, self.version.n_chunks + 1], strict=True)
        return [(before + 1, after - 1) for before, after in edges if after - before > 1]

    def segments(self) -> set[int]:
        """Ids of the segments that hold its chunks."""
        return {piece.segment for piece in self.slices}


@dataclass(slots=True)
class _Siblings:
    """Open versions of one path: how many, and the newest of them (several, if they are as old as each other)."""

    number: int = 0
    newest_mtime: float = 0.0
    newest: set[bytes] = field(default_factory=set)


class Assembly:
    """All file versions that are open, by their id."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._open: dict[bytes, OpenVersion] = {}
        self._users: Counter[int] = Counter()
        self._of_path: dict[str, _Siblings] = {}

    def __contains__(self, version_id: bytes) -> bool:
        """Whether chunks of the version are held."""
        return version_id in self._open

    def __len__(self) -> int:
        """How many versions are open."""
        return len(self._open)

    def __iter__(self) -> Iterator[OpenVersion]:
        """Go through the open versions, oldest first."""
        return iter(self._open.values())

    def add(self, receipt: SegmentReceipt, now_s: float) -> bool:
        """Take a receipt of chunks; return whether their version is whole now.

        Only chunks that were not held before make the segment part of the version.

        Args:
            receipt: the receipt.
            now_s: the time, by a clock that only goes on.
        """
        version_id = receipt.version.id
        version = self._open.get(version_id)
        if version is None:
            version = self._begin(receipt.version)
        before = len(version.held)
        version.held.update(receipt.indices)
        if len(version.held) > before:
            version.slices.append(receipt.slice)
            self._users[receipt.slice.segment] += 1
            version.size_bytes += receipt.size_bytes
        version.newest_ms = max(version.newest_ms, receipt.timestamp_ms)
        if receipt.oldest_ms:
            version.oldest_ms = min(version.oldest_ms or receipt.oldest_ms, receipt.oldest_ms)
        version.touched_s = now_s
        return version.whole

    def _begin(self, file_version: FileVersion) -> OpenVersion:
        version = self._open[file_version.id] = OpenVersion(file_version)
        path, mtime = file_version.relative_path, file_version.mtime or 0.0
        siblings = self._of_path.get(path)
        if siblings is None:
            siblings = self._of_path[path] = _Siblings()
        siblings.number += 1
        version.superseded = 0.0 < mtime < siblings.newest_mtime
        if mtime > siblings.newest_mtime:
            for older in siblings.newest:
                self._open[older].superseded = siblings.newest_mtime > 0.0
            siblings.newest_mtime, siblings.newest = mtime, set()
        if mtime == siblings.newest_mtime:
            siblings.newest.add(file_version.id)
        return version

    def get(self, version_id: bytes) -> OpenVersion:
        """Return an open version; KeyError if it is not open."""
        return self._open[version_id]

    def take(self, version_id: bytes) -> OpenVersion:
        """Return an open version and forget it; KeyError if it is not open."""
        version = self._open.pop(version_id)
        siblings = self._of_path[version.version.relative_path]
        siblings.number -= 1
        siblings.newest.discard(version_id)
        if not siblings.number:
            del self._of_path[version.version.relative_path]
        for piece in version.slices:
            self._users[piece.segment] -= 1
            if not self._users[piece.segment]:
                del self._users[piece.segment]
        return version

    def unused(self, segments: Iterable[int]) -> tuple[int, ...]:
        """Return those of the segments that no open version uses."""
        return tuple(segment for segment in segments if segment not in self._users)
