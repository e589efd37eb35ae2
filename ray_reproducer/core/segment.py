"""How a consumer packs chunks into the objects that travel: few objects, few buffers, no byte copied in vain.

Rules:

1. A segment holds either chunks of one file version that comes in several chunks, or whole one-chunk files.
   A big file that takes long to arrive therefore never keeps other files' bytes in memory.
2. A segment tells everything about its chunks but which offsets they came from: index, write offset, size, SHA-512 and
   file version of each stand in its table, so that only a few numbers travel to the committer and on to the workers.
3. Chunks of one file stand in the order of their place in the file. Small ones are joined into larger buffers,
   large ones are buffers of their own and are not copied.
4. Each row of the table can be read by itself: a task reads those of its own files, however many share the segment.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, NamedTuple

import msgpack

from ray_reproducer.core.chunk import Chunk, FileVersion

OWN_BUFFER_BYTES: Final = 64 * 1024
"""From this size on a chunk is a buffer of its own: a copy would cost more than one more object."""
JOINED_BUFFER_BYTES: Final = 1024 * 1024
"""Small chunks are joined up to this size: a copy of that much stays in the processor's cache."""
_END: Final = "I"
"""Type of the places in a table: a segment has some megabytes."""


class Entry(NamedTuple):
    """One chunk in a segment.

    Attributes:
        chunk: its index in the file, from 1.
        write_offset: where its data starts in the file, in bytes.
        chunk_hash: SHA-512 of its data, as the message said.
        buffer: in which of the segment's buffers its data is.
        start: where in that buffer.
        size: how many bytes.
    """

    chunk: int
    write_offset: int
    chunk_hash: bytes
    buffer: int
    start: int
    size: int


_ENTRY: Final = len(Entry._fields)


class SegmentTable:
    """What a segment says of its chunks: a row for each, as msgpack; the first row of a version tells that, too.

    Attributes:
        rows: all rows, one behind the other.
        ends: where each ends, as native unsigned integers of four bytes.
    """

    __slots__ = ("_ends", "_rows", "ends", "rows")

    def __init__(self, rows: Any, ends: Any) -> None:
        """Look at a table; nothing is copied.

        Args:
            rows: all rows, in anything that has the buffer protocol.
            ends: where each ends, the same.
        """
        self.rows, self.ends = rows, ends
        self._rows, self._ends = memoryview(rows), memoryview(ends).cast("B").cast(_END)

    @classmethod
    def of(cls, rows: Sequence[bytes]) -> SegmentTable:
        """Put rows together."""
        return cls(b"".join(rows), array(_END, accumulate(map(len, rows))).tobytes())

    def __len__(self) -> int:
        """How many chunks there are."""
        return len(self._ends)

    def read(self, first: int, n_entries: int) -> tuple[FileVersion, list[Entry]]:
        """Read consecutive rows of one file version.

        Args:
            first: index of the first row, which is the version's first.
            n_entries: how many rows, at least one.
        """
        row = self._row(first)
        entries = [Entry(*row[:_ENTRY])]
        entries += [Entry(*self._row(number)[:_ENTRY]) for number in range(first + 1, first + n_entries)]
        return FileVersion(*row[_ENTRY:]), entries

    def _row(self, number: int) -> tuple[Any, ...]:
        start = self._ends[number - 1] if number else 0
        row: tuple[Any, ...] = msgpack.unpackb(self._rows[start : self._ends[number]], use_list=False)
        return row


@dataclass(frozen=True, slots=True)
class Segment:
    """What a consumer puts into the object store as one object."""

    table: SegmentTable
    buffers: Sequence[bytes]

    @property
    def size_bytes(self) -> int:
        """Length of all data."""
        return sum(map(len, self.buffers))


def pack(chunks: Iterable[Chunk]) -> Segment:
    """Make a segment of chunks, keeping their order."""
    row_of = msgpack.Packer().pack
    rows: list[bytes] = []
    buffers: list[bytes] = []
    small: list[bytes] = []
    small_bytes = 0
    version: FileVersion | None = None
    for chunk in chunks:
        size = len(chunk.data)
        if small and (size >= OWN_BUFFER_BYTES or small_bytes + size > JOINED_BUFFER_BYTES):
            buffers.append(b"".join(small))
            small, small_bytes = [], 0
        row: tuple[Any, ...] = (chunk.index, chunk.write_offset, chunk.chunk_hash, len(buffers), small_bytes, size)
        if chunk.version is not version:
            version = chunk.version
            row += version.fields
        rows.append(row_of(row))
        if size >= OWN_BUFFER_BYTES:
            buffers.append(chunk.data)
        else:
            small.append(chunk.data)
            small_bytes += size
    if small:
        buffers.append(b"".join(small))
    return Segment(SegmentTable.of(rows), buffers)
