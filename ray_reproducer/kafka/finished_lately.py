"""Which file versions this group has finished lately, read back from the records that say so.

A record of a finished file carries a header with the id of the file version. A new life of the program reads the last
records of its topics, so that a chunk that repeats one of a finished file is known for what it is, also when the commit
metadata has forgotten that file.

Rules:

1. The header is :data:`HEADER`, its value 8 bytes that name group and source topic (a topic made anew is another one),
   then the 12 bytes of the version's id; and one byte more if the file has come damaged, or in part: then it is not
   finished, and may be sent again. Records of others are passed over.
2. Only committed records count. Read after the transactional id was taken over, none of ours can be missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final, TypeGuard

from confluent_kafka import Message, TopicPartition

from ray_reproducer.core.chunk import VERSION_ID_BYTES
from ray_reproducer.kafka import faults
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.reading import TopicReading

HEADER: Final = "ray_reproducer"
"""Name of the header."""
CLOCKS_DIFFER_S: Final = 3600.0
"""How far the clocks of those who write records may be apart when records are looked for by their time."""
_TAG_BYTES: Final = 8
_NOT_FINISHED: Final = b"\0"


def tag(group_id: str, topic_id: bytes) -> bytes:
    """Name a group and a source topic in 8 bytes."""
    return hashlib.blake2b(topic_id + group_id.encode(), digest_size=_TAG_BYTES).digest()


def said_by(record_headers: Iterable[tuple[str, object]]) -> bytes:
    """Return the value of our header (rule 1); empty if a record has none."""
    return next((value for name, value in record_headers if name == HEADER and _is_ours(value)), b"")


def tag_of(said: bytes) -> bytes:
    """Return the :func:`tag` in the value of our header; empty if that is empty."""
    return said[:_TAG_BYTES]


def may_come_again(said: bytes) -> bool:
    """Whether the value of our header says that the file came damaged, or in part, and may be sent again."""
    return len(said) == _TAG_BYTES + VERSION_ID_BYTES + len(_NOT_FINISHED)


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
    told = Told()

    def note(said: bytes, _timestamp_ms: int) -> None:
        if said.startswith(of):
            _note(told, said[_TAG_BYTES:])

    with closing(TopicReading(clients, health, wait)) as reading:
        _read(reading, [place for topic in topics for place in reading.tails(topic, limit)], note)
    return told


def finished_since(
    clients: ClientConfigs,
    topic: str,
    wanted: Collection[tuple[bytes, bytes]],
    since_s: float,
    health: faults.Health,
    wait: Callable[[float], None],
) -> dict[tuple[bytes, bytes], int]:
    """Look which of some file versions have a record that says that they are finished, and when it was written last.

    Args:
        clients: the user's client settings.
        topic: where results are.
        wanted: a :func:`tag` and the id of a version, for each.
        since_s: only records that are not older, in seconds since the epoch; as old as ``CLOCKS_DIFFER_S`` more counts.
        health: is told of trouble.
        wait: called between tries with seconds; raises to give up.

    Returns:
        Those of ``wanted`` that have one -> Kafka timestamp of the newest, in milliseconds since the epoch.

    Raises:
        ForbiddenError: we may not read the topic.
    """
    looked_for = {of + version_id: (of, version_id) for of, version_id in wanted}
    found: dict[tuple[bytes, bytes], int] = {}

    def note(said: bytes, timestamp_ms: int) -> None:
        if said in looked_for:
            which = looked_for[said]
            found[which] = max(timestamp_ms, found.get(which, timestamp_ms))

    with closing(TopicReading(clients, health, wait)) as reading:
        _read(reading, reading.since(topic, max(0.0, since_s - CLOCKS_DIFFER_S)), note)
    return found


def _read(reading: TopicReading, places: Sequence[TopicPartition], note: Callable[[bytes, int], None]) -> None:
    """Read to where the partitions end, and hand on what our header says, and when."""

    def take(message: Message) -> None:
        for name, value in list(message.headers() or ()):
            if name == HEADER and _is_ours(value):
                note(value, message.timestamp()[1])

    reading.read(places, take)


def _is_ours(value: object) -> TypeGuard[bytes]:
    return isinstance(value, bytes) and len(value) > _TAG_BYTES


def _note(told: Told, said: bytes) -> None:
    if len(said) == VERSION_ID_BYTES:
        told.finished.append(said)
    elif len(said) == VERSION_ID_BYTES + 1:
        told.damaged.add(said[:VERSION_ID_BYTES])
