"""Decides everything that the committer does: events in, instructions out, one mutator.

Rules:

1. :meth:`Machine.handle` is the only method that changes anything. It does no I/O and reads no clock; an event that
   can't happen in the present state raises :class:`IllegalEventError` and changes nothing.
2. Each file version goes through the states of :mod:`lifecycle`, and is done by a committed transaction only.
3. At most one transaction is asked for at a time. What it carries and what it commits is one plan of the ledger.
4. A worker that dies costs its own file (:mod:`pool`), and a file that fails becomes a dead letter.
5. Consumers are told to hold still only because of what drains on its own: whole files that wait for a worker, and
   outcomes that wait for the broker. Files that are incomplete never stop the reading: what they lack may lie behind.
6. A chunk of a version that is done, or whole already, is a repeat: its offset is done with its version, its data is
   never used. Versions done lately are remembered for that, up to a limit.
7. A segment is released as soon as no open version needs it, and never twice.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from ray_reproducer.core import outcome as outcomes
from ray_reproducer.core.assembly import Assembly, OpenVersion, SegmentReceipt
from ray_reproducer.core.errors import IllegalEventError
from ray_reproducer.core.events import (
    Announce,
    CancelTask,
    Commit,
    Delivered,
    DrainTo,
    Event,
    FileWork,
    Finish,
    Instruction,
    ReleaseSegments,
    SetReading,
    SlotsChanged,
    StartTask,
    StopRequested,
    TaskBegan,
    TaskCrashed,
    TaskFinished,
    TransactionAborted,
    TransactionCommitted,
)
from ray_reproducer.core.intake import Delivery
from ray_reproducer.core.ledger import CommitPlan, Ledger, poison_id
from ray_reproducer.core.lifecycle import Lifecycle, State
from ray_reproducer.core.limits import MachineLimits, Moment
from ray_reproducer.core.open_files import OpenFile, facts_of, open_files
from ray_reproducer.core.outcome import Failure, Origin, Outcome
from ray_reproducer.core.pending import PendingOutcomes
from ray_reproducer.core.pool import ExtractionPool
from ray_reproducer.core.progress import Progress
from ray_reproducer.core.story import Story


class Machine:
    """The committer's state machine."""

    def __init__(self, ledger: Ledger, origin: Origin, limits: MachineLimits, now: Moment) -> None:
        """Begin with what is committed.

        Args:
            ledger: made of the committed state.
            origin: what all dead letters have in common.
            limits: sizes and times to keep to.
            now: the time.
        """
        self._limits = limits
        self._ledger = ledger
        self._origin = origin
        self._assembly = Assembly()
        self._lifecycle = Lifecycle(limits.story_length)
        self._pool = ExtractionPool(limits.pool)
        self._outcomes = PendingOutcomes(ledger, limits.max_records, limits.room_retry_s)
        self._done_lately: OrderedDict[bytes, None] = OrderedDict()
        self._plan: CommitPlan | None = None
        self._plan_may_differ = True
        self._last_plan_s = now.monotonic_s
        self._last_refresh_s = now.monotonic_s
        self._drain_to: dict[int, int] | None = None
        self._stopping = False
        self._reading = True
        self._ended = False
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._events = 0
        self._now = now
        self._out: list[Instruction] = []

    # ------------------------------------------------------------ the one mutator

    def handle(self, event: Event, now: Moment) -> list[Instruction]:
        """Take an event and return what is to be done, in this order.

        Args:
            event: what happened.
            now: when.

        Raises:
            IllegalEventError: the event can't happen now; nothing has changed.
        """
        self._check(event)
        self._now = now
        self._events += 1
        self._out = []
        self._take(event)
        if not self._ended:
            self._cancel_late_tasks()
            self._start_tasks()
            self._commit()
            self._steer_reading()
            self._finish()
        return self._out

    def _check(self, event: Event) -> None:
        if isinstance(event, Delivered):
            for partition, start, stop in event.delivery.ranges:
                ledger = self._ledger.partitions.get(partition)
                if ledger is None or start != ledger.delivered_to:
                    raise IllegalEventError(f"partition {partition}: {start} to {stop} was delivered out of turn")
        elif isinstance(event, (TaskFinished, TaskCrashed)):
            versions = self._pool.versions_of(event.task)
            if versions is None:
                raise IllegalEventError(f"task {event.task} is not running")
            if isinstance(event, TaskFinished) and len(event.answers) != len(versions):
                raise IllegalEventError(f"task {event.task}: {len(event.answers)} answers for {len(versions)} files")
        elif isinstance(event, (TransactionCommitted, TransactionAborted)):
            refused = event.too_large if isinstance(event, TransactionAborted) else -1
            if self._plan is None or refused >= len(self._plan.carried):
                raise IllegalEventError(f"nobody asked for the transaction that ended ({event})")
        elif isinstance(event, DrainTo) and not event.ends.keys() <= self._ledger.partitions.keys():
            raise IllegalEventError(f"some of the partitions {sorted(event.ends)} are not read")

    def _take(self, event: Event) -> None:  # noqa: C901 - one line for each kind of event
        if isinstance(event, Delivered):
            self._delivered(event.delivery)
        elif isinstance(event, TaskBegan):
            self._pool.began(event.task, self._now.monotonic_s)
        elif isinstance(event, TaskFinished):
            for version_id, answer in zip(self._pool.finished(event.task, event.seconds), event.answers, strict=True):
                self._answered(version_id, answer)
        elif isinstance(event, TaskCrashed):
            self._crashed(event)
        elif isinstance(event, TransactionCommitted):
            self._transaction_committed()
        elif isinstance(event, TransactionAborted):
            self._transaction_aborted(event.too_large)
        elif isinstance(event, SlotsChanged):
            self._pool.slots = event.slots
        elif isinstance(event, DrainTo):
            self._drain_to = dict(event.ends)
        elif isinstance(event, StopRequested):
            self._stopping = self._plan_may_differ = True

    # ------------------------------------------------------------ what consumers say

    def _delivered(self, delivery: Delivery) -> None:
        self._plan_may_differ = True
        self._counts["messages"] += delivery.messages
        self._counts["bytes"] += delivery.size_bytes
        self._counts["filtered"] += delivery.filtered
        for partition, start, stop in delivery.ranges:
            self._ledger.deliver(partition, start, stop)
        for version_id in delivery.done_before:
            self._learn_done(version_id)
        for receipt in delivery.receipts:
            self._take_receipt(receipt)
        for partition, offset, message in delivery.poison:
            version_id = poison_id(partition, offset)
            self._ledger.open(version_id, partition, offset)
            self._move(version_id, "poison", ((partition, offset), message.reason))
            now = self._now.iso()
            self._add_outcome(version_id, outcomes.poison_letter(partition, offset, message, self._origin, now))
        self._release({receipt.slice.segment for receipt in delivery.receipts})

    def _take_receipt(self, receipt: SegmentReceipt) -> None:
        version_id, path = receipt.version.id, receipt.version.relative_path
        places = tuple(zip(receipt.partitions, receipt.offsets, strict=True))
        state = self._lifecycle.state(version_id)
        done = state is State.UNWANTED or (state is None and version_id in self._done_lately)
        for partition, offset in places:
            if done:
                self._ledger.repeat(partition, offset)
            else:
                self._ledger.open(version_id, partition, offset)
        if done or (state is not None and state is not State.ASSEMBLING):
            self._counts["duplicates"] += len(places)
            self._lifecycle.tell(version_id, "repeat", self._events, self._now, places, path)
            return
        self._move(version_id, "chunk", places, path)
        if self._assembly.add(receipt):
            self._move(version_id, "whole", (), path)
            self._pool.wait(version_id, self._assembly.get(version_id).size_bytes)

    def _learn_done(self, version_id: bytes) -> None:
        """Take note that the committed metadata knows a version as done, whatever was thought of it so far."""
        self._remember(version_id)
        state = self._lifecycle.state(version_id)
        if state is None:
            return
        self._move(version_id, "done before")
        if state is State.UNWANTED:
            return
        self._ledger.close(version_id)
        if state is State.WAITING:
            self._pool.discard(version_id)
        if state is State.READY:
            self._outcomes.drop(version_id)
        elif state is not State.RUNNING:
            self._drop_data(version_id)

    # ------------------------------------------------------------ what workers say

    def _crashed(self, event: TaskCrashed) -> None:
        for version_id, failure in self._pool.crashed(event.task, event.cause, event.detail).items():
            if failure is not None or self._lifecycle.state(version_id) is State.UNWANTED:
                self._answered(version_id, failure or Failure(event.cause, event.detail))
            else:
                self._move(version_id, "crash", (event.task, event.cause, event.detail))
                self._pool.wait(version_id, self._assembly.get(version_id).size_bytes, alone=True)

    def _answered(self, version_id: bytes, answer: bytes | Failure) -> None:
        version = (held := self._drop_data(version_id)).version
        if self._lifecycle.state(version_id) is State.UNWANTED:
            self._move(version_id, "ignored answer", (), version.relative_path)
            return
        facts = facts_of(held, self._now.epoch_s)
        if isinstance(answer, Failure):
            offsets = self._ledger.offsets(version_id)
            outcome = outcomes.dead_letter(version, answer, offsets, self._origin, self._now.iso(), facts)
        else:
            outcome = outcomes.result(version, answer, facts)
        self._move(version_id, "answer", (outcome.reason,), version.relative_path)
        self._add_outcome(version_id, outcome)

    # ------------------------------------------------------------ what the broker says

    def _transaction_committed(self) -> None:
        plan = self._end_plan()
        carried: list[Outcome] = []
        self._ledger.committed(plan)
        for version_id in plan.carried:
            outcome = self._outcomes.drop(version_id)
            carried.append(outcome)
            self._move(version_id, "committed", (), outcome.path)
            self._remember(version_id)
            self._counts[outcome.kind] += 1
            self._counts["messages done"] += outcome.facts.n_messages
            self._counts["bytes done"] += outcome.facts.size_bytes
            self._counts[f"bytes of {outcome.kind}"] += len(outcome.value)
            if outcome.reason:
                self._reasons[outcome.reason] += 1
        if carried:
            self._out.append(Announce(tuple(carried)))

    def _transaction_aborted(self, too_large: int) -> None:
        versions = self._end_plan().carried
        for version_id in versions:
            self._move(version_id, "aborted")
        if too_large >= 0:
            version_id = versions[too_large]
            offsets = self._ledger.offsets(version_id)
            refused = self._outcomes.drop(version_id)
            letter = outcomes.refused_by_broker(refused, offsets, self._origin, self._now.iso())
            self._add_outcome(version_id, letter)

    def _end_plan(self) -> CommitPlan:
        plan, self._plan = self._plan, None
        if plan is None:
            raise IllegalEventError("a transaction ended that nobody asked for")
        self._plan_may_differ = True
        return plan

    # ------------------------------------------------------------ what is to be done

    def _cancel_late_tasks(self) -> None:
        self._out.extend(CancelTask(task) for task in self._pool.late(self._now.monotonic_s))

    def _start_tasks(self) -> None:
        if self._stopping:
            return
        for task, versions in self._pool.start():
            files: list[FileWork] = []
            for version_id in versions:
                open_version = self._assembly.get(version_id)
                self._move(version_id, "start", (task,), open_version.version.relative_path)
                files.append(FileWork(open_version.version, tuple(open_version.slices)))
            self._out.append(StartTask(task, tuple(files)))

    def _commit(self) -> None:
        now_s = self._now.monotonic_s
        refresh = now_s - self._last_refresh_s >= self._limits.refresh_interval_s
        last = self._nothing_to_come()
        due = last or now_s - self._last_plan_s >= self._limits.commit_interval_s
        if self._plan is not None or not (refresh or (due and self._plan_may_differ)):
            return
        if not (refresh or last or self._outcomes.worth_planning(now_s)):
            return
        self._last_plan_s = now_s
        self._plan_may_differ = False
        plan = self._outcomes.plan(now_s, refresh=refresh)
        if refresh:
            self._last_refresh_s = now_s
        if not plan.carried and not plan.commits:
            return
        self._plan = plan
        for version_id in plan.carried:
            self._move(version_id, "plan")
        self._out.append(Commit(tuple(self._outcomes[v] for v in plan.carried), plan.commits))

    def _nothing_to_come(self) -> bool:
        """Whether waiting longer would add nothing to a transaction."""
        return (self._stopping or self._all_delivered()) and not self._pool.running

    def _steer_reading(self) -> None:
        limits, pool = self._limits, self._pool
        # Reading goes on at half of what stopped it, so that it does not flutter.
        share = 1.0 if self._reading else 0.5
        full = (
            pool.waiting_bytes > share * limits.max_waiting_bytes
            or pool.waiting > share * limits.max_waiting_files
            or (self._plan is not None and self._outcomes.size_bytes > share * limits.max_pending_bytes)
        )
        reading = not (full or self._stopping or self._all_delivered())
        if reading != self._reading:
            self._reading = reading
            self._out.append(SetReading(reading))

    def _all_delivered(self) -> bool:
        ends = self._drain_to
        return ends is not None and all(self._ledger.partitions[p].delivered_to >= end for p, end in ends.items())

    def _finish(self) -> None:
        idle = not self._pool.running and self._plan is None and not self._plan_may_differ
        if idle and (self._stopping or (self._all_delivered() and not self._pool.waiting)):
            self._ended = True
            self._out.append(Finish())

    # ------------------------------------------------------------ small parts

    def _move(self, version_id: bytes, what: str, detail: tuple[object, ...] = (), path: str = "") -> None:
        self._lifecycle.move(version_id, what, self._events, self._now, detail, path)

    def _add_outcome(self, version_id: bytes, outcome: Outcome) -> None:
        self._plan_may_differ = True
        self._outcomes.add(version_id, outcome)

    def _drop_data(self, version_id: bytes) -> OpenVersion:
        version = self._assembly.take(version_id)
        self._release(version.segments())
        return version

    def _release(self, segments: set[int]) -> None:
        if unused := self._assembly.unused(segments):
            self._out.append(ReleaseSegments(unused))

    def _remember(self, version_id: bytes) -> None:
        self._done_lately[version_id] = None
        self._done_lately.move_to_end(version_id)
        if len(self._done_lately) > self._limits.versions_remembered:
            self._done_lately.popitem(last=False)

    # ------------------------------------------------------------ what can be asked

    @property
    def story(self) -> Story:
        """What happened lately to each file and offset."""
        return self._lifecycle.story

    def open_files(self, limit: int) -> tuple[OpenFile, ...]:
        """List files on their way, at most so many."""
        return open_files(self._assembly, self._outcomes, limit)

    def progress(self, lag_messages: int | None = None, broker_trouble: str = "") -> Progress:
        """Return the counters of this moment; the two arguments are handed through."""
        pool = self._pool
        return Progress(
            messages_read=self._counts["messages"],
            bytes_read=self._counts["bytes"],
            messages_processed=self._counts["messages done"],
            bytes_processed=self._counts["bytes done"],
            results=self._counts["result"],
            bytes_produced=self._counts["bytes of result"],
            dead_letters=self._counts["dead_letter"],
            duplicates=self._counts["duplicates"],
            filtered=self._counts["filtered"],
            files_incomplete=len(self._assembly) - pool.files_in_flight - pool.waiting,
            files_waiting=pool.waiting,
            files_in_flight=pool.files_in_flight,
            outcomes_pending=len(self._outcomes),
            lag_messages=lag_messages,
            dead_letters_by_reason=dict(self._reasons),
            broker_trouble=broker_trouble,
            drained=self._ended and not self._stopping and not self._outcomes,
        )
