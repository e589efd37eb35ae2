"""Reads some partitions of the source topic and puts what it finds into Ray's object store.

A loop that polls, hands each message to the core's intake, and carries out its flushes: segments go into the object
store, the delivery with references to them to the committer. Everything else is decided in ``core.intake``.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import ray

from ray_reproducer.actors import collector
from ray_reproducer.actors.extraction import StoredSegment
from ray_reproducer.core.delivery_encoding import encode
from ray_reproducer.core.errors import TopicReplacedError
from ray_reproducer.core.intake import Intake
from ray_reproducer.core.ledger import PartitionStart
from ray_reproducer.core.replay_plan import Ranges
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.ranged_source import RangedSource
from ray_reproducer.kafka.source import OffsetLost, PartitionEnd, Source


@dataclass(frozen=True, slots=True)
class ReplayReading:
    """What a replay reads and takes.

    Attributes:
        ranges: partition -> ranges of offsets to read.
        only: ids of the file versions to take.
    """

    ranges: Mapping[int, Ranges]
    only: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """What a consumer actor is told.

    Attributes:
        number: which consumer it is.
        clients: settings of the Kafka clients.
        group_id: the group it belongs to in name.
        topic: the source topic.
        filepath_regex: which files to take; None: all.
        replay: what a replay reads and takes; None: everything.
        flush_bytes: data collected before it goes into the object store. Larger segments cost less for each byte,
            smaller ones reach the workers sooner.
        flush_interval_s: the longest that data is collected, in seconds.
        poll_timeout_s: how long to wait for a message before what was collected is flushed, in seconds.
        max_unacknowledged: deliveries on their way to the committer before the loop waits for it.
    """

    number: int
    clients: ClientConfigs
    group_id: str
    topic: str
    filepath_regex: str | None
    replay: ReplayReading | None = None
    flush_bytes: int = 16 * 1024 * 1024
    flush_interval_s: float = 0.05
    poll_timeout_s: float = 0.05
    max_unacknowledged: int = 4


class ConsumerActor:
    """The actor. ``run`` loops in a thread of its own; the other methods are answered meanwhile."""

    def __init__(self, settings: ConsumerSettings, starts: Mapping[int, PartitionStart], committer: Any) -> None:
        """Prepare to read.

        Args:
            settings: what it is told.
            starts: partition -> where to begin, and what is done above that.
            committer: handle of the committer actor.
        """
        self._settings = settings
        self._committer = committer
        replay = settings.replay
        self._intake = Intake(settings.number, starts, settings.filepath_regex, replay.only if replay else None)
        where = (settings.clients, settings.group_id, settings.topic)
        positions = {p: start.position for p, start in starts.items()}
        self._source: Source | RangedSource = (
            RangedSource(*where, {p: replay.ranges[p] for p in starts}, self._on_trouble)
            if replay
            else Source(*where, positions, self._on_trouble)
        )
        self._may_read = threading.Event()
        self._may_read.set()
        self._stop = threading.Event()
        self._added: queue.SimpleQueue[Mapping[int, int]] = queue.SimpleQueue()
        self._unacknowledged: deque[ray.ObjectRef[None]] = deque()
        collector.relax()

    @ray.method(concurrency_group="control")
    def set_reading(self, reading: bool) -> None:
        """Read on, or hold still."""
        if reading:
            self._may_read.set()
        else:
            self._may_read.clear()

    @ray.method(concurrency_group="control")
    def add(self, starts: Mapping[int, int]) -> None:
        """Read these partitions too: partition -> first offset."""
        self._added.put(starts)

    @ray.method(concurrency_group="control")
    def ping(self) -> None:
        """Answer: whoever asks wants to know whether this process is alive."""

    @ray.method(concurrency_group="control")
    def stop(self) -> None:
        """Let ``run`` return soon."""
        self._stop.set()
        self._may_read.set()

    def run(self) -> None:
        """Read until told to stop.

        Raises:
            TopicReplacedError: the topic was deleted and made anew.
        """
        settings, intake = self._settings, self._intake
        last_flush = time.monotonic()
        try:
            while not self._stop.is_set():
                event = self._source.poll(settings.poll_timeout_s) if self._may_read.is_set() else None
                if event is None:
                    idle = True
                elif isinstance(event, PartitionEnd):
                    idle = True
                    intake.reached(event.partition, event.offset)
                elif isinstance(event, OffsetLost):
                    idle = True
                    self._lost(event)
                else:
                    idle = False
                    # The timestamp is -1 if the message has none; partition and offset are always there.
                    partition, offset = cast("int", event.partition()), cast("int", event.offset())
                    intake.message(partition, offset, event.value(), event.timestamp()[1])
                now = time.monotonic()
                if (
                    idle
                    or intake.buffered_bytes >= settings.flush_bytes
                    or now - last_flush >= settings.flush_interval_s
                ):
                    last_flush = now
                    self._flush()
                self._add_partitions()
                if not self._may_read.is_set():
                    self._may_read.wait(settings.poll_timeout_s)
        finally:
            self._source.close()

    def _add_partitions(self) -> None:
        while not self._added.empty():
            starts = self._added.get()
            self._intake.add(starts)
            self._source.add(starts)

    def _flush(self) -> None:
        flush = self._intake.flush()
        if flush is None:
            return
        references = {number: ray.put(StoredSegment.of(segment)) for number, segment in flush.segments.items()}
        if len(self._unacknowledged) >= self._settings.max_unacknowledged:
            ray.get(self._unacknowledged.popleft())
        sent = self._committer.receive.remote(encode(flush.delivery), references, self._source.high_watermarks())
        self._unacknowledged.append(sent)

    def _lost(self, event: OffsetLost) -> None:
        where = f"{self._settings.topic} [{event.partition}]"
        if event.resumes_at is None:
            raise TopicReplacedError(
                f"{where}: the next offset to read is {event.offset_wanted}, beyond the end of the partition: "
                "the topic was deleted and made anew, or cut",
                hint="Use another group_id to read the new topic from its beginning, or topic_recreated=start_anew.",
            )
        self._committer.announce_loss.remote(
            f"{where}: offsets {event.offset_wanted} to {event.resumes_at - 1} are no longer on the topic "
            "(retention or deleted records): whatever they held is lost. Reading goes on behind them."
        )
        self._intake.lost(event.partition, event.resumes_at)

    def _on_trouble(self, text: str) -> None:
        self._committer.trouble.remote(f"consumer {self._settings.number}", text)
