"""The raw loop: one process that does what the pipeline does, written by hand for this one purpose.

It polls with settings that suit, joins, hashes each byte once, verifies, calls the function, and produces results in
transactions with the source offsets every 100 ms. It has no ledger (after a crash, files that ended above the lowest
open one come twice), no dead letters, one core, and trusts what it reads: the limit to compare with, not a program to
run. It knows nothing of this project: raw msgpack and Kafka only.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from typing import Any

import msgpack
import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from benchmarks import extraction

COMMIT_INTERVAL_S = 0.1
_POLL_TIMEOUT_S = 0.02


class File:
    """A file being joined, and what the function is given once it is whole."""

    __slots__ = ("bytestring", "first_offsets", "parts")

    def __init__(self) -> None:
        self.parts: dict[int, bytes] = {}
        self.first_offsets: dict[int, int] = {}
        self.bytestring = b""


class RawLoop:
    """Reads a topic to its end.

    Args:
        bootstrap_servers: the broker.
        source: topic to read.
        results: topic to write.
        group: group whose offsets are committed; also the transactional id.
        function: what to call with each file.
    """

    def __init__(
        self, bootstrap_servers: str, source: str, results: str, group: str, function: Callable[[Any], dict[str, Any]]
    ) -> None:
        common = {"bootstrap.servers": bootstrap_servers}
        self.consumer = Consumer(
            {
                **common,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.queue.backoff.ms": 10,
                "queued.max.messages.kbytes": 65_536,
            }
        )
        self.producer = Producer(
            {**common, "transactional.id": group, "linger.ms": 5, "retry.backoff.ms": 10, "acks": "all"}
        )
        self.source, self.results, self.function = source, results, function
        self.files: dict[tuple[str, str, bytes, int], File] = {}
        self.next_offsets: dict[int, int] = {}
        self.ended: set[int] = set()
        self.in_transaction = False

    def run(self) -> None:
        """Read all partitions to their ends, then commit what is left."""
        self.producer.init_transactions()
        topics = self.consumer.list_topics(self.source).topics
        partitions = list(topics[self.source].partitions)
        self.consumer.assign([TopicPartition(self.source, partition, 0) for partition in partitions])
        next_commit = time.monotonic() + COMMIT_INTERVAL_S
        while len(self.ended) < len(partitions):
            message = self.consumer.poll(_POLL_TIMEOUT_S)
            if message is not None:
                self.take(message)
            if time.monotonic() >= next_commit:
                self.commit()
                next_commit = time.monotonic() + COMMIT_INTERVAL_S
        self.commit()
        self.consumer.close()

    def take(self, message: Message) -> None:
        """Handle one message or the end of a partition."""
        partition = message.partition() or 0
        error = message.error()
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - that is its public name
                raise KafkaException(error)
            self.ended.add(partition)
            return
        offset = message.offset() or 0
        self.next_offsets[partition] = offset + 1
        name, file_hash, _, _, index, count, subdir, _, data, _ = msgpack.unpackb(message.value(), raw=False)
        if count == 1:
            file = File()
            file.bytestring = data
            self.finish(subdir, name, file_hash, file)
            return
        key = (subdir, name, file_hash, count)
        known = self.files.get(key)
        if known is None:
            known = self.files[key] = File()
        known.parts[index] = data
        known.first_offsets.setdefault(partition, offset)
        if len(known.parts) == count:
            del self.files[key]
            known.bytestring = b"".join(known.parts[i] for i in range(1, count + 1))
            known.parts.clear()
            self.finish(subdir, name, file_hash, known)

    def finish(self, subdir: str, name: str, file_hash: bytes, file: File) -> None:
        """Verify a whole file, run the function on it, hand its result to the producer."""
        if hashlib.sha512(file.bytestring).digest() != file_hash:
            raise ValueError(f"{subdir}/{name}: the content is not what its hash says")
        if not self.in_transaction:
            self.producer.begin_transaction()
            self.in_transaction = True
        value = orjson.dumps(self.function(file))
        self.producer.produce(self.results, value, f"{subdir}_{name}_chunk_processing_result")

    def commit(self) -> None:
        """Commit results and offsets: for each partition that of the first chunk of a file that is not whole."""
        if not self.in_transaction:
            return
        positions = dict(self.next_offsets)
        for file in self.files.values():
            for partition, offset in file.first_offsets.items():
                positions[partition] = min(positions[partition], offset)
        self.producer.send_offsets_to_transaction(
            [TopicPartition(self.source, partition, offset) for partition, offset in positions.items()],
            self.consumer.consumer_group_metadata(),
        )
        self.producer.commit_transaction()
        self.in_transaction = False


def main() -> None:
    """Command line: what `programs.raw` gives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("bootstrap-servers", "source", "results", "group", "function"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    function = getattr(extraction, args.function)
    RawLoop(args.bootstrap_servers, args.source, args.results, args.group, function).run()


if __name__ == "__main__":
    main()
