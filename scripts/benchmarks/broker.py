"""The broker that is measured on, its topics, and reading what is on them.

Topics of results are stamped by the broker (`LogAppendTime`): one clock for all programs, no watcher that takes a core
from what is measured, and only what a read_committed reader sees is counted. A record of a transaction is stamped when
the broker appends it, up to a commit interval (0.1 s) before readers see it; that holds for all transactional programs.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

ROOT = Path(__file__).resolve().parents[2]
_ADMIN_TIMEOUT_S = 30.0
_SILENCE_S = 60.0
"""A reader gives up after so long without a message or an end of a partition."""


@dataclass(frozen=True)
class Broker:
    """A running broker.

    Attributes:
        bootstrap_servers: its address.
        own: started for this run by `scripts/kafka`, and stopped after it.
    """

    bootstrap_servers: str
    own: bool


@contextmanager
def broker(directory: Path | None) -> Iterator[Broker]:
    """The broker that `KAFKA_BOOTSTRAP_SERVERS` names, or one started for this run.

    Args:
        directory: where the broker that is started keeps its data; None: a temporary directory.

    Raises:
        subprocess.CalledProcessError: `scripts/kafka` could not start one.
    """
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
    if given:
        yield Broker(given, own=False)
        return
    with tempfile.TemporaryDirectory(prefix="bench-kafka-", dir=directory) as data:
        script, where = str(ROOT / "scripts" / "kafka"), ["--dir", data, "--json"]
        try:
            said = subprocess.run([script, "start", "--port", "0", *where], check=True, stdout=subprocess.PIPE).stdout
            yield Broker(str(json.loads(said)["bootstrap_servers"]), own=True)
        finally:
            subprocess.run([script, "stop", *where], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def topics(bootstrap_servers: str, partitions: int, *, source: str = "", results: Sequence[str] = ()) -> Iterator[None]:
    """Create topics, and delete them afterwards, whatever happens."""
    # Level 5 leaves out "purging unserved events": said at the end of a client that waited for nothing more.
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 5})
    # A deleted topic's disk space is free after `file.delete.delay.ms`: at once, several workloads follow each other.
    common = {"file.delete.delay.ms": "1000", "retention.ms": "-1"}
    wanted = [NewTopic(source, partitions, 1, config=common)] if source else []
    stamped = {**common, "message.timestamp.type": "LogAppendTime"}
    wanted += [NewTopic(name, partitions, 1, config=stamped) for name in results]
    for future in admin.create_topics(wanted, request_timeout=_ADMIN_TIMEOUT_S).values():
        future.result(_ADMIN_TIMEOUT_S)
    try:
        yield
    finally:
        names = [topic.topic for topic in wanted]
        for future in admin.delete_topics(names, request_timeout=_ADMIN_TIMEOUT_S).values():
            future.result(_ADMIN_TIMEOUT_S)


def read_all(bootstrap_servers: str, topic: str) -> Iterator[Message]:
    """Every committed message of a topic, up to its end.

    Raises:
        KafkaException: the topic can't be read.
        TimeoutError: nothing came for a minute.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "bench-reader",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 10,
            "queued.max.messages.kbytes": 65_536,
        }
    )
    try:
        partitions = list(consumer.list_topics(topic, _ADMIN_TIMEOUT_S).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        ended: set[int] = set()
        silent_since = time.monotonic()
        while len(ended) < len(partitions):
            message = consumer.poll(0.2)
            if message is None:
                if time.monotonic() - silent_since > _SILENCE_S:
                    raise TimeoutError(f"{topic}: nothing came for {_SILENCE_S:.0f} s")
                continue
            silent_since = time.monotonic()
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - that is its public name
                ended.add(message.partition() or 0)
            else:
                raise KafkaException(error)
    finally:
        consumer.close()


def fetch_only(bootstrap_servers: str, topic: str) -> float:
    """Read a topic and do nothing with it: warms the page cache, and says what no program can beat.

    Returns:
        How long it took, from the first message to the last, in seconds.
    """
    first = last = 0.0
    for message in read_all(bootstrap_servers, topic):
        message.value()
        last = time.monotonic()
        first = first or last
    return last - first
