"""Reads the source topic: messages, ends of partitions, positions that are gone.

Rules:

1. Partitions are assigned, never subscribed to; reading never commits anything.
2. Positions jump only where we say so. If the next offset is no longer there (retention, deleted records), that is
   reported as ``OffsetLost`` with the range that is gone, and reading goes on at the oldest offset that is left. If
   the next offset is *beyond* the end, the topic was made anew or cut: that is reported too, and reading stops there.
3. ``PartitionEnd`` carries the true next offset, over transaction markers and compacted tails; a message that
   follows with a higher offset than expected leaves a gap of offsets that will never come.
4. The hot path is one call of the library; prefetched messages are never thrown away (no pause, no seek) but in rules 2
   and 5, and where the caller asks for a jump.
5. A partition that goes on, though nothing has come of it from one look to the next but one, is read through a new
   connection from where it stands. (Seen with librdkafka 2.16: after a broker has been started again it may know no
   partitions for a moment, and the library never fetches from some of them again.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from ray_reproducer.core.errors import BrokerError
from ray_reproducer.kafka import faults
from ray_reproducer.kafka.client_config import ClientConfigs, Value, open_consumer

_TUNING: Final[Mapping[str, Value]] = {
    # Measured with chunks of 0.5-1 MB: 1.4 times the throughput of the defaults at a sixth of the memory; 16-64 MB
    # are equally fast. The queue is per consumer and overshoots by one fetch.
    "queued.max.messages.kbytes": 32 * 1024,
    "fetch.queue.backoff.ms": 10,
    # The library's default of 1 MB a partition is one or two chunks: too many round trips.
    "fetch.message.max.bytes": 4 * 1024 * 1024,
    "fetch.wait.max.ms": 100,
}
_ASK_S: Final = 1.0
"""How long a question about the limits of a partition may take before reading goes on."""
_LOOK_EVERY_S: Final = 10.0
"""How often partitions are looked for of which nothing comes any more: two looks make a standstill."""
_LOOKED_AT: Final = 8
"""Partitions that the broker is asked for at one look, a few milliseconds each; the others' turn comes later."""
_PROBE_EVERY_S: Final = 2.0
"""While in trouble and without messages: how often to ask the broker whether it is back."""


@dataclass(frozen=True, slots=True)
class PartitionEnd:
    """All that a partition held has been read.

    Attributes:
        partition: which one.
        offset: the next offset that will be written.
    """

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class OffsetLost:
    """The next offset of a partition can't be read.

    Attributes:
        partition: which one.
        offset_wanted: the offset that should have come next.
        resumes_at: where reading goes on (all from ``offset_wanted`` up to it is gone), or None if the offset is beyond
            the end of the partition: the topic was deleted and made anew, or cut. Nothing more comes then.
    """

    partition: int
    offset_wanted: int
    resumes_at: int | None


Event: TypeAlias = Message | PartitionEnd | OffsetLost
"""What ``poll`` returns."""


