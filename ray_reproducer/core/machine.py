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
   never used. Versions done lately are remembered for that (:mod:`done_lately`).
7. A segment is released as soon as no open version needs it, and never twice.
8. A file that stays incomplete for too long (:mod:`patience`) becomes a dead letter that lists what is missing. A chunk
   of it that comes before that is committed is taken as if nothing had been said; one that comes later begins anew.
9. With ``failures=hold`` a file that fails has no outcome: its offsets stay undone, for the next start.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray_reproducer.core.assembly import Assembly, OpenVersion, SegmentReceipt
from ray_reproducer.core.commit_schedule import CommitSchedule
from ray_reproducer.core.done_lately import DoneLately
from ray_reproducer.core.event_check import check
from ray_reproducer.core.events import (
    Announce,
    Commit,
    Delivered,
    DrainTo,
    Event,
    FileWork,
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
    TransactionAborted,
    TransactionCommitted,
)
from ray_reproducer.core.flow import FlowLimits
from ray_reproducer.core.given_up import GivenUp
from ray_reproducer.core.intake import Delivery
from ray_reproducer.core.ledger import Ledger, poison_id
from ray_reproducer.core.lifecycle import Lifecycle, State
from ray_reproducer.core.limits import MachineLimits, Moment
from ray_reproducer.core.open_files import OpenFile, open_files
from ray_reproducer.core.outcome import Failure, Origin, Outcome
from ray_reproducer.core.overtime import Overtime
from ray_reproducer.core.patience import Patience
from ray_reproducer.core.pending import PendingOutcomes
from ray_reproducer.core.pool import ExtractionPool
from ray_reproducer.core.progress import Counters, Progress
from ray_reproducer.core.story import Story
from ray_reproducer.core.verdicts import Verdicts


