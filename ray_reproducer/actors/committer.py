"""Runs the core's machine: brings it events, carries out its instructions, and keeps references to segments.

Threads: ``run`` is the loop that alone touches the machine; a second thread waits in transactions, so that the loop
never does; Ray calls the other methods in threads of their own, which put events into the inbox, or take and leave what
the lock guards. References to segments are put into their table before the event that speaks of them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import ray

from ray_reproducer.actors import collector
from ray_reproducer.actors.committed_place import partition_start
from ray_reproducer.actors.committer_settings import CommitterSettings, News, ReplayOrders
from ray_reproducer.actors.extraction import JobReference, StoredSegment, TaskAnswer
from ray_reproducer.actors.extraction_task import extraction_task, packed
from ray_reproducer.actors.history import History, no_place
from ray_reproducer.actors.kept_outcomes import KeptOutcomes
from ray_reproducer.actors.make_delivery import make_delivery, refuse_newer
from ray_reproducer.actors.task_end import crash_cause, fatal
from ray_reproducer.actors.transactions import RecordHeaders, TransactionThread
from ray_reproducer.actors.worker_log import Said
from ray_reproducer.core.delivery_encoding import decode
from ray_reproducer.core.errors import BrokerError, FencedError
from ray_reproducer.core.events import (
    Announce,
    CancelTask,
    Commit,
    Delivered,
    DrainTo,
    Event,
    Finish,
    Instruction,
    PartitionsAdded,
    ReadPartitions,
    ReleaseSegments,
    SetReading,
    SlotsChanged,
    StartTask,
    StopRequested,
    TaskBegan,
    TaskCrashed,
    TaskFinished,
    Tick,
    Warn,
)
from ray_reproducer.core.ledger import Ledger, PartitionStart
from ray_reproducer.core.limits import Moment
from ray_reproducer.core.machine import Machine
from ray_reproducer.core.open_files import OpenFile
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.core.progress import Progress
from ray_reproducer.kafka import finished_lately, instance

TICK_S: Final = 0.05
"""How long the loop waits for an event before it looks at the clock: half of the shortest sensible commit interval."""
MESSAGES_KEPT: Final = 200
"""Messages that wait to be fetched for the log; older ones make room."""
SAID_KEPT: Final = 1_000
"""Log records of workers that wait to be fetched, at most 4 MB in all."""
OPEN_FILES_LISTED: Final = 10_000
"""The most files on their way in one list for the registries: it takes some 10 ms to make."""

ASK_AGAIN_S: Final = 1.0
"""While the broker does not tell who runs the group: until it is asked again, in seconds."""


class CommitterActor:
    """The actor."""

    def __init__(self, settings: CommitterSettings, job: JobReference) -> None:
        """Connect to nothing yet; ``start`` does."""
        self._settings = settings
        self._job = job
        self._inbox: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
        self._segments: dict[int, ray.ObjectRef[StoredSegment]] = {}
        self._tasks: dict[int, ray.ObjectRef[TaskAnswer]] = {}
        self._task = extraction_task(settings.task_cpus)
        self._myself: Any = None
        self._lock = threading.Lock()
        self._outcomes = KeptOutcomes(everything=settings.collect_outcomes, registries=settings.registries)
        self._open_files: tuple[OpenFile, ...] | None = None
        self._open_files_wanted = False
        self._messages: deque[str] = deque(maxlen=MESSAGES_KEPT)
        self._said: deque[Said] = deque(maxlen=SAID_KEPT)
        self._troubles: dict[str, str] = {}
        self._high_watermarks: dict[int, int] = {}
        self._ended = False
        self._finished = False
        self._progress = Progress()
        self._closed = threading.Event()
        self._tag = finished_lately.tag(settings.group_id, settings.origin.topic_id)
        self._delivery = make_delivery(settings, self._on_trouble)
        self._transactions = self._make_transactions(None)
        collector.relax()

    # ------------------------------------------------------------ called once, in this order

    def start(self) -> dict[int, PartitionStart]:
        """Take over the group: abort what a predecessor left open, and read what is committed.

        Returns:
            partition -> where its consumer begins, and what is done above that.

        Raises:
            FencedError: another instance has taken over meanwhile.
            BrokerError: the broker refuses us; or the topic is another one than the group knew.
            CommitMetadataError: what is committed beside an offset can't be read.
        """
        settings, topic_id = self._settings, self._settings.origin.topic_id
        while settings.is_later_life and not refuse_newer(settings):
            self._wait(ASK_AGAIN_S)
        committed = self._delivery.start()
        if settings.start == "group" and not committed:
            raise no_place(settings)
        fallbacks = settings.lows if committed else settings.starts
        starts: dict[int, PartitionStart] = {}
        for partition, fallback in fallbacks.items():
            where = f"group {settings.group_id}, {settings.source_topic} [{partition}]"
            starts[partition] = partition_start(committed.get(partition), fallback, topic_id, where, settings.place)
        if settings.instance:
            instance.sign(settings.clients, settings.group_id, settings.results_topic, settings.instance)
        self._ledger = Ledger(topic_id, starts)
        history = History(settings, self._tag, self._on_trouble, self._wait, self._say)
        done_lately = history.done_lately(committed, starts.values())
        self._machine = Machine(self._ledger, settings.origin, settings.limits, _now(), done_lately)
        return starts

    def _wait(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise BrokerError("the connection was closed while the broker was still awaited")

    def replay(self, orders: ReplayOrders) -> None:
        """Instead of the whole topic, only work on what a replay names; called after ``start``, by a fresh group."""
        starts = {partition: PartitionStart(offset) for partition, offset in orders.starts.items()}
        self._ledger = Ledger(self._settings.origin.topic_id, starts)
        self._machine = Machine(
            self._ledger,
            self._settings.origin,
            self._settings.limits,
            _now(),
            attempts_before=orders.attempts_before,
        )
        self._transactions = self._make_transactions(orders)

    def run(self, consumers: Sequence[Any]) -> None:
        """Carry out what the machine says until it says that all is done.

        Args:
            consumers: handles of the consumer actors.

        Raises:
            ReproducerError: something can't go on (fenced, refused by the broker, extractor can't be loaded).
        """
        self._consumers = consumers
        self._myself = ray.get_runtime_context().current_actor  # each question makes a new handle
        self._transactions.start()
        try:
            while not self._ended:
                for event in self._next_events():
                    if isinstance(event, (TaskFinished, TaskCrashed)):
                        del self._tasks[event.task]
                    for instruction in self._machine.handle(event, _now()):
                        self._carry_out(instruction)
                self._note_progress()
            if self._progress.drained:
                self._transactions.end()
                self._delivery.confirm()
        except FencedError as error:
            raise self._named(error) from None
        finally:
            self._closed.set()
            self._transactions.close()

    def _named(self, error: FencedError) -> FencedError:
        """Say who has taken over, if that is known."""
        settings = self._settings
        other = instance.who(settings.clients, settings.group_id, settings.results_topic)
        if not other or other == settings.instance or other in error.message:
            return error
        return FencedError(f"{error.message} (it is {other})", hint=error.hint)

    # ------------------------------------------------------------ called by others while it runs

    @ray.method(concurrency_group="inbox")
    def receive(
        self,
        delivery: bytes,
        references: dict[int, ray.ObjectRef[StoredSegment]],
        high_watermarks: Mapping[int, int],
    ) -> None:
        """Take a consumer's delivery (see ``delivery_encoding``), with references to the segments that it speaks of."""
        self._segments.update(references)
        self._high_watermarks.update(high_watermarks)
        self._inbox.put(Delivered(decode(delivery)))

    @ray.method(concurrency_group="control")
    def task_began(self, task: int, worker: str) -> None:
        """Take note that a worker, named for a person, has begun with a task."""
        self._inbox.put(TaskBegan(task, worker))

    @ray.method(concurrency_group="control")
    def set_slots(self, slots: int) -> None:
        """Take note of how many tasks the cluster can run at a time."""
        self._inbox.put(SlotsChanged(slots))

    @ray.method(concurrency_group="control")
    def add_partitions(self, starts: Mapping[int, int]) -> None:
        """Read these partitions too: partition -> first offset."""
        self._inbox.put(PartitionsAdded(starts))

    @ray.method(concurrency_group="control")
    def drain_to(self, ends: Mapping[int, int]) -> None:
        """End when all below these offsets is done."""
        self._inbox.put(DrainTo(ends))

    @ray.method(concurrency_group="control")
    def stop(self) -> None:
        """Finish what workers have, commit, and end."""
        self._inbox.put(StopRequested())

    @ray.method(concurrency_group="control")
    def trouble(self, who: str, text: str) -> None:
        """Take note that a client has trouble with the broker, or ("") has it no more."""
        self._note_trouble(who, text)

    @ray.method(concurrency_group="control")
    def announce_loss(self, text: str) -> None:
        """Pass on that data is lost."""
        self._say(text)

    def _say(self, text: str) -> None:
        with self._lock:
            self._messages.append(text)

    @ray.method(concurrency_group="control")
    def news(self, want_open_files: bool = False) -> News:
        """Return what has happened since the last call.

        Args:
            want_open_files: let a list of the files on their way be made for a later call.
        """
        with self._lock:
            outcomes, messages, said = self._outcomes.take(), tuple(self._messages), tuple(self._said)
            news = News(
                self._progress, outcomes, self._open_files, messages, said, self._finished,
                left_out_since_ms=self._outcomes.take_left_out(),
            )  # fmt: skip
            self._messages.clear()
            self._said.clear()
            self._open_files = None
            self._open_files_wanted = self._open_files_wanted or want_open_files
            return news

    # ------------------------------------------------------------ events

    def _next_events(self) -> list[Event]:
        try:
            events = [self._inbox.get(timeout=TICK_S)]
        except queue.Empty:
            return [Tick()]
        while not self._inbox.empty():
            events.append(self._inbox.get())
        checked: list[Event] = []
        for event in events:
            if isinstance(event, Exception):
                raise event
            checked.append(event)
        return checked

    def _task_ended(self, task: int, future: Any) -> None:
        """Called by Ray, in a thread of its own, when a task has come back or is lost."""
        error = future.exception()
        if error is None:
            answer: TaskAnswer = future.result()
            with self._lock:
                self._said.extend(answer.said)
            self._inbox.put(TaskFinished(task, answer.answers, answer.seconds))
            return
        cause = crash_cause(error)
        if cause is not None:
            self._inbox.put(TaskCrashed(task, cause, str(error).strip().split("\n")[0]))
        else:
            self._inbox.put(fatal(error))

    def _make_transactions(self, orders: ReplayOrders | None) -> TransactionThread:
        settings = self._settings
        topics = (settings.results_topic, settings.dead_letters_topic)
        registries_of = settings.group_id if settings.registries else ""
        headers = RecordHeaders(self._tag, registries_of)
        if orders:
            headers = RecordHeaders(self._tag, registries_of, orders.owners, orders.groups)
        return TransactionThread(self._delivery, *topics, headers, self._inbox.put, orders.clears if orders else None)

    def _on_trouble(self, text: str) -> None:
        self._note_trouble("committer", text)

    def _note_trouble(self, who: str, text: str) -> None:
        with self._lock:
            if text:
                self._troubles[who] = text
            else:
                self._troubles.pop(who, None)

    def _note_progress(self) -> None:
        highs = self._high_watermarks
        lag = None
        if highs:
            ledgers = self._ledger.partitions
            lag = sum(max(0, high - ledgers[p].delivered_to) for p, high in list(highs.items()))
        with self._lock:
            trouble = next(iter(self._troubles.values()), "")
            self._progress = self._machine.progress(lag, trouble)
            if self._open_files_wanted or (self._ended and self._settings.registries):
                self._open_files = self._machine.open_files(OPEN_FILES_LISTED)
                self._open_files_wanted = False
            # Together with the last counters: who sees that it is over must see how it ended.
            self._finished = self._ended

    # ------------------------------------------------------------ instructions

    def _carry_out(self, instruction: Instruction) -> None:
        if isinstance(instruction, StartTask):
            self._start_task(instruction)
        elif isinstance(instruction, ReleaseSegments):
            for segment in instruction.segments:
                del self._segments[segment]
        elif isinstance(instruction, Commit):
            self._transactions.submit(instruction)
        elif isinstance(instruction, Announce):
            self._announce(instruction.outcomes)
        elif isinstance(instruction, CancelTask):
            ray.cancel(self._tasks[instruction.task], force=True)
        elif isinstance(instruction, Warn):
            self._say(instruction.text)
        elif isinstance(instruction, (SetReading, ReadPartitions)):
            self._tell_consumers(instruction)
        elif isinstance(instruction, Finish):
            self._ended = True

    def _tell_consumers(self, instruction: SetReading | ReadPartitions) -> None:
        if isinstance(instruction, SetReading):
            for consumer in self._consumers:
                consumer.set_reading.remote(instruction.reading)
            return
        for partition, start in instruction.starts.items():
            self._consumers[partition % len(self._consumers)].add.remote({partition: start})

    def _start_task(self, start: StartTask) -> None:
        numbers = sorted({part.segment for file in start.files for part in file.slices})
        references = [self._segments[number] for number in numbers]
        # The segments are arguments of their own: Ray then runs the task where most of them are, and fetches the rest.
        files = packed(start.files)
        reference = self._task.remote(self._job, start.task, files, numbers, self._myself, *references)
        self._tasks[start.task] = reference
        task = start.task
        reference.future().add_done_callback(lambda future: self._task_ended(task, future))

    def _announce(self, outcomes: Sequence[Outcome]) -> None:
        with self._lock:
            if said := self._outcomes.add(outcomes):
                self._messages.append(said)


def _now() -> Moment:
    return Moment(time.monotonic(), time.time())
