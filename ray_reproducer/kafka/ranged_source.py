"""Reads some ranges of offsets of the source topic, and what lies between them as little as possible.

Rules:

1. Messages outside of the ranges are never returned. To those who count offsets they look like gaps.
2. A gap between two ranges is jumped over if reading it would cost more than a jump: a jump throws away what was
   fetched ahead. How much a gap holds is estimated from the messages seen before it.
3. Behind its last range a partition is left, and its end is reported.
4. Everything else is as in :mod:`source`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, cast

from confluent_kafka import Message

from ray_reproducer.core.errors import IllegalEventError
from ray_reproducer.core.replay_plan import Ranges
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.source import Event, OffsetLost, PartitionEnd, Source

JUMP_BYTES: Final = 4 * 1024 * 1024
"""Gaps that hold more than this are jumped over: it is one fetch, about what a jump throws away."""
JUMP_MESSAGES: Final = 20_000
"""So are gaps of more offsets than this, however small the messages are: that many take 0.1 s to read."""


class RangedSource:
    """A :class:`Source` that reads ranges.

    Args:
        clients: the user's client settings.
        group_id: the group it belongs to, in name only.
        topic: the source topic.
        ranges: partition -> ascending, disjoint ranges of offsets, at least one.
        on_trouble: as for ``Source``.
    """

    def __init__(
        self,
        clients: ClientConfigs,
        group_id: str,
        topic: str,
        ranges: Mapping[int, Ranges],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._ends = {partition: of_partition[-1][1] for partition, of_partition in ranges.items()}
        self._ranges = {partition: deque(of_partition) for partition, of_partition in ranges.items()}
        # Where each partition jumped to last: messages fetched before may still come.
        self._jumped: dict[int, int] = {}
        starts = {partition: of_partition[0][0] for partition, of_partition in ranges.items()}
        self._source = Source(clients, group_id, topic, starts, on_trouble)

    def poll(self, timeout_s: float) -> Event | None:
        """Return what comes next within the ranges, or None after ``timeout_s`` without anything."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            event = self._source.poll(max(0.0, deadline_s - time.monotonic()))
            if event is None:
                return None
            wanted = self._wanted(event)
            if wanted is not None:
                return wanted

    def add(self, starts: Mapping[int, int]) -> None:
        """Refuse further partitions: what is read was planned.

        Raises:
            IllegalEventError: always.
        """
        raise IllegalEventError(f"partitions {sorted(starts)} are not planned")

    def high_watermarks(self) -> dict[int, int]:
        """Where the reading of each partition ends."""
        return dict(self._ends)

    def close(self) -> None:
        """Let go of the connection."""
        self._source.close()

    def _wanted(self, event: Event) -> Event | None:
        if isinstance(event, PartitionEnd):
            return self._reached(event.partition, event.offset)
        return self._lost(event) if isinstance(event, OffsetLost) else self._message(event)

    def _message(self, message: Message) -> Event | None:
        partition, offset = cast("int", message.partition()), cast("int", message.offset())
        end = self._reached(partition, offset)
        ranges = self._ranges.get(partition)
        if not ranges:
            return end
        wanted = offset >= ranges[0][0]
        if wanted and offset + 1 == ranges[0][1]:
            self._reached(partition, offset + 1)
        if ranges:
            self._jump(partition, offset + 1, ranges[0][0], len(message))
        return message if wanted else None

    def _reached(self, partition: int, offset: int) -> PartitionEnd | None:
        """Leave behind the ranges that end at or before an offset; return the partition's end if these were all."""
        ranges = self._ranges.get(partition)
        if ranges is None:
            return None
        while ranges and ranges[0][1] <= offset:
            ranges.popleft()
        if ranges:
            return None
        del self._ranges[partition]
        self._source.leave(partition)
        return PartitionEnd(partition, self._ends[partition])

    def _lost(self, event: OffsetLost) -> OffsetLost:
        if event.resumes_at is None:
            self._ranges.pop(event.partition, None)
        else:
            self._reached(event.partition, event.resumes_at)
        return event

    def _jump(self, partition: int, offset: int, start: int, message_bytes: int) -> None:
        """Jump to the start of the next range if that is worth it (rule 2)."""
        gap = start - offset
        worth_it = gap > JUMP_MESSAGES or gap * message_bytes > JUMP_BYTES
        if worth_it and self._jumped.get(partition) != start:
            self._jumped[partition] = start
            self._source.jump(partition, start)
