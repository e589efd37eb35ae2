"""Reads a part of some topics once: from somewhere to where they end when it begins. Nothing is committed.

Rules:

1. Only committed records count.
2. It ends where the partitions end when they are reached, and tries until it gets there; only a right that is denied
   ends it. ``wait`` is called between tries, and raises when nobody waits for us any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from ray_reproducer.core.errors import ForbiddenError
from ray_reproducer.kafka import faults
from ray_reproducer.kafka.client_config import ClientConfigs, Value, open_consumer

POLL_S: Final = 0.5
"""How long to wait for records before looking whether anybody still waits for us."""
_ASK_S: Final = 5.0
"""One try to learn where a topic begins and ends."""

Wait: TypeAlias = Callable[[float], None]


class TopicReading:
    """A connection for one reading; to be closed.

    Args:
        clients: the user's client settings.
        health: is told of trouble.
        wait: called between tries with seconds; raises to give up.
    """

    def __init__(self, clients: ClientConfigs, health: faults.Health, wait: Wait) -> None:
        ours: dict[str, Value] = {
            "group.id": "ray_reproducer",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
        self._consumer: Consumer = open_consumer(clients.for_consumer(**ours), health.on_error)
        self._health = health
        self._wait = wait

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def tails(self, topic: str, limit: int) -> list[TopicPartition]:
        """Where the last records of each partition begin, so many of the topic together."""

        def ask() -> list[TopicPartition]:
            numbers = self._partitions(topic)
            share = -(-limit // max(1, len(numbers)))
            tails: list[TopicPartition] = []
            for number in numbers:
                place = TopicPartition(topic, number)
                low, high = self._consumer.get_watermark_offsets(place, timeout=_ASK_S)
                tails.append(TopicPartition(topic, number, max(low, high - share)))
            return tails

        return self._until_answered(ask, topic)

    def since(self, topic: str, time_s: float) -> list[TopicPartition]:
        """Where the records begin that are not older than a time, in s since the epoch; partitions without: absent."""

        def ask() -> list[TopicPartition]:
            asked = [TopicPartition(topic, number, int(time_s * 1000)) for number in self._partitions(topic)]
            found = self._consumer.offsets_for_times(asked, timeout=_ASK_S)
            for place in found:
                if place.error is not None:
                    raise KafkaException(place.error)
            return [place for place in found if place.offset >= 0]

        return self._until_answered(ask, topic)

    def read(self, places: Sequence[TopicPartition], take: Callable[[Message], None]) -> None:
        """Read from these places to where their partitions end.

        Args:
            places: where to begin.
            take: called with each record.

        Raises:
            ForbiddenError: we may not read the topic.
        """
        self._consumer.assign(list(places))
        unfinished = {(place.topic, place.partition) for place in places}
        while unfinished:
            message = self._consumer.poll(POLL_S)
            self._wait(0)
            if message is None:
                continue
            error = message.error()
            if error is None:
                take(message)
            elif faults.is_of_group(error):
                continue
            elif faults.is_forbidden(error):
                raise ForbiddenError(
                    f"not allowed to read {message.topic()}, which tells what is finished: {faults.text(error)}",
                    hint=f"Grant READ on the topic {message.topic()}.",
                )
            elif error.code() == faults.END_OF_PARTITION:
                # A partition that grows has more than one end.
                unfinished.discard((str(message.topic()), int(message.partition() or 0)))
        self._health.well()

    def _partitions(self, topic: str) -> list[int]:
        described = self._consumer.list_topics(topic, timeout=_ASK_S).topics[topic]
        if described.error is not None:
            raise KafkaException(described.error)
        return list(described.partitions)

    def _until_answered(self, ask: Callable[[], list[TopicPartition]], topic: str) -> list[TopicPartition]:
        while True:
            try:
                return ask()
            except KafkaException as exception:
                error = faults.of(exception)
                self._health.report(f"can't read {topic} yet: {faults.text(error)}", vague=faults.is_vague(error))
                self._wait(POLL_S)
