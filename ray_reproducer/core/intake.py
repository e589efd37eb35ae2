"""What a consumer makes of each message: a chunk to keep, one to pass over, or poison.

Rules:

1. Every offset is accounted for exactly once: a flush says for each partition which range of offsets it covers,
   and names within it the chunks that it holds and the messages that are none. All other offsets in the range were
   filtered out (by their path, or because only some file versions are wanted), were done before, or are gaps that are
   never delivered.
2. Offsets of a partition only grow.
3. An offset that the committed metadata calls done is passed over. If it holds a whole file in one chunk, the id of
   that is handed on, so that later repeats of it are known for what they are. Of a file in several chunks it does not
   say that the *file* is done: it may have been given up, and what comes of it later is to be done.
4. A message that is no chunk never stops anything: it becomes poison, with its reason and the beginning of its value.
5. A flush carries everything that was taken since the last one.
6. It also says how far in time each partition was read: that is what tells a file whose rest is late from one whose
   rest was not read yet.
7. Where only some file versions are wanted, a message that is no chunk is filtered out too: it is not one of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ray_reproducer.core.assembly import SegmentReceipt, SegmentSlice
from ray_reproducer.core.chunk import Chunk, decode
from ray_reproducer.core.commit_metadata import CommittedState
from ray_reproducer.core.errors import ChunkError, IllegalEventError
from ray_reproducer.core.ledger import PartitionStart, poison_id
from ray_reproducer.core.outcome import MAX_RAW_MESSAGE_BYTES, PoisonMessage
from ray_reproducer.core.patience import AT_END
from ray_reproducer.core.segment import Segment, pack

SHARED_SEGMENT_BYTES: Final = 4 * 1024 * 1024
"""How much one-chunk files share a segment: it is freed when the last of them is done, and travels as a whole."""
_SEGMENTS_A_CONSUMER: Final = 2**40


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a consumer tells the committer of everything it took since the last time.

    Attributes:
        ranges: (partition, start, stop): all offsets in ``[start, stop)`` are accounted for.
        receipts: chunks that are held, by file version.
        poison: (partition, offset, what it is) for messages that are no chunks.
        done_before: ids of versions of which offsets were passed over because they are done.
        messages: how many messages it took.
        size_bytes: length of the chunks' data, and of what is kept of poison.
        filtered: how many messages were left out, by the path filter or because their file version is not wanted.
        lost: (partition, start, stop): offsets that were gone before they could be read.
        read_to_ms: partition -> Kafka timestamp of the message taken last, in milliseconds; ``AT_END`` if all that
            the partition holds has been taken. Partitions of which nothing is new are absent.
    """

    ranges: tuple[tuple[int, int, int], ...] = ()
    receipts: tuple[SegmentReceipt, ...] = ()
    poison: tuple[tuple[int, int, PoisonMessage], ...] = ()
    done_before: frozenset[bytes] = frozenset()
    messages: int = 0
    size_bytes: int = 0
    filtered: int = 0
    lost: tuple[tuple[int, int, int], ...] = ()
    read_to_ms: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check rule 1: the ledger relies on it, and would only notice much later.

        Raises:
            IllegalEventError: a partition has two ranges or one that ends before it starts, or an offset is in none.
        """
        ranges = {p: range(start, stop) for p, start, stop in self.ranges}
        if len(ranges) < len(self.ranges) or any(stop < start for _, start, stop in self.ranges):
            raise IllegalEventError(f"these ranges can not be: {self.ranges}")
        nowhere = range(0)
        for receipt in self.receipts:
            for partition, offset in zip(receipt.partitions, receipt.offsets, strict=True):
                if offset not in ranges.get(partition, nowhere):
                    raise IllegalEventError(f"partition {partition}: offset {offset} is outside of {self.ranges}")
        for partition, offset, _ in self.poison:
            if offset not in ranges.get(partition, nowhere):
                raise IllegalEventError(f"partition {partition}: offset {offset} is outside of {self.ranges}")


@dataclass(frozen=True, slots=True)
class Flush:
    """A delivery, and the segments that its receipts speak of, by their id."""

    delivery: Delivery
    segments: Mapping[int, Segment]


class _Taken(NamedTuple):
    chunk: Chunk
    partition: int
    offset: int
    timestamp_ms: int


class Intake:
    """The state machine of one consumer."""

    def __init__(
        self,
        number: int,
        starts: Mapping[int, PartitionStart],
        filepath_regex: str | None = None,
        only: Collection[bytes] | None = None,
    ) -> None:
        """Begin with nothing taken.

        Args:
            number: which consumer this is; makes the ids of its segments unique.
            starts: partition -> where to begin, and what is done above that.
            filepath_regex: chunks of files whose relative path (without append) does not match its beginning
                are left out.
            only: ids of the file versions that are wanted; None: all.
        """
        self._segment_id = number * _SEGMENTS_A_CONSUMER
        self._next = {p: start.position for p, start in starts.items()}
        self._from = dict(self._next)
        self._restored: dict[int, CommittedState] = {p: s.restored for p, s in starts.items() if s.restored}
        self._only = only
        self._regex = re.compile(filepath_regex) if filepath_regex else None
        self._clear()

    def _clear(self) -> None:
        self._single: list[_Taken] = []
        self._multiple: dict[bytes, list[_Taken]] = {}
        self._poison: list[tuple[int, int, PoisonMessage]] = []
        self._done_before: set[bytes] = set()
        self._lost: list[tuple[int, int, int]] = []
        self._read_to_ms: dict[int, int] = {}
        self._messages = 0
        self._filtered = 0
        self.buffered_bytes = 0

    def add(self, starts: Mapping[int, int]) -> None:
        """Take further partitions too: partition -> first offset.

        Raises:
            IllegalEventError: one of them is taken already.
        """
        if known := starts.keys() & self._next.keys():
            raise IllegalEventError(f"partitions {sorted(known)} are not new")
        self._next.update(starts)
        self._from.update(starts)

    def message(self, partition: int, offset: int, value: bytes | None, timestamp_ms: int) -> None:
        """Take one message.

        Raises:
            IllegalEventError: the offset was taken already, or the partition is not ours.
        """
        self._advance(partition, offset, offset + 1)
        self._messages += 1
        self._read_to_ms[partition] = timestamp_ms
        try:
            chunk = decode(value)
        except ChunkError as error:
            if self._only is not None:
                self._filtered += 1
                return
            self._take_poison(partition, offset, value or b"", error)
            return
        version = chunk.version
        unwanted = self._only is not None and version.id not in self._only
        if unwanted or (self._regex and not self._regex.match(version.original_path)):
            self._filtered += 1
        elif self._is_done(partition, offset, version.id):
            if version.n_chunks == 1:
                self._done_before.add(version.id)
        else:
            self.buffered_bytes += len(chunk.data)
            taken = _Taken(chunk, partition, offset, timestamp_ms)
            if version.n_chunks == 1:
                self._single.append(taken)
            else:
                self._multiple.setdefault(version.id, []).append(taken)

    def reached(self, partition: int, next_offset: int) -> None:
        """Take note that a partition ends at an offset: all below was delivered, or never will be.

        Raises:
            IllegalEventError: the partition is not ours.
        """
        self._pass(partition, next_offset)
        self._read_to_ms[partition] = AT_END

    def lost(self, partition: int, next_offset: int) -> None:
        """Take note that what lay before an offset is gone, and was not delivered.

        Raises:
            IllegalEventError: the partition is not ours.
        """
        start = self._next.get(partition, next_offset)
        self._pass(partition, next_offset)
        if next_offset > start:
            self._lost.append((partition, start, next_offset))

    def _pass(self, partition: int, next_offset: int) -> None:
        if next_offset > self._next.get(partition, -1):
            self._advance(partition, next_offset, next_offset)

    def flush(self) -> Flush | None:
        """Hand over everything taken since the last flush; None if there was nothing."""
        ranges = tuple((p, start, self._next[p]) for p, start in self._from.items() if self._next[p] > start)
        if not ranges and not self._read_to_ms:
            return None
        segments: dict[int, Segment] = {}
        receipts: list[SegmentReceipt] = []
        for group in self._shared_groups():
            segment_id = self._add_segment(segments, group)
            receipts.extend(_receipt_of_whole(taken, segment_id, first) for first, taken in enumerate(group))
        for group in self._multiple.values():
            group.sort(key=lambda taken: taken.chunk.index)
            receipts.append(_receipt(group, self._add_segment(segments, group), 0))
        delivery = Delivery(
            ranges=ranges,
            receipts=tuple(receipts),
            poison=tuple(self._poison),
            done_before=frozenset(self._done_before),
            messages=self._messages,
            size_bytes=self.buffered_bytes,
            filtered=self._filtered,
            lost=tuple(self._lost),
            read_to_ms=self._read_to_ms,
        )
        self._from = dict(self._next)
        self._clear()
        return Flush(delivery, segments)

    def _advance(self, partition: int, offset: int, next_offset: int) -> None:
        expected = self._next.get(partition)
        if expected is None or offset < expected:
            raise IllegalEventError(f"partition {partition}: offset {offset}, expected {expected} or later")
        self._next[partition] = next_offset
        restored = self._restored.get(partition)
        if restored and offset >= restored.end:
            del self._restored[partition]

    def _is_done(self, partition: int, offset: int, version_id: bytes) -> bool:
        restored = self._restored.get(partition)
        return restored is not None and restored.is_done(offset, version_id)

    def _take_poison(self, partition: int, offset: int, value: bytes, error: ChunkError) -> None:
        if self._is_done(partition, offset, poison_id(partition, offset)):
            return
        message = PoisonMessage(error.reason, error.message, value[:MAX_RAW_MESSAGE_BYTES], len(value))
        self._poison.append((partition, offset, message))
        self.buffered_bytes += len(message.raw)

    def _shared_groups(self) -> list[list[_Taken]]:
        groups: list[list[_Taken]] = []
        size = 0
        for taken in self._single:
            length = len(taken.chunk.data)
            if not groups or size + length > SHARED_SEGMENT_BYTES:
                groups.append([])
                size = 0
            groups[-1].append(taken)
            size += length
        return groups

    def _add_segment(self, segments: dict[int, Segment], group: list[_Taken]) -> int:
        self._segment_id += 1
        segments[self._segment_id] = pack(taken.chunk for taken in group)
        return self._segment_id


def _receipt_of_whole(taken: _Taken, segment_id: int, first: int) -> SegmentReceipt:
    """What ``_receipt`` makes of a single chunk, in a third of the time: small files come by the thousand."""
    chunk, partition, offset, timestamp_ms = taken
    where = SegmentSlice(segment_id, first, 1), (partition,), (offset,), (chunk.index,)
    return SegmentReceipt(chunk.version, *where, len(chunk.data), timestamp_ms, max(0, timestamp_ms))


def _receipt(group: list[_Taken], segment_id: int, first: int) -> SegmentReceipt:
    return SegmentReceipt(
        version=group[0].chunk.version,
        slice=SegmentSlice(segment_id, first, len(group)),
        partitions=tuple(taken.partition for taken in group),
        offsets=tuple(taken.offset for taken in group),
        indices=tuple(taken.chunk.index for taken in group),
        size_bytes=sum(len(taken.chunk.data) for taken in group),
        timestamp_ms=max(taken.timestamp_ms for taken in group),
        # A message without a timestamp says -1.
        oldest_ms=min((taken.timestamp_ms for taken in group if taken.timestamp_ms > 0), default=0),
    )