class Source:
    """One consumer on some partitions of the source topic.

    Args:
        clients: the user's client settings.
        group_id: the group it belongs to, in name only (for quotas and permissions).
        topic: the source topic.
        starts: partition to the first offset to read.
        on_trouble: called from ``poll`` with a line of text when the broker is in trouble, with "" when it is well.

    Raises:
        ConfigurationError: the client library refuses a setting.
    """

    def __init__(
        self,
        clients: ClientConfigs,
        group_id: str,
        topic: str,
        starts: Mapping[int, int],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._topic = topic
        self._health = faults.Health(on_trouble)
        self._partitions: list[int] = []
        self._lost: dict[int, int] = {}
        self._next_probe_s = 0.0
        self._next_look_s = time.monotonic() + _LOOK_EVERY_S
        self._starts: dict[int, int] = {}
        self._looked_at: dict[int, int] = {}
        self._suspects: dict[int, int] = {}
        self._asked_last = -1
        self._ends: dict[int, int] = {}
        self._config = clients.for_consumer(
            **{
                "group.id": group_id,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                **_TUNING,
            }
        )
        self._consumer = open_consumer(self._config, self._health.on_error)
        self.add(starts)

    def add(self, starts: Mapping[int, int]) -> None:
        """Read further partitions, from the given offsets on; those being read are not disturbed."""
        self._partitions.extend(starts)
        self._starts.update(starts)
        self._consumer.incremental_assign(
            [TopicPartition(self._topic, partition, offset) for partition, offset in starts.items()]
        )

    def jump(self, partition: int, offset: int) -> None:
        """Go on reading a partition at another offset; what was fetched ahead of it is thrown away."""
        position = TopicPartition(self._topic, partition, offset)
        self._starts[partition] = offset
        self._consumer.incremental_unassign([position])
        self._consumer.incremental_assign([position])

    def leave(self, partition: int) -> None:
        """Read a partition no more."""
        self._partitions.remove(partition)
        self._consumer.incremental_unassign([TopicPartition(self._topic, partition)])

    def poll(self, timeout_s: float) -> Event | None:
        """Return what comes next, or None after ``timeout_s`` without anything.

        A ``Message`` is a message without error: its ``value()`` makes a copy, so call it once.

        Raises:
            BrokerError: the broker does not let us read the topic (any more).
        """
        message = self._consumer.poll(timeout_s)
        if time.monotonic() >= self._next_look_s:
            self._look_for_standstill()
        if message is None:
            return self._idle()
        error = message.error()
        if error is None:
            if self._health.trouble:
                self._health.well()
            return message
        return self._event(error, message)

    def high_watermarks(self) -> dict[int, int]:
        """The end of each partition as far as the last fetch told; partitions not fetched from yet are absent."""
        known: dict[int, int] = {}
        for partition in self._partitions:
            _, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            if high >= 0:
                known[partition] = high
        return known

    def close(self) -> None:
        """Let go of the connection; nothing is committed by this."""
        self._consumer.close()

    def _event(self, error: KafkaError, message: Message) -> Event | None:
        partition, offset = message.partition(), message.offset()
        if error.code() == faults.END_OF_PARTITION and partition is not None and offset is not None:
            self._health.well()
            self._ends[partition] = offset
            return PartitionEnd(partition, offset)
        if error.code() == faults.OFFSET_GONE and partition is not None and offset is not None:
            self._lost[partition] = offset
            return self._resume_lost()
        if faults.is_of_group(error):
            return None
        if faults.is_forbidden(error):
            raise BrokerError(
                f"not allowed to read the topic {self._topic}: {faults.text(error)}",
                hint=f"Grant READ on the topic {self._topic}.",
            )
        self._health.on_error(error)
        return None

    def _idle(self) -> Event | None:
        if self._lost:
            return self._resume_lost()
        if self._partitions and self._health.trouble and time.monotonic() >= self._next_probe_s:
            self._next_probe_s = time.monotonic() + _PROBE_EVERY_S
            # An idle topic sends nothing that would tell that the broker is back: ask.
            if self._limits(self._partitions[0]) is not None:
                self._health.well()
        return None

    def _resume_lost(self) -> OffsetLost | None:
        """Rule 2: find out what is left of a partition; asked again until the broker answers."""
        partition, wanted = next(iter(self._lost.items()))
        limits = self._limits(partition)
        if limits is None:
            return None
        del self._lost[partition]
        low, high = limits
        position = TopicPartition(self._topic, partition, max(low, wanted))
        self._starts[partition] = position.offset
        self._consumer.incremental_unassign([position])
        if wanted > high:
            self._partitions.remove(partition)
            return OffsetLost(partition, wanted, None)
        self._consumer.incremental_assign([position])
        # Where it is there after all, there was another reason, such as a change of the partition's leader.
        return OffsetLost(partition, wanted, low) if wanted < low else None

    def _limits(self, partition: int) -> tuple[int, int] | None:
        try:
            return self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), _ASK_S)
        except KafkaException as exception:
            self._health.report(faults.text(faults.of(exception)))
            return None

    def _look_for_standstill(self) -> None:
        """Rule 5; the message that was taken before this call counts as taken."""
        positions = self._positions()
        silent = {p: offset for p, offset in positions.items() if self._looked_at.get(p) == offset}
        self._looked_at = positions
        stands: dict[int, int] = {}
        turn = sorted(silent, key=lambda p: (p not in self._suspects, p <= self._asked_last, p))
        for partition in turn[:_LOOKED_AT]:
            self._asked_last = partition
            limits = self._limits(partition)
            if limits is None:  # the broker is away: nothing is known of the others either
                break
            if limits[0] <= silent[partition] < limits[1]:
                stands[partition] = silent[partition]
        if any(self._suspects.get(partition) == offset for partition, offset in stands.items()):
            self._read_anew(positions)
            stands = {}
        self._suspects = stands
        self._next_look_s = time.monotonic() + _LOOK_EVERY_S

    def _positions(self) -> dict[int, int]:
        """The next offset of each partition that is read; it may lie behind the last message (rule 3)."""
        wanted = [TopicPartition(self._topic, p) for p in self._partitions if p not in self._lost]
        return {
            # The library says less than zero if nothing has been taken yet.
            place.partition: max(place.offset, self._starts[place.partition], self._ends.get(place.partition, 0))
            for place in self._consumer.position(wanted)
        }

    def _read_anew(self, positions: Mapping[int, int]) -> None:
        """Go on through a new connection."""
        self._health.report(f"nothing comes of {self._topic} any more, though it goes on: the connection is made anew")
        self._consumer.close()
        self._consumer = open_consumer(self._config, self._health.on_error)
        self._starts.update(positions)
        self._consumer.incremental_assign([TopicPartition(self._topic, p, offset) for p, offset in positions.items()])
