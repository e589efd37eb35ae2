"""What the topics of results and dead letters tell of files that are done: Kafka's truth, for the registries.

Rules:

1. All of it or an error: a partition that can't be asked where to begin, or that says nothing, is not passed over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from confluent_kafka import KafkaException, Message, TopicPartition

from ray_reproducer.core import result_header
from ray_reproducer.core.errors import BrokerError
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.kafka import admin, faults
from ray_reproducer.kafka.client_config import ClientConfigs, open_consumer
from ray_reproducer.kafka.source import OffsetLost, PartitionEnd, Source

ASK_TIMEOUT_S: Final = 10.0
"""How long the broker may take to say what there is to read."""
POLL_S: Final = 0.1
"""How long to wait for a message before the caller may look at the clock."""
SILENCE_S: Final = 60.0
"""How long the broker may be silent before reading is given up."""


class Registered(NamedTuple):
    """A record that names its file.

    Attributes:
        outcome: what it says, without its value.
        produced_ms: Kafka timestamp of the record, in milliseconds since the epoch.
        by_tombstone: whether a tombstone says it, on the topic of dead letters: a replay has made a result.
    """

    outcome: Outcome
    produced_ms: int
    by_tombstone: bool = False


def read_registered(
    clients: ClientConfigs, topic: str, group_id: str, since_ms: int | None
) -> Iterator[Registered | None]:
    """Read a topic to its end; yields None when there is nothing at the moment.

    Args:
        clients: settings of the Kafka clients.
        topic: of results, or of dead letters.
        group_id: whose records are wanted.
        since_ms: only records with this timestamp or a newer one; None: all.

    Raises:
        BrokerError: the topic can't be read.
    """
    starts = _starts(clients, topic, since_ms)
    source = Source(clients, group_id, topic, starts, lambda _trouble: None)
    open_partitions = set(starts)
    heard_s = time.monotonic()
    try:
        while open_partitions:
            event = source.poll(POLL_S)
            if event is None:
                if time.monotonic() - heard_s > SILENCE_S:
                    raise BrokerError(f"{topic}: no answer for {SILENCE_S:g} s")
                yield None
                continue
            heard_s = time.monotonic()
            if isinstance(event, PartitionEnd):
                open_partitions.discard(event.partition)
            elif isinstance(event, OffsetLost):
                if event.resumes_at is None:
                    open_partitions.discard(event.partition)
            else:
                yield _registered(event, group_id)
    finally:
        source.close()


def _registered(message: Message, group_id: str) -> Registered | None:
    header = dict(message.headers() or []).get(result_header.HEADER)
    if not isinstance(header, bytes):
        return None
    outcome = result_header.decode((message.key() or b"").decode("utf-8", "replace"), header, group_id)
    return Registered(outcome, message.timestamp()[1]) if outcome else None


def _starts(clients: ClientConfigs, topic: str, since_ms: int | None) -> dict[int, int]:
    """Return where to begin on each partition that has something to read."""
    partitions = admin.describe_topic(clients, topic, ASK_TIMEOUT_S).partitions
    limits = admin.watermarks(clients, topic, partitions, ASK_TIMEOUT_S)
    begin = {partition: low for partition, (low, high) in limits.items() if low < high}
    if since_ms is None or not begin:
        return begin
    consumer = open_consumer(clients.for_consumer(**{"group.id": "ray_reproducer"}))
    try:
        wanted = [TopicPartition(topic, partition, since_ms) for partition in begin]
        found = consumer.offsets_for_times(wanted, timeout=ASK_TIMEOUT_S)
    except KafkaException as exception:
        raise BrokerError(f"{topic}: can't ask where to begin: {faults.text(faults.of(exception))}") from exception
    finally:
        consumer.close()
    for place in found:
        if place.error is not None:
            where = f"{topic} [{place.partition}]"
            raise BrokerError(f"{where}: can't ask where to begin: {faults.text(place.error)}")
    # A negative offset: all records there are older.
    return {place.partition: place.offset for place in found if place.offset >= 0}
