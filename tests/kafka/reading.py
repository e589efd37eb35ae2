"""Reading topics to their end in tests."""

from __future__ import annotations

import time

from confluent_kafka import Message

from ray_reproducer.kafka import admin
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.source import Event, OffsetLost, PartitionEnd, Source

WAIT_S = 40.0
"""How long a test waits for something that must happen; a loaded machine is slow."""


def ignore(_trouble: str) -> None:
    """Take no notice of trouble."""


def events_until_ends(source: Source, partitions: int) -> list[Event]:
    """Read until so many partitions have been read to their end."""
    seen: list[Event] = []
    ends: set[int] = set()
    deadline = time.monotonic() + WAIT_S
    while len(ends) < partitions:
        assert time.monotonic() < deadline, f"only saw {seen[-5:]}"
        event = source.poll(0.2)
        if event is not None:
            seen.append(event)
        if isinstance(event, PartitionEnd):
            ends.add(event.partition)
    return seen


def messages(events: list[Event]) -> list[Message]:
    """Leave out what is no message."""
    return [event for event in events if not isinstance(event, PartitionEnd | OffsetLost)]


def read_all(clients: ClientConfigs, topic: str) -> list[Message]:
    """All messages of a topic that a read_committed reader sees."""
    partitions = admin.describe_topic(clients, topic, WAIT_S).partitions
    source = Source(clients, "reader", topic, dict.fromkeys(partitions, 0), ignore)
    try:
        return messages(events_until_ends(source, len(partitions)))
    finally:
        source.close()


def values(clients: ClientConfigs, topic: str) -> list[str]:
    """The values of all messages of a topic, sorted."""
    return sorted((message.value() or b"").decode() for message in read_all(clients, topic))
