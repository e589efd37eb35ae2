"""Looks at the cluster before anything is started, so that what is wrong there is one clear message.

Rules:

1. Each function ends within its ``timeout_s``: with the answer, or with a ``BrokerError`` that says what was asked of
   whom, what the broker or the network said last, and what to do.
2. What waiting can't heal (credentials, permissions) is said at once.
3. Nothing is created unless ``ensure_topic`` is asked to.
"""

from __future__ import annotations

import base64
import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.cimpl import NewTopic

from ray_reproducer.core.errors import BrokerAwayError, BrokerError, ConfigurationError, TopicMissingError
from ray_reproducer.kafka import faults
from ray_reproducer.kafka.client_config import ClientConfigs, Value, open_admin, open_consumer

NO_TOPIC_ID: Final = bytes(16)
"""The topic id where there are none: on the embedded broker."""
DEFAULT_TIMEOUT_S: Final = 20.0
"""Long enough for a broker that is just starting, short enough to look at a screen."""
_TRY_S: Final = 1.0
"""One try of a call; between tries errors of the connection are heard."""
_MOCK: Final = "mockCluster"
"""How the library's embedded broker calls its cluster; it has no API for administration."""


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as the broker knows it.

    Attributes:
        name: of the topic.
        topic_id: 16 bytes; another topic of the same name made later has another id. Zeros on the embedded broker.
        partitions: their numbers, ascending.
    """

    name: str
    topic_id: bytes
    partitions: tuple[int, ...]


def describe_topic(clients: ClientConfigs, topic: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> TopicDescription:
    """Look a topic up; it is not created.

    Raises:
        BrokerError: no broker answers, credentials are refused, the topic does not exist, or we may not see it.
        ConfigurationError: no topic can have this name.
    """
    connection = _Connection(clients, timeout_s)
    metadata = connection.metadata()
    description = _find(connection, metadata, topic)
    if description is None:
        raise _unknown_topic(clients, topic, metadata)
    return description


def find_topic(clients: ClientConfigs, topic: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> TopicDescription | None:
    """Look a topic up; None if there is none.

    Raises:
        BrokerError: no broker answers, credentials are refused, or we may not look.
        ConfigurationError: no topic can have this name.
    """
    connection = _Connection(clients, timeout_s)
    return _find(connection, connection.metadata(), topic)


def ensure_topic(
    clients: ClientConfigs, topic: str, partitions: int | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
) -> TopicDescription:
    """Look a topic up, and create it if it is missing.

    Args:
        clients: the user's client settings.
        topic: its name.
        partitions: how many to create it with; None: the broker's default. An existing topic is left as it is.
        timeout_s: for all of it.

    Raises:
        BrokerError: as for ``describe_topic``, or the broker does not let us create it.
        ConfigurationError: no topic can have this name.
    """
    connection = _Connection(clients, timeout_s)
    metadata = connection.metadata()
    found = _find(connection, metadata, topic)
    if found is not None:
        return found
    if metadata.cluster_id.startswith(_MOCK):
        connection.call(lambda seconds: connection.admin.list_topics(topic, timeout=seconds))
    else:
        _create(connection, topic, partitions)
    while True:  # the broker says that it is created before all of it knows
        found = _find(connection, connection.metadata(), topic)
        if found is not None:
            return found
        connection.pause()


def watermarks(
    clients: ClientConfigs,
    topic: str,
    partitions: Sequence[int],
    timeout_s: float = DEFAULT_TIMEOUT_S,
    *,
    committed: bool = True,
) -> dict[int, tuple[int, int]]:
    """Return for each partition the oldest offset that is left and the end (the next offset to be written).

    Args:
        clients: the user's client settings.
        topic: its name.
        partitions: which of them.
        timeout_s: for all of it.
        committed: the end of what readers of committed records can see now; False: of everything.

    Raises:
        BrokerError: the broker does not answer, or does not let us read the topic.
    """
    connection = _Connection(clients, timeout_s)
    ours: dict[str, Value] = {"group.id": "ray_reproducer"}
    if not committed:
        ours["isolation.level"] = "read_uncommitted"
    consumer = open_consumer(clients.for_consumer(**ours), connection.heard.take)
    try:
        return {partition: _limits(connection, consumer, TopicPartition(topic, partition)) for partition in partitions}
    finally:
        consumer.close()


def refuse_group_with_members(clients: ClientConfigs, group_id: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
    """Make sure that nobody has joined the group: positions that we commit and those of a member would mix.

    Raises:
        BrokerError: somebody has; or the broker does not answer, or does not let us look.
    """
    connection = _Connection(clients, timeout_s)
    if connection.metadata().cluster_id.startswith(_MOCK):
        return
    try:
        group = connection.ask(
            lambda seconds: connection.admin.describe_consumer_groups([group_id], request_timeout=seconds)
        )
    except KafkaException as exception:
        error = faults.of(exception)
        if error.code() == KafkaError.GROUP_ID_NOT_FOUND:
            return
        raise _refused(
            f"not allowed to look at the consumer group {group_id}", error, "Grant DESCRIBE on it."
        ) from None
    members = [f"{member.client_id} on {member.host}" for member in group.members]
    if members:
        raise BrokerError(
            f"the consumer group {group_id} is in use by a program that has joined it: {', '.join(members[:3])}",
            hint="Stop that program, or choose another group_id. To see it: "
            f"kafka-consumer-groups.sh --bootstrap-server {clients.servers} --describe --members --group {group_id}",
        )


def forget_group(clients: ClientConfigs, group_id: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
    """Delete a consumer group with its committed positions; one that does not exist is fine.

    Raises:
        BrokerError: the broker does not answer or does not let us, or somebody has joined the group.
    """
    connection = _Connection(clients, timeout_s)
    try:
        connection.ask(lambda seconds: connection.admin.delete_consumer_groups([group_id], request_timeout=seconds))
    except KafkaException as exception:
        error = faults.of(exception)
        if error.code() != KafkaError.GROUP_ID_NOT_FOUND:
            raise _refused(f"can't delete the consumer group {group_id}", error, "Grant DELETE on it.") from None


def _limits(connection: _Connection, consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    try:
        low, high = connection.call(lambda seconds: consumer.get_watermark_offsets(partition, timeout=seconds))
    except KafkaException as exception:
        topic, error = partition.topic, faults.of(exception)
        hint = f"Grant DESCRIBE on the topic {topic}."
        raise _refused(f"can't see where {topic} [{partition.partition}] begins and ends", error, hint) from None
    return low, high


class _LastError:
    """Hears what clients say of their connections.

    A client that would say it to the connection that holds the client would live until the garbage collector comes.
    """

    def __init__(self) -> None:
        self.error: KafkaError | None = None

    def take(self, error: KafkaError) -> None:
        """Keep the last error that says why."""
        if self.error is None or not faults.is_vague(error):
            self.error = error


class _Connection:
    """A client for administration, and the time that is left."""

    def __init__(self, clients: ClientConfigs, timeout_s: float) -> None:
        self._clients = clients
        self._deadline_s = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self.heard = _LastError()
        self.admin = open_admin(clients.for_admin(), self.heard.take)

    def metadata(self) -> Any:
        """All topics and partitions; this is also how we know that there is a broker."""
        try:
            return self.call(lambda seconds: self.admin.list_topics(timeout=seconds))
        except KafkaException as exception:
            raise _refused("the broker does not say which topics there are", faults.of(exception), "") from None

    def call(self, call: Callable[[float], Any]) -> Any:
        """Make a call that takes seconds, until it succeeds or the time is over."""
        while True:
            try:
                return call(max(0.1, min(_TRY_S, self._deadline_s - time.monotonic())))
            except KafkaException as exception:
                self._after_failure(faults.of(exception))

    def ask(self, request: Callable[[float], Mapping[str, Future[Any]]]) -> Any:
        """Send a request about one thing until it is answered; the broker's own errors are raised."""

        def answer(seconds: float) -> Any:
            (future,) = request(seconds).values()
            return future.result()

        return self.call(answer)

    def pause(self) -> None:
        """Wait a little before asking again."""
        time.sleep(0.05)
        self._after_failure(KafkaError(faults.TIMED_OUT))

    def _after_failure(self, error: KafkaError) -> None:
        self.admin.poll(0)
        if not (faults.is_connection(error) or faults.is_moving(error) or error.retriable()):
            raise KafkaException(error)
        reason = self.heard.error or error
        if faults.is_authentication(reason):
            raise BrokerError(
                f"the broker at {self._clients.servers} does not let us in: {faults.text(reason)}",
                hint="Check kafka.security.protocol and kafka.sasl.mechanism, .username and .password.",
            )
        if time.monotonic() >= self._deadline_s:
            raise BrokerAwayError(
                f"no Kafka broker answers at {self._clients.servers} in {self._timeout_s:g} s: {faults.text(reason)}",
                hint="Is the broker running, does kafka.bootstrap.servers name it, and does kafka.security.protocol "
                "match its listener (PLAINTEXT, SSL, SASL_SSL ...)?",
            )