class Machine:
    """The committer's state machine."""

    def __init__(
        self,
        ledger: Ledger,
        origin: Origin,
        limits: MachineLimits,
        now: Moment,
        done_lately: DoneLately | None = None,
        attempts_before: Mapping[bytes, int] | None = None,
    ) -> None:
        """Begin with what is committed.

        Args:
            ledger: made of the committed state.
            origin: what all dead letters have in common.
            limits: sizes and times to keep to.
            now: the time.
            done_lately: versions that earlier lives have finished; None: none.
            attempts_before: id of a version that is replayed -> how often the extractor was started on it before.
        """
        self._limits = limits
        self._ledger = ledger
        self._verdicts = Verdicts(ledger, origin, limits.failures, attempts_before)
        self._assembly = Assembly()
        self._lifecycle = Lifecycle(limits.story_length)
        self._move = self._lifecycle.move
        self._pool = ExtractionPool(limits.pool)
        self._overtime = Overtime(self._pool, self._assembly)
        self._flow = FlowLimits(limits)
        self._outcomes = PendingOutcomes(ledger, limits.max_records, limits.room_retry_s)
        remembers_none = DoneLately(limits.versions_remembered, limits.duplicates)
        self._done_lately = remembers_none if done_lately is None else done_lately
        self._patience = Patience(limits.patience, ledger.partitions, now)
        self._given_up = GivenUp()
        self._schedule = CommitSchedule(limits, self._outcomes, now.monotonic_s)
        self._drain_to: dict[int, int] | None = None
        self._looked_after_drain = False
        self._stopping = self._ended = False
        self._reading = True
        self._counters = Counters()
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
        check(event, self._ledger, self._pool, self._schedule.open)
        self._now = now
        self._lifecycle.begin_event(now)
        self._out = []
        self._take(event)
        if not self._ended:
            self._give_up()
            self._out.extend(self._overtime.look(now.monotonic_s))
            self._start_tasks()
            self._commit()
            self._steer_reading()
            self._finish()
        return self._out

    def _take(self, event: Event) -> None:  # noqa: C901 - one line for each kind of event
        if isinstance(event, Delivered):
            self._delivered(event.delivery)
        elif isinstance(event, TaskBegan):
            self._pool.began(event.task, self._now.monotonic_s, event.worker)
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
        elif isinstance(event, PartitionsAdded):
            self._partitions_added(event)
        elif isinstance(event, StopRequested):
            self._stopping = True
            self._schedule.changed()

    # ------------------------------------------------------------ what consumers say

    def _delivered(self, delivery: Delivery) -> None:
        self._schedule.changed()
        self._counters.delivered(delivery)
        self._patience.read(delivery.read_to_ms)
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
            self._add_outcome(version_id, self._verdicts.poison(partition, offset, message, self._now))
        self._release({receipt.slice.segment for receipt in delivery.receipts})

    def _take_receipt(self, receipt: SegmentReceipt) -> None:
        version_id, path = receipt.version.id, receipt.version.relative_path
        places = tuple(zip(receipt.partitions, receipt.offsets, strict=True))
        state = self._lifecycle.state(version_id)
        known = state is None and self._done_lately.recognise(receipt.version, receipt.oldest_ms)
        done = known or state is State.UNWANTED
        for partition, offset in places:
            if done:
                self._ledger.repeat(partition, offset)
            else:
                self._ledger.open(version_id, partition, offset)
        if version_id in self._given_up:
            self._take_late(receipt)
        elif done or (state is not None and state is not State.ASSEMBLING):
            self._counters.duplicates += len(places)
            self._lifecycle.tell(version_id, "repeat", places, path)
        else:
            self._move(version_id, "chunk", places, path)
            self._assemble(receipt)

    def _assemble(self, receipt: SegmentReceipt) -> None:
        version_id = receipt.version.id
        if self._assembly.add(receipt, self._now.monotonic_s):
            self._move(version_id, "whole", (), receipt.version.relative_path)
            self._pool.wait(version_id, self._assembly.get(version_id).size_bytes)

    def _take_late(self, receipt: SegmentReceipt) -> None:
        """Take a chunk of a version that was given up: at once, or when the transaction that says so has ended."""
        version_id = receipt.version.id
        if self._lifecycle.state(version_id) is State.COMMITTING:
            self._given_up.keep(receipt)
            return
        self._given_up.discard(version_id)
        self._outcomes.drop(version_id)
        self._move(version_id, "late chunk", (), receipt.version.relative_path)
        self._assemble(receipt)

    def _partitions_added(self, event: PartitionsAdded) -> None:
        for partition, position in event.starts.items():
            self._ledger.add(partition, position)
        self._patience.add(event.starts)
        self._out.append(ReadPartitions(event.starts))

    def _learn_done(self, version_id: bytes) -> None:
        """Take note that the committed metadata knows a version as done, whatever was thought of it so far."""
        if not self._done_lately.learn(version_id):
            return
        state = self._lifecycle.state(version_id)
        if state is None or self._limits.duplicates == "reprocess":  # then a repeat is a file like any other
            return
        self._move(version_id, "done before")
        if state is State.UNWANTED:
            return
        self._ledger.close(version_id)
        if state is State.WAITING:
            self._pool.discard(version_id)
        elif state is State.READY:
            self._outcomes.drop(version_id)
        if state is not State.RUNNING and version_id in self._assembly:
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
        outcome = self._verdicts.answer(held, answer, self._now)
        if outcome.kind != "held":
            self._move(version_id, "answer", (outcome.reason,), version.relative_path)
        self._add_outcome(version_id, outcome)

    # ------------------------------------------------------------ what the broker says

    def _transaction_committed(self) -> None:
        plan = self._schedule.end()
        carried: list[Outcome] = []
        self._ledger.committed(plan)
        for version_id in plan.carried:
            outcome = self._outcomes.drop(version_id)
            carried.append(outcome)
            self._move(version_id, "committed", (), outcome.path)
            self._counters.committed(outcome)
            if outcome.final:
                self._done_lately.add(version_id)
            elif version_id in self._given_up:
                self._given_up.discard(version_id)
                self._drop_data(version_id)
        if carried:
            self._out.append(Announce(tuple(carried)))
        for receipt in self._given_up.take_late():
            self._take_receipt(receipt)
            self._release({receipt.slice.segment})

    def _transaction_aborted(self, too_large: int) -> None:
        versions = self._schedule.end().carried
        for version_id in versions:
            self._move(version_id, "aborted")
        if too_large >= 0:
            version_id = versions[too_large]
            refused = self._outcomes.drop(version_id)
            self._add_outcome(version_id, self._verdicts.refused(version_id, refused, self._now))
        for receipt in self._given_up.take_late():
            if receipt.version.id in self._given_up:
                self._take_late(receipt)
            elif self._lifecycle.state(receipt.version.id) is State.ASSEMBLING:
                self._assemble(receipt)
            else:  # those before it have made the file whole
                self._counters.duplicates += len(receipt.offsets)
            self._release({receipt.slice.segment})

    # ------------------------------------------------------------ what is to be done

    def _give_up(self) -> None:
        if self._limits.failures == "hold" or self._stopping or not self._ledger.caught_up:
            return
        drained = self._all_delivered() and not self._looked_after_drain
        self._looked_after_drain = self._looked_after_drain or drained
        for version in list(self._patience.overdue(self._assembly, self._now, drained=drained)):
            version_id = version.version.id
            if version_id in self._given_up:
                continue
            letter = self._verdicts.given_up(version, self._now)
            self._given_up.add(version_id)
            self._move(version_id, "give up", (letter.reason,), letter.path)
            self._add_outcome(version_id, letter)

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
        last = (self._stopping or self._all_delivered()) and not self._pool.running
        plan = self._schedule.plan(self._now.monotonic_s, last=last, busy=self._pool.waiting > 0 and not self._stopping)
        if plan is None:
            return
        for version_id in plan.carried:
            self._move(version_id, "plan")
        self._out.append(Commit(plan.carried, tuple(self._outcomes[v] for v in plan.carried), plan.commits))

    def _steer_reading(self) -> None:
        uncommitted = self._outcomes.size_bytes if self._schedule.open else 0
        full = self._flow.full(self._pool, uncommitted, reading=self._reading)
        reading = not (full or self._stopping or self._all_delivered())
        if reading != self._reading:
            self._reading = reading
            self._out.append(SetReading(reading))

    def _all_delivered(self) -> bool:
        ends = self._drain_to
        return ends is not None and all(self._ledger.partitions[p].delivered_to >= end for p, end in ends.items())

    def _finish(self) -> None:
        idle = not self._pool.running and self._schedule.settled
        if idle and (self._stopping or (self._all_delivered() and not self._pool.waiting)):
            self._ended = True
            self._out.append(Finish())

    # ------------------------------------------------------------ small parts

    def _add_outcome(self, version_id: bytes, outcome: Outcome) -> None:
        if outcome.kind == "held":  # rule 9
            self._move(version_id, "hold", (outcome.reason,), outcome.path)
            self._counters.held += 1
            self._out.append(Announce((outcome,)))
        else:
            self._schedule.changed()
            self._outcomes.add(version_id, outcome)

    def _drop_data(self, version_id: bytes) -> OpenVersion:
        version = self._assembly.take(version_id)
        self._release(version.segments())
        return version

    def _release(self, segments: set[int]) -> None:
        if unused := self._assembly.unused(segments - self._given_up.late_segments()):
            self._out.append(ReleaseSegments(unused))

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
        waiting, in_flight = self._pool.waiting, self._pool.files_in_flight
        return self._counters.snapshot(
            files_incomplete=len(self._assembly) - in_flight - waiting - len(self._given_up),
            files_waiting=waiting,
            files_in_flight=in_flight,
            outcomes_pending=len(self._outcomes),
            lag_messages=lag_messages,
            broker_trouble=broker_trouble,
            drained=self._ended and not self._stopping and not self._outcomes,
        )
