"""Which file versions this group has finished lately, read back from the records that say so.

A record of a finished file carries a header with the id of the file version. A new life of the program reads the last
records of its topics, so that a chunk that repeats one of a finished file is known for what it is, also when the commit
metadata has forgotten that file.

Rules:

1. The header is :data:`HEADER`, its value 8 bytes that name group and source topic (a topic made anew is another one),
   then the 12 bytes of the version's id; and one byte more if the file has come damaged, or in part: then it is not
   finished, and may be sent again. Records of others are passed over.
2. Only committed records count. Read after the transactional id was taken over, none of ours can be missing.
3. It ends where the topics end when it begins, and tries until it gets there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from ray_reproducer.core.chunk import VERSION_ID_BYTES
from ray_reproducer.core.errors import ForbiddenError
from ray_reproducer.kafka import faults
from ray_reproducer.kafka.client_config import ClientConfigs, Value, open_consumer

HEADER: Final = "ray_reproducer"
"""Name of the header."""
_TAG_BYTES: Final = 8
_NOT_FINISHED: Final = b"\0"
_POLL_S: Final = 0.5
"""How long to wait for records before looking whether anybody still waits for us."""
_ASK_S: Final = 5.0
"""One try to learn where a topic begins and ends."""


def tag(group_id: str, topic_id: bytes) -> bytes:
    """Name a group and a source topic in 8 bytes."""
    return hashlib.blake2b(topic_id + group_id.encode(), digest_size=_TAG_BYTES).digest()


def headers(of: bytes, version_id: bytes, *, finished: bool = True) -> tuple[tuple[str, bytes], ...]:
    """Make the headers of a file's record.

    Args:
        of: the :func:`tag`.
        version_id: id of the file version.
        finished: False if it may be sent again.
    """
    return ((HEADER, of + version_id if finished else of + version_id + _NOT_FINISHED),)


@dataclass(frozen=True)
class Told:
    """What the records say.

    Attributes:
        finished: ids of versions that are finished.
        damaged: ids of versions that were not when their dead letters were written.
    """

    finished: list[bytes] = field(default_factory=list)
    damaged: set[bytes] = field(default_factory=set)


def version_ids(
    clients: ClientConfigs,
    topics: Sequence[str],
    of: bytes,
    limit: int,
    health: faults.Health,
    wait: Callable[[float], None],
) -> Told:
    """Read which versions were finished last.

    Args:
        clients: the user's client settings.
        topics: where results and dead letters are.
        of: the :func:`tag` of our group and source topic.
        limit: how many records of each topic are looked at, the last ones of each partition.
        health: is told of trouble.
        wait: called between tries with seconds; raises to give up.

    Raises:
        ForbiddenError: we may not read the topics.
    """
    ours: dict[str, Value] = {
        "group.id": "ray_reproducer",
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
    }
    consumer = open_consumer(clients.for_consumer(**ours), health.on_error)
    try:
        places = [place for topic in topics for place in _tails(consumer, topic, limit, health, wait)]
        consumer.assign(places)
        found = _read(consumer, {(place.topic, place.partition) for place in places}, of, wait)
        health.well()
        return found
    finally:
        consumer.close()


def _tails(
    consumer: Consumer, topic: str, limit: int, health: faults.Health, wait: Callable[[float], None]
) -> list[TopicPartition]:
    while True:
        try:
            described = consumer.list_topics(topic, timeout=_ASK_S).topics[topic]
            if described.error is not None:
                raise KafkaException(described.error)
            numbers = described.partitions
            share = -(-limit // max(1, len(numbers)))
            tails: list[TopicPartition] = []
            for number in numbers:
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_ASK_S)
                tails.append(TopicPartition(topic, number, max(low, high - share)))
        except KafkaException as exception:
            error = faults.of(exception)
            health.report(f"can't read {topic} yet: {faults.text(error)}", vague=faults.is_vague(error))
            wait(_POLL_S)
        else:
            return tails


def _read(consumer: Consumer, unfinished: set[tuple[str, int]], of: bytes, wait: Callable[[float], None]) -> Told:
    told = Told()
    while unfinished:
        message = consumer.poll(_POLL_S)
        wait(0)
        if message is None:
            continue
        error = message.error()
        if error is not None:
            if faults.is_forbidden(error):
                raise ForbiddenError(
                    f"not allowed to read {message.topic()}, which tells what is finished: {faults.text(error)}",
                    hint=f"Grant READ on the topic {message.topic()}.",
                )
            if error.code() == faults.END_OF_PARTITION:
                # A partition that grows has more than one end.
                unfinished.discard((str(message.topic()), int(message.partition() or 0)))
            continue
        for name, value in list(message.headers() or ()):
            if name == HEADER and isinstance(value, bytes) and value.startswith(of):
                _note(told, value[_TAG_BYTES:])
    return told


def _note(told: Told, said: bytes) -> None:
    if len(said) == VERSION_ID_BYTES:
        told.finished.append(said)
    elif len(said) == VERSION_ID_BYTES + 1:
        told.damaged.add(said[:VERSION_ID_BYTES])
