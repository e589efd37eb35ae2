"""Files as they come on a topic: good ones, bad ones, rubbish, and what is due for each."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
from confluent_kafka import Message, Producer

from ray_reproducer.core.chunk import Chunk, FileVersion, encode
from ray_reproducer.data_file import DataFile
from tests.topics import RecordSeen

CHUNK_BYTES = 1000
FLUSH_DEADLINE_S = 120.0
"""How long the broker may take to confirm what a test has put on its topic."""
Place = tuple[int, int]
"""Partition and offset of a message."""


@dataclass(eq=False)
class SentFile:
    """A file version, its chunks, and where they were put."""

    content: bytes
    chunks: list[Chunk]
    reason: str = ""
    """Why it becomes a dead letter; "" for a good one."""
    places: set[Place] = field(default_factory=set)

    @property
    def version(self) -> FileVersion:
        return self.chunks[0].version

    def expected(self, function: Callable[[Any], dict[str, Any]]) -> tuple[str, str]:
        """Key and value of the result."""
        metadata = function(DataFile(self.version, [self.content], root=Path("/nowhere")))
        return self.version.result_key, json.dumps(metadata, sort_keys=True)


@dataclass(eq=False)
class Rubbish:
    """A message that is no chunk, and where it was put."""

    value: bytes | None
    reason: str
    places: set[Place] = field(default_factory=set)


class Topic:
    """The source topic, and what was put on it."""

    def __init__(self, servers: str, name: str, partitions: int) -> None:
        # Idempotent: what it sends again because of a broken connection is not there twice. Silent: brokers come and go
        # in these tests, and what is not delivered is an error here.
        self._producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "log_level": 0})
        self._source = random.Random(3)
        self._partitions = partitions
        self.name = name
        self.sent: list[SentFile | Rubbish] = []

    def put(self, wanted: Iterable[tuple[SentFile | Rubbish, bytes | None]]) -> None:
        """Produce messages in shuffled order, on shuffled partitions."""
        messages = [(owner, value, self._source.randrange(self._partitions)) for owner, value in wanted]
        self._source.shuffle(messages)
        self.sent += [owner for owner in dict.fromkeys(owner for owner, *_ in messages) if owner not in self.sent]
        self.put_in_order(messages)

    def put_in_order(self, messages: Iterable[tuple[SentFile | Rubbish, bytes | None, int]]) -> None:
        """Produce messages, each on its partition; their owners know then where they are."""
        for owner, value, partition in messages:

            def delivered(error: object, message: Message, owner: SentFile | Rubbish = owner) -> None:
                assert error is None
                owner.places.add((message.partition() or 0, message.offset() or 0))

            self._producer.produce(self.name, value, "key", partition=partition, on_delivery=delivered)
        assert self._producer.flush(FLUSH_DEADLINE_S) == 0


def cut(
    path: str,
    content: bytes,
    *,
    append: str = "",
    reason: str = "",
    file_hash: bytes | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> SentFile:
    """Cut a file as the uploader does."""
    subdir, _, name = path.rpartition("/")
    starts = range(0, len(content), chunk_bytes)
    version = FileVersion(subdir, name, append, file_hash or hashlib.sha512(content).digest(), len(starts), 1e9)
    chunks = []
    for index, start in enumerate(starts, start=1):
        data = content[start : start + chunk_bytes]
        chunks.append(Chunk(version, index, start, hashlib.sha512(data).digest(), data))
    return SentFile(content, chunks, reason)


def messages_of(file: SentFile, indices: Sequence[int] | None = None) -> list[tuple[SentFile | Rubbish, bytes | None]]:
    """The messages of a file; ``indices`` chooses some of them, by their index from 1."""
    chosen = file.chunks if indices is None else [file.chunks[index - 1] for index in indices]
    return [(file, encode(chunk)) for chunk in chosen]


def with_field(position: int, value: object) -> bytes:
    """A chunk's message with one field changed."""
    fields = msgpack.unpackb(encode(cut("liar.txt", b"x" * 3 * CHUNK_BYTES).chunks[1]))
    fields[position] = value
    packed: bytes = msgpack.packb(fields)
    return packed


def rubbish() -> list[Rubbish]:
    """One message of each kind that is no chunk."""
    whole = encode(cut("liar.txt", b"x").chunks[0])
    lying_length = whole.replace(b"\xc4\x01x", b"\xc6\xff\xff\xff\xffx")
    assert lying_length != whole
    return [
        Rubbish(b"\xc1 no msgpack", "not_a_chunk"),
        Rubbish(b'{"this": "is JSON"}', "not_a_chunk"),
        Rubbish(lying_length, "not_a_chunk"),
        Rubbish(msgpack.packb(["too", "few"]), "not_a_chunk"),
        Rubbish(with_field(4, 4), "bad_chunk_field"),
        Rubbish(with_field(5, 2**40), "bad_chunk_field"),
        Rubbish(with_field(3, -1), "bad_chunk_field"),
        Rubbish(with_field(1, b"short"), "bad_chunk_field"),
        Rubbish(with_field(6, "../../etc"), "unsafe_path"),
        Rubbish(with_field(0, "/etc/passwd"), "unsafe_path"),
        Rubbish(None, "tombstone"),
    ]


def old_dialect(file: SentFile) -> list[tuple[SentFile | Rubbish, bytes | None]]:
    """The messages of a file as old producers wrote them: raw strings, no modification time."""
    return [
        (file, msgpack.packb(msgpack.unpackb(value, raw=True)[:9], use_bin_type=False))
        for _, value in messages_of(file)
        if value
    ]


def dead_letters_expected(sent: Sequence[SentFile | Rubbish]) -> set[tuple[str | None, str, frozenset[Place]]]:
    """Path, reason and places of each dead letter that is due."""
    return {
        (item.version.relative_path if isinstance(item, SentFile) else None, item.reason, frozenset(item.places))
        for item in sent
        if item.reason
    }


def dead_letters_seen(records: Sequence[RecordSeen]) -> set[tuple[str | None, str, frozenset[Place]]]:
    """The same of the dead letters that there are; each must be there once."""
    seen = [(record.value["path"], record.value["reason"], places_in(record.value)) for record in records]
    assert len(seen) == len(set(seen))
    return set(seen)


def places_in(letter: dict[str, Any]) -> frozenset[Place]:
    """Which messages a dead letter names."""
    assert letter["source"]["exact"]
    ranges = letter["source"]["offsets"]
    return frozenset(
        (int(partition), offset)
        for partition, runs in ranges.items()
        for first, last in runs
        for offset in range(first, last + 1)
    )
