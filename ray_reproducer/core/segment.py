"""How a consumer packs chunks into the objects that travel: few objects, few buffers, no byte copied in vain.

Rules:

1. A segment holds either chunks of one file version that comes in several chunks, or whole one-chunk files.
   A big file that takes long to arrive therefore never keeps other files' bytes in memory.
2. A segment tells everything about its chunks but which offsets they came from: index, write offset, size and
   SHA-512 of each stand in its table, so that only a few numbers travel to the committer.
3. Chunks of one file stand in the order of their place in the file. Small ones are joined into larger buffers,
   large ones are buffers of their own and are not copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ray_reproducer.core.chunk import Chunk

OWN_BUFFER_BYTES: Final = 64 * 1024
"""From this size on a chunk is a buffer of its own: a copy would cost more than one more object."""
JOINED_BUFFER_BYTES: Final = 1024 * 1024
"""Small chunks are joined up to this size: a copy of that much stays in the processor's cache."""


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


@dataclass(frozen=True, slots=True)
class Segment:
    """What a consumer puts into the object store as one object."""

    entries: Sequence[Entry]
    buffers: Sequence[bytes]

    @property
    def size_bytes(self) -> int:
        """Length of all data."""
        return sum(map(len, self.buffers))


def pack(chunks: Iterable[Chunk]) -> Segment:
    """Make a segment of chunks, keeping their order."""
    entries: list[Entry] = []
    buffers: list[bytes] = []
    small: list[bytes] = []
    small_bytes = 0
    for chunk in chunks:
        size = len(chunk.data)
        if small and (size >= OWN_BUFFER_BYTES or small_bytes + size > JOINED_BUFFER_BYTES):
            buffers.append(b"".join(small))
            small, small_bytes = [], 0
        entries.append(Entry(chunk.index, chunk.write_offset, chunk.chunk_hash, len(buffers), small_bytes, size))
        if size >= OWN_BUFFER_BYTES:
            buffers.append(chunk.data)
        else:
            small.append(chunk.data)
            small_bytes += size
    if small:
        buffers.append(b"".join(small))
    return Segment(entries, buffers)
