"""Two readers beside the program that never look away: what becomes visible, and which positions are committed."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

_POLL_S: Final = 0.05
_ANSWER_S: Final = 2.0
"""How long the broker may take for one answer before it is asked again; it may be away."""
_BREATH_S: Final = 0.03
"""Between two looks at the committed positions: shorter than the program's shortest commit interval."""
_JOIN_S: Final = 30.0


@dataclass(frozen=True)
class Seen:
    """A record as a reader with read_committed sees it.

    Attributes:
        topic: where.
        key: its key.
        value: its value, from JSON.
        produced_s: when it was given to the producer, in seconds since the epoch, to the millisecond.
        partition: of the topic.
        offset: on the partition.
    """

    topic: str
    key: str
    value: Any
    produced_s: float
    partition: int = 0
    offset: int = 0

    def __str__(self) -> str:
        """Say where it is, to look it up in the broker's logs."""
        return f"{self.topic} [{self.partition}] offset {self.offset}: {self.key}"


@dataclass(frozen=True)
class Position:
    """A committed position when it was first seen.

    Attributes:
        seen_s: when, in seconds since the epoch.
        offset: the position.
        metadata: the text beside it.
    """

    seen_s: float
    offset: int
    metadata: str


class _Watcher:
    """A thread that does one thing again and again until it is closed; what it raises is raised by ``close``."""

    def __init__(self, servers: str, group: str, isolation: str) -> None:
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": group,
                "isolation.level": isolation,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
                "topic.metadata.refresh.interval.ms": 2_000,
                "reconnect.backoff.max.ms": 500,
                "allow.auto.create.topics": False,
                # The broker comes and goes in these tests; what matters is raised, not logged.
                "log_level": 0,
            }
        )
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, and raise what it met."""
        self._closing.set()
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            raise AssertionError(f"{type(self).__name__} does not end")
        self.check()

    def check(self) -> None:
        """Raise what it met."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._step()
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the test
            self._error = error
        finally:
            self._consumer.close()

    def _step(self) -> None:
        raise NotImplementedError


class RecordWatcher(_Watcher):
    """Reads topics from their beginning, with read_committed, as records become visible.

    Args:
        servers: address of the broker.
        topics: name -> number of partitions.
    """

    def __init__(self, servers: str, topics: dict[str, int]) -> None:
        self._seen: deque[Seen] = deque()
        self._topics = topics
        self._assigned = False
        super().__init__(servers, f"test.watcher.{uuid.uuid4().hex}", "read_committed")

    def take(self) -> list[Seen]:
        """Return what has become visible since the last call."""
        self.check()
        return [self._seen.popleft() for _ in range(len(self._seen))]

    def _step(self) -> None:
        if not self._assigned:
            self._consumer.assign([TopicPartition(t, p, 0) for t, count in self._topics.items() for p in range(count)])
            self._assigned = True
        message = self._consumer.poll(_POLL_S)
        if message is None or message.error() is not None:  # the broker is away, or restarts: the client tries again
            return
        topic, (_, produced_ms) = message.topic() or "", message.timestamp()
        key, value = (message.key() or b"").decode(), json.loads(message.value() or b"null")
        place = message.partition() or 0, message.offset() or 0
        self._seen.append(Seen(topic, key, value, produced_ms / 1000, *place))


class PositionWatcher(_Watcher):
    """Asks for a group's committed positions again and again, and keeps each change.

    It reads uncommitted, which for positions means: it is never made to wait by an open transaction.

    Args:
        servers: address of the broker.
        group: whose positions.
        topic: the source topic.
        partitions: how many it has.
        stale_s: for so long positions may be older than before, in seconds: a broker that has just taken the group over
            tells what it knows to be replicated (see ``kafka/group_offsets.py``). 0: the group has one broker only.
    """

    def __init__(self, servers: str, group: str, topic: str, partitions: int, stale_s: float = 0.0) -> None:
        self._wanted = [TopicPartition(topic, partition) for partition in range(partitions)]
        self._lock = threading.Lock()
        self._history: dict[int, list[Position]] = {}
        self._last: dict[int, int] = {}
        self._steps_back: list[str] = []
        self._stale_s = stale_s
        self._older_since_s: dict[int, float] = {}
        self.looks = 0
        super().__init__(servers, group, "read_uncommitted")

    def take(self) -> dict[int, list[Position]]:
        """Return the changes of each partition since the last call, oldest first."""
        self.check()
        with self._lock:
            history, self._history = self._history, {}
            return history

    def steps_back(self) -> list[str]:
        """Return where a position went back, ever."""
        with self._lock:
            return list(self._steps_back)

    def positions(self) -> dict[int, int]:
        """Return the committed positions as they were seen last; partitions without: absent."""
        with self._lock:
            return dict(self._last)

    def _step(self) -> None:
        try:
            found: Sequence[TopicPartition] = self._consumer.committed(self._wanted, _ANSWER_S)
        except KafkaException:  # the broker is away; it is asked again
            self._closing.wait(_BREATH_S)
            return
        seen_s = time.time()
        with self._lock:
            self.looks += 1
            for position in found:
                if position.error is None and position.offset >= 0:
                    self._note(position.partition, Position(seen_s, position.offset, position.metadata or ""))
        self._closing.wait(_BREATH_S)

    def _note(self, partition: int, position: Position) -> None:
        before = self._last.get(partition, 0)
        if position.offset >= before:
            self._older_since_s.pop(partition, None)
        elif position.seen_s - self._older_since_s.setdefault(partition, position.seen_s) < self._stale_s:
            return
        else:
            self._steps_back.append(f"partition {partition}: from {before} back to {position.offset}")
        self._last[partition] = position.offset
        history = self._history.setdefault(partition, [])
        if not history or (history[-1].offset, history[-1].metadata) != (position.offset, position.metadata):
            history.append(position)


def ends(servers: str, topic: str, partitions: int, isolation: str = "read_uncommitted") -> dict[int, int]:
    """Return where the partitions of a topic end, for readers of this isolation level.

    Raises:
        KafkaException: the broker does not answer.
    """
    config = {"bootstrap.servers": servers, "group.id": "test.ends", "isolation.level": isolation, "log_level": 0}
    consumer = Consumer(config)
    try:
        found: dict[int, int] = {}
        for partition in range(partitions):
            limits = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30.0)
            if limits is None:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{topic} [{partition}]"))
            found[partition] = limits[1]
        return found
    finally:
        consumer.close()


def has_open_transaction(servers: str, topic: str, partitions: int) -> bool:
    """Whether a transaction is open that has written to a topic: readers with read_committed see less than is there.

    Raises:
        KafkaException: the broker does not answer.
    """
    return ends(servers, topic, partitions, "read_committed") != ends(servers, topic, partitions)
