"""The positions that a consumer group has committed, for a group that nobody ever joins.

Partitions are assigned by this program, not by the group coordinator, so this consumer never subscribes:
it only reads and writes committed positions with their metadata.

A broker that has just taken the group over may tell older positions than the one before it: it tells those of which it
knows that they are replicated, and learns that a moment later (Kafka's ``CoordinatorLoaderImpl``: readers see the log
up to the high watermark). Who knows what to expect says so; the positions are read again until they are as expected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from ray_reproducer.core.errors import BrokerError, MetadataTooLargeError
from ray_reproducer.kafka import failpoints, faults
from ray_reproducer.kafka.client_config import ClientConfigs, Value, open_consumer

_READ_TIMEOUT_S: Final = 5.0
"""One try to read the positions; tries go on until one succeeds. While a transaction is open the read waits."""
STABLE_S: Final = 2.0
"""After so long without an answer something is in the way: the broker, or an open transaction."""
STALE_S: Final = 5.0
"""For so long positions that are none of those expected are read again, in seconds. A follower asks its new leader
every half second, if not at once; that tells the leader what is replicated."""
_AGAIN_S: Final = 0.2
"""Pause between two such looks, and between tries."""
_DEAD_AFTER_MS: Final = 10_000
"""A connection that has not answered for so long is given up, in milliseconds. The library's own limit, a minute, is
for large answers; these are small."""
_OPEN_TRANSACTION: Final = frozenset((KafkaError.UNSTABLE_OFFSET_COMMIT, faults.TIMED_OUT))
"""What the library says when an open transaction is in the way of reading: usually, that time is over."""
_MEMBERS: Final = frozenset(
    (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS)
)


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """A committed position: the next offset to be read, and the text stored beside it ("" for none)."""

    offset: int
    metadata: str


Positions: TypeAlias = "Mapping[int, CommittedOffset]"
"""Partition -> its committed position."""


class GroupOffsets:
    """Reads and commits the positions of one group on one topic.

    Args:
        clients: the user's client settings.
        group_id: the group.
        topic: the source topic.
        health: is told of trouble.
        wait: called between tries with seconds; raises to give up.
    """

    def __init__(
        self,
        clients: ClientConfigs,
        group_id: str,
        topic: str,
        health: faults.Health,
        wait: Callable[[float], None],
    ) -> None:
        self._clients = clients
        self.group_id = group_id
        self.topic = topic
        self._health = health
        self._last_error: KafkaError | None = None
        self._wait = wait
        ours: dict[str, Value] = {"group.id": group_id, "socket.timeout.ms": _DEAD_AFTER_MS}
        self._consumer = open_consumer(clients.for_consumer(**ours), self._on_error)

    def membership(self) -> Any:
        """What a transactional producer needs to commit for this group."""
        self._consumer.poll(0)  # hears what has happened to its connection, so that it does not pile up
        return self._consumer.consumer_group_metadata()

    def positions(self, offsets: Mapping[int, CommittedOffset]) -> list[TopicPartition]:
        """Offsets per partition in the form in which the client library takes them."""
        return [
            TopicPartition(self.topic, partition, committed.offset, committed.metadata)
            for partition, committed in offsets.items()
        ]

    def read(self, partitions: Sequence[int], *expected: Positions | None) -> dict[int, CommittedOffset]:
        """Read what is committed (transactions that are open are waited for); partitions without: absent.

        Tries until it succeeds.

        Args:
            partitions: whose positions.
            expected: what may be there; None: nothing in particular. See the head of the module.

        Raises:
            BrokerError: the broker denies us the right.
        """
        return self._read_expected(self._consumer, partitions, expected)

    def is_stable(self, partitions: Sequence[int], patience_s: float = STABLE_S) -> bool:
        """Look whether the positions can be read without waiting for an open transaction.

        It waits while the broker is away.

        Args:
            partitions: whose positions.
            patience_s: how long one answer may take.

        Raises:
            BrokerError: the broker denies us the right.
        """
        wanted = [TopicPartition(self.topic, partition) for partition in partitions]
        while True:
            _, error = self._try(self._consumer, wanted, patience_s)
            if error is None:
                return True
            self._refuse_hopeless(error, "read")
            self.peek(partitions)  # so the broker answers now
            if error.code() in _OPEN_TRANSACTION:
                _, error = self._try(self._consumer, wanted, patience_s)
                if error is None or error.code() in _OPEN_TRANSACTION:
                    return error is None
            self._wait(_AGAIN_S)

    def peek(self, partitions: Sequence[int], *expected: Positions | None) -> dict[int, CommittedOffset]:
        """Do the same as ``read``, but wait for no open transaction: what it would commit is left out."""
        ours: dict[str, Value] = {"group.id": self.group_id, "isolation.level": "read_uncommitted"}
        consumer = open_consumer(self._clients.for_consumer(**ours), self._on_error)
        try:
            return self._read_expected(consumer, partitions, expected)
        finally:
            consumer.close()

    def _read_expected(
        self, consumer: Consumer, partitions: Sequence[int], expected: Sequence[Positions | None]
    ) -> dict[int, CommittedOffset]:
        found = self._read(consumer, partitions)
        until_s = time.monotonic() + STALE_S
        while expected and found not in expected and time.monotonic() < until_s:
            self._wait(_AGAIN_S)
            found = self._read(consumer, partitions)
        return found

    def _read(self, consumer: Consumer, partitions: Sequence[int]) -> dict[int, CommittedOffset]:
        wanted = [TopicPartition(self.topic, partition) for partition in partitions]
        while True:
            found, error = self._try(consumer, wanted, _READ_TIMEOUT_S)
            if error is None:
                return {
                    position.partition: CommittedOffset(position.offset, position.metadata or "")
                    for position in found
                    if position.offset >= 0
                }
            self._refuse_hopeless(error, "read")
            self._report("read", error)
            self._wait(_AGAIN_S)

    @staticmethod
    def _try(
        consumer: Consumer, wanted: list[TopicPartition], timeout_s: float
    ) -> tuple[Sequence[TopicPartition], KafkaError | None]:
        try:
            found = failpoints.around("read", lambda: consumer.committed(wanted, timeout_s))()
        except KafkaException as exception:
            return (), faults.of(exception)
        return found, next((position.error for position in found if position.error), None)

    def commit(self, offsets: Mapping[int, CommittedOffset]) -> None:
        """Commit positions without a transaction. Tries until it succeeds.

        Raises:
            BrokerError: the broker denies us the right, or somebody has joined the group.
            MetadataTooLargeError: the broker does not take metadata of this length.
        """
        positions = self.positions(offsets)
        while True:
            try:
                answers = failpoints.around(
                    "positions", lambda: self._consumer.commit(offsets=positions, asynchronous=False)
                )()
                failed = [position.error for position in answers if position.error]
                if not failed:
                    return
                error = failed[0]
            except KafkaException as exception:
                error = faults.of(exception)
            self._refuse_hopeless(error, "commit")
            self._report("commit", error)
            self._wait(_AGAIN_S)

    def close(self) -> None:
        """Close the connection; nothing is committed by this."""
        self._consumer.close()

    def _on_error(self, error: KafkaError) -> None:
        # Only kept: this consumer is asked rarely, and what it has to tell of its connection is old by then.
        if not faults.is_vague(error):
            self._last_error = error

    def _report(self, verb: str, error: KafkaError) -> None:
        reason, self._last_error = self._last_error or error, None
        self._health.report(
            f"can't {verb} the positions of group {self.group_id} yet: {faults.text(reason)}",
            vague=faults.is_vague(reason),
        )

    def _refuse_hopeless(self, error: KafkaError, verb: str) -> None:
        if faults.is_forbidden(error):
            raise BrokerError(
                f"not allowed to {verb} positions of group {self.group_id} on topic {self.topic}: {faults.text(error)}",
                hint=f"Grant READ on the group {self.group_id} and on the topic {self.topic}.",
            )
        if error.code() in _MEMBERS:
            raise BrokerError(
                f"another program has joined the consumer group {self.group_id}: {faults.text(error)}",
                hint="Stop it, or use another group_id. It shows up in: "
                f"kafka-consumer-groups.sh --describe --members --group {self.group_id}",
            )
        self.refuse_metadata(error)

    def refuse_metadata(self, error: KafkaError) -> None:
        """Raise if the broker refuses the metadata of a position.

        Raises:
            MetadataTooLargeError: it is too long for the broker.
        """
        if error.code() in (KafkaError.OFFSET_METADATA_TOO_LARGE, KafkaError.INVALID_COMMIT_OFFSET_SIZE):
            raise MetadataTooLargeError(
                f"the broker refuses the metadata beside the positions of group {self.group_id}: {faults.text(error)}",
                hint="The broker's offset.metadata.max.bytes must be at least 4096 (its default).",
            )