def _find(connection: _Connection, metadata: Any, topic: str) -> TopicDescription | None:
    if metadata.cluster_id.startswith(_MOCK):
        known = metadata.topics.get(topic)
        return None if known is None else TopicDescription(topic, NO_TOPIC_ID, tuple(sorted(known.partitions)))
    try:
        description = connection.ask(
            lambda seconds: connection.admin.describe_topics(TopicCollection([topic]), request_timeout=seconds)
        )
    except KafkaException as exception:
        error = faults.of(exception)
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        if error.code() == KafkaError.TOPIC_EXCEPTION:
            raise ConfigurationError(
                f"{topic} can't be the name of a topic",
                hint="A name has letters, digits, dots, underscores and hyphens, 249 of them at most.",
            ) from None
        raise _refused(f"can't look at the topic {topic}", error, f"Grant DESCRIBE on the topic {topic}.") from None
    # Uuid prints as unpadded base64 and has no other way to its bytes.
    topic_id = base64.urlsafe_b64decode(f"{description.topic_id}==")
    return TopicDescription(topic, topic_id, tuple(sorted(partition.id for partition in description.partitions)))


def _create(connection: _Connection, topic: str, partitions: int | None) -> None:
    # -1: the broker's own default.
    wanted = NewTopic(topic, num_partitions=partitions or -1, replication_factor=-1)
    try:
        connection.ask(lambda seconds: connection.admin.create_topics([wanted], request_timeout=seconds))
    except KafkaException as exception:
        error = faults.of(exception)
        if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise _refused(
                f"the topic {topic} does not exist and can't be created",
                error,
                "Have somebody create it who may: kafka-topics.sh --create "
                f"--topic {topic} --partitions {partitions or 4}",
            ) from None


def _refused(what: str, error: KafkaError, hint: str) -> BrokerError:
    return BrokerError(f"{what}: {faults.text(error)}", hint=hint)


def _unknown_topic(clients: ClientConfigs, topic: str, metadata: Any) -> TopicMissingError:
    names = sorted(name for name in metadata.topics if not name.startswith("__"))
    similar = difflib.get_close_matches(topic, names, n=3, cutoff=0.5)
    if similar:
        seen = f"Did you mean {' or '.join(similar)}? "
    elif names:
        seen = f"There are: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}. "
    else:
        seen = "There are no topics that we may see. "
    return TopicMissingError(
        f"the topic {topic} does not exist at {clients.servers} (or we may not see it)",
        hint=f"{seen}To create it: kafka-topics.sh --bootstrap-server {clients.servers} --create --topic {topic} "
        "--partitions 4",
    )
