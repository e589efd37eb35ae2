"""What a reader of the program's topics sees, and what its group has committed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.waiting import wait_until

READ_TIMEOUT_S = 60.0
ADMIN_TIMEOUT_S = 30.0


@contextmanager
def made_topics(servers: str, partitions: Mapping[str, int]) -> Iterator[None]:
    """Make topics (name -> number of partitions), and delete them afterwards."""
    admin = AdminClient({"bootstrap.servers": servers})
    for future in admin.create_topics([NewTopic(t, n) for t, n in partitions.items()]).values():
        future.result(ADMIN_TIMEOUT_S)

    def ready() -> bool:
        known = admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics
        return all(
            topic in known and sum(p.leader >= 0 for p in known[topic].partitions.values()) == count
            for topic, count in partitions.items()
        )

    # Made by the controller; the broker that clients ask hears of it a little later.
    wait_until(ready, ADMIN_TIMEOUT_S, f"the topics {', '.join(partitions)}")
    yield
    existing = admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics
    for future in admin.delete_topics([topic for topic in partitions if topic in existing]).values():
        future.result(ADMIN_TIMEOUT_S)


@dataclass(frozen=True)
class RecordSeen:
    """One record that a reader with read_committed sees."""

    key: str
    value: dict[str, Any]


def read_committed(servers: str, topic: str) -> list[RecordSeen]:
    """Read a topic from its beginning to its end as a reader with read_committed sees it."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"test.reader.{uuid.uuid4().hex}",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        return _read_all(consumer, topic)
    finally:
        consumer.close()


def _read_all(consumer: Consumer, topic: str) -> list[RecordSeen]:
    description = consumer.list_topics(topic, timeout=READ_TIMEOUT_S).topics[topic]
    open_partitions = set(description.partitions)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in open_partitions])
    records: list[RecordSeen] = []
    while open_partitions:
        message = consumer.poll(READ_TIMEOUT_S)
        assert message is not None, f"{topic}: no answer within {READ_TIMEOUT_S} s"
        error = message.error()
        if error is None:
            records.append(RecordSeen((message.key() or b"").decode(), json.loads(message.value() or b"null")))
        elif error.code() == KafkaError._PARTITION_EOF:
            open_partitions.discard(message.partition())
        elif error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise KafkaException(error)
    return records


def committed_and_ends(servers: str, group: str, topic: str) -> tuple[dict[int, int], dict[int, int]]:
    """What a group has committed of a topic, and where the partitions end, those that hold nothing left out."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": group})
    try:
        numbers = consumer.list_topics(topic, timeout=READ_TIMEOUT_S).topics[topic].partitions
        partitions = [TopicPartition(topic, number) for number in numbers]
        committed = {p.partition: p.offset for p in consumer.committed(partitions, timeout=READ_TIMEOUT_S)}
        ends = {p.partition: consumer.get_watermark_offsets(p, timeout=READ_TIMEOUT_S)[1] for p in partitions}
    finally:
        consumer.close()
    return {p: committed[p] for p, end in ends.items() if end}, {p: end for p, end in ends.items() if end}
