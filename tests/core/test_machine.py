"""The committer's state machine, rule by rule; `test_machine_properties` roams over the interleavings."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ray_reproducer.core.assembly import SegmentReceipt, SegmentSlice
from ray_reproducer.core.batching import BatchLimits
from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.commit_metadata import CommittedState, decode
from ray_reproducer.core.done_lately import DoneLately, ExistingResults
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
    TransactionAborted,
    TransactionCommitted,
)
from ray_reproducer.core.intake import Delivery
from ray_reproducer.core.ledger import Ledger, PartitionStart
from ray_reproducer.core.limits import MachineLimits, Moment, PatienceLimits, PoolLimits
from ray_reproducer.core.machine import Machine
from ray_reproducer.core.outcome import Failure, Origin, PoisonMessage
from ray_reproducer.core.patience import AT_END
from ray_reproducer.core.reasons import Reason
from tests.core.test_ledger import limit_metadata

TOPIC_ID = bytes(range(16))
EPOCH_S = 1_700_000_000.0
ORIGIN = Origin("raw", TOPIC_ID, "mine", "program 1")
SLOW_COMMITS = MachineLimits(commit_interval_s=1.0, pool=PoolLimits(max_crashes=2, batch=BatchLimits(max_files=8)))


class Program:
    """A machine, with a clock, and the next offset of each partition."""

    def __init__(
        self,
        limits: MachineLimits = SLOW_COMMITS,
        starts: dict[int, PartitionStart] | None = None,
        done_lately: Sequence[bytes] = (),
        damaged: Sequence[bytes] = (),
        existing: ExistingResults | None = None,
    ) -> None:
        starts = starts or {0: PartitionStart(0)}
        known = DoneLately(limits.versions_remembered, limits.duplicates, done_lately, damaged, existing)
        self.machine = Machine(Ledger(TOPIC_ID, starts), ORIGIN, limits, Moment(0.0, EPOCH_S), known)
        self.now_s = 0.0
        self.next = {p: start.position for p, start in starts.items()}
        self.segment = 0

    def handle(self, event: Event) -> list[Instruction]:
        return self.machine.handle(event, Moment(self.now_s, EPOCH_S + self.now_s))

    def chunks(
        self, version: FileVersion, *indices: int, partition: int = 0, size_bytes: int = 10, **more: Any
    ) -> list[Instruction]:
        """Deliver chunks of a version, in a segment of their own, at the next offsets of a partition."""
        return self.handle(
            Delivered(self.delivery(version, *indices, partition=partition, size_bytes=size_bytes, **more))
        )

    def delivery(
        self, version: FileVersion, *indices: int, partition: int = 0, size_bytes: int = 10, **more: Any
    ) -> Delivery:
        self.segment += 1
        start = self.next[partition]
        self.next[partition] = stop = start + len(indices)
        receipt = SegmentReceipt(
            version,
            SegmentSlice(self.segment, 0, len(indices)),
            (partition,) * len(indices),
            tuple(range(start, stop)),
            indices,
            size_bytes,
            int((EPOCH_S + self.now_s) * 1000),
        )
        return Delivery(
            ranges=((partition, start, stop),),
            receipts=(receipt,),
            messages=len(indices),
            size_bytes=size_bytes,
            **more,
        )

    def skip(self, stop: int, partition: int = 0, **more: Any) -> list[Instruction]:
        """Deliver a range in which nothing is to be kept."""
        start, self.next[partition] = self.next[partition], stop
        return self.handle(Delivered(Delivery(ranges=((partition, start, stop),), **more)))

    def poison(self) -> list[Instruction]:
        offset = self.next[0]
        self.next[0] += 1
        bad = PoisonMessage("not_a_chunk", "it is none", b"raw", 3)
        return self.handle(Delivered(Delivery(ranges=((0, offset, offset + 1),), poison=((0, offset, bad),))))

    def tick(self, seconds: float = 1.0) -> list[Instruction]:
        self.now_s += seconds
        return self.handle(Tick())

    def answer(self, task: int, *answers: bytes | Failure, seconds: float = 0.01) -> list[Instruction]:
        files = len(self.machine._pool.versions_of(task) or ())
        return self.handle(TaskFinished(task, answers or (b"{}",) * files, seconds))

    def position(self, partition: int = 0) -> int:
        return self.machine._ledger.position(partition)


def a_version(name: str = "a", n_chunks: int = 1) -> FileVersion:
    return FileVersion("dir", name, "", name[:1].encode() * 64, n_chunks)


def of_kind(kind: type[Any], instructions: list[Instruction]) -> list[Any]:
    return [instruction for instruction in instructions if isinstance(instruction, kind)]


def state_of(machine: Machine) -> bytes:
    """Everything that a machine is made of."""
    return pickle.dumps(machine)


def one_file_to_commit(program: Program, name: str = "a") -> Commit:
    """Take a file through everything up to its transaction."""
    program.handle(SlotsChanged(1))
    (start,) = of_kind(StartTask, program.chunks(a_version(name), 1))
    program.answer(start.task)
    (commit,) = of_kind(Commit, program.tick())
    assert isinstance(commit, Commit)
    return commit


def without_room(files: int, **limits: Any) -> Program:
    """A machine with outcomes of so many files, of which the metadata (see ``limit_metadata``) has no room for most.

    All of them lie between chunks of files that are incomplete; the first of these, ``z``, keeps the position at 0.
    """
    program = Program(MachineLimits(commit_interval_s=1.0, pool=PoolLimits(queued_tasks=files), **limits))
    program.handle(SlotsChanged(1))
    program.chunks(a_version("z", 2), 1)
    for number in range(files):
        program.chunks(a_version(f"{chr(ord('A') + number)}1", 2), 1)
        program.chunks(a_version(f"{chr(ord('A') + number)}2"), 1)
    program.tick()
    program.handle(TransactionCommitted())
    for task in range(1, files + 1):
        program.answer(task)
    while of_kind(Commit, program.tick()):
        program.handle(TransactionCommitted())
    assert program.machine.progress().outcomes_pending > 0
    return program


# ---------------------------------------------------------------- rule 1


ILLEGAL: dict[str, Event] = {
    "partition 0: 7 to 9 was delivered out of turn": Delivered(Delivery(ranges=((0, 7, 9),))),
    "partition 0: 0 to 9 was delivered out of turn": Delivered(Delivery(ranges=((0, 0, 9),))),
    "partition 5: 0 to 1 was delivered out of turn": Delivered(Delivery(ranges=((0, 2, 9), (5, 0, 1)))),
    "task 99 is not running": TaskFinished(99, (b"{}",), 0.1),
    "task 1: 0 answers for 1 files": TaskFinished(1, (), 0.1),
    "task 98 is not running": TaskCrashed(98, "worker_crashed", ""),
    "nobody asked for the transaction that ended (TransactionCommitted": TransactionCommitted(),
    "nobody asked for the transaction that ended (TransactionAborted": TransactionAborted(),
    "some of the partitions [0, 3] are not read": DrainTo({0: 5, 3: 1}),
    "some of the partitions [0, 3] are read already": PartitionsAdded({3: 0, 0: 0}),
}


@pytest.mark.parametrize(("said", "event"), ILLEGAL.items(), ids=ILLEGAL.keys())
def test_rule_1_an_illegal_event_raises_and_changes_nothing(said: str, event: Event) -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    program.chunks(a_version("running"), 1)
    program.chunks(a_version("open", 3), 2)
    before = state_of(program.machine)
    program.now_s += 10
    with pytest.raises(IllegalEventError, match=re.escape(said)):
        program.handle(event)
    assert state_of(program.machine) == before
    program.answer(1)


def test_rule_1_a_refused_record_that_the_transaction_does_not_have_raises_and_changes_nothing() -> None:
    program = Program()
    one_file_to_commit(program)
    before = state_of(program.machine)
    with pytest.raises(IllegalEventError):
        program.handle(TransactionAborted(too_large=1))
    assert state_of(program.machine) == before


def test_rule_1_there_are_no_negative_slots() -> None:
    with pytest.raises(IllegalEventError):
        SlotsChanged(-1)


def test_rule_1_the_same_events_give_the_same_instructions() -> None:
    def run() -> list[list[Instruction]]:
        program = Program()
        return [
            program.handle(SlotsChanged(2)),
            program.chunks(a_version("a"), 1),
            program.chunks(a_version("b", 2), 2, 1),
            program.poison(),
            program.answer(1, Failure("extractor_raised", "no")),
            program.answer(2),
            program.tick(),
            program.handle(TransactionCommitted()),
        ]

    assert run() == run()


def test_rule_1_instructions_of_one_event_are_not_given_again() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    first = program.chunks(a_version(), 1)
    kept = copy.copy(first)
    assert program.handle(Tick()) == []
    assert first == kept


def test_rule_1_what_can_be_asked_changes_nothing() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    one_file_to_commit(program)
    program.chunks(a_version("open", 3), 2)
    program.chunks(a_version("running"), 1)
    program.poison()
    before = state_of(program.machine)
    told = program.machine.progress(lag_messages=5, broker_trouble="away")
    assert len(program.machine.open_files(10)) == 3
    assert program.machine.story.of_path("dir/open")
    assert program.machine.story.of_offset(0, 0)
    assert state_of(program.machine) == before
    program.handle(TransactionCommitted())
    program.tick()
    program.handle(TransactionCommitted())
    assert told.dead_letters_by_reason == {}, "what was told stays as it was"


# ---------------------------------------------------------------- rule 2


def test_rule_2_a_file_goes_from_its_chunks_to_a_committed_outcome() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    version = a_version("a", 2)
    assert program.chunks(version, 2) == []
    assert program.chunks(version, 1) == [
        StartTask(1, (FileWork(version, (SegmentSlice(1, 0, 1), SegmentSlice(2, 0, 1))),))
    ]
    (released,) = program.answer(1, b'{"k":1}')
    assert isinstance(released, ReleaseSegments)
    assert set(released.segments) == {1, 2}
    (commit,) = program.tick()
    assert isinstance(commit, Commit)
    (outcome,) = commit.outcomes
    assert (outcome.path, outcome.kind, outcome.value) == ("dir/a", "result", b'{"k":1}')
    assert commit.commits[0].position == 2
    assert program.handle(TransactionCommitted()) == [Announce((outcome,))]
    progress = program.machine.progress()
    assert (progress.results, progress.outcomes_pending, progress.files_incomplete) == (1, 0, 0)


def test_rule_2_nothing_is_done_before_its_transaction_is_committed() -> None:
    program = Program()
    one_file_to_commit(program)
    assert program.position() == 0
    program.handle(TransactionCommitted())
    assert program.position() == 1


def test_rule_2_an_aborted_transaction_is_asked_for_again_whole() -> None:
    program = Program()
    commit = one_file_to_commit(program)
    assert program.handle(TransactionAborted()) == []
    assert program.tick() == [commit]


def test_rule_2_a_record_that_is_too_large_becomes_a_small_dead_letter_and_the_others_go_on() -> None:
    program = Program()
    program.handle(SlotsChanged(2))
    program.chunks(a_version("a"), 1)
    program.chunks(a_version("b"), 1)
    program.answer(1, b'{"a":1}')
    program.answer(2, b'{"b":1}')
    program.tick()
    program.handle(TransactionAborted(too_large=0))
    (commit,) = of_kind(Commit, program.tick())
    by_path = {outcome.path: outcome for outcome in commit.outcomes}
    assert by_path["dir/b"].kind == "result"
    assert by_path["dir/a"].reason == "result_too_large"
    assert json.loads(by_path["dir/a"].value)["source"]["offsets"] == {"0": [[0, 0]]}


def test_rule_2_poison_is_a_dead_letter_at_once() -> None:
    program = Program()
    program.poison()
    (commit,) = of_kind(Commit, program.tick())
    (letter,) = commit.outcomes
    assert (letter.kind, letter.reason, letter.partition, letter.offset) == ("dead_letter", "not_a_chunk", 0, 0)
    program.handle(TransactionCommitted())
    assert program.machine.progress().dead_letters_by_reason == {"not_a_chunk": 1}
    assert program.position() == 1


# ---------------------------------------------------------------- rule 3


def test_rule_3_there_is_one_transaction_at_a_time() -> None:
    program = Program()
    one_file_to_commit(program)
    program.poison()
    assert program.tick(100) == []
    (announce, commit) = program.handle(TransactionCommitted())
    assert isinstance(announce, Announce)
    assert isinstance(commit, Commit)
    assert [outcome.reason for outcome in commit.outcomes] == ["not_a_chunk"]


def test_rule_3_what_a_transaction_carries_is_what_its_metadata_records() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    program.chunks(a_version("late", 2), 1)
    program.chunks(a_version("a"), 1)
    program.chunks(a_version("b"), 1)
    program.answer(1)
    (commit,) = of_kind(Commit, program.tick())
    # The answer for b comes after the plan: it is in the next transaction, and so is what is said about it.
    program.answer(2)
    state = decode(commit.commits[0].metadata, commit.commits[0].position)
    assert [outcome.path for outcome in commit.outcomes] == ["dir/a"]
    assert commit.commits[0].position == 0
    assert state.is_done(1, a_version("a").id)
    assert not state.is_done(2, a_version("b").id)


def test_rule_3_outcomes_are_collected_for_the_commit_interval() -> None:
    program = Program()
    program.tick(5.0)
    program.handle(TransactionCommitted())
    program.tick(0.9)
    assert program.poison() == []
    assert of_kind(Commit, program.tick(0.2))


def test_rule_3_and_longer_while_files_wait_for_a_worker() -> None:
    program = Program(MachineLimits(1.0, busy_commit_interval_s=5.0, pool=PoolLimits(queued_tasks=0)))
    program.handle(SlotsChanged(1))
    (start,) = of_kind(StartTask, program.chunks(a_version("a"), 1))
    program.chunks(a_version("b"), 1)
    program.poison()
    assert not of_kind(Commit, program.tick(4.9))
    assert of_kind(Commit, program.answer(start.task)), "none waits any more"
    program.handle(TransactionCommitted())
    program.chunks(a_version("c"), 1)
    program.poison()
    assert of_kind(Commit, program.tick(5.0))


def test_rule_3_a_transaction_carries_no_more_than_the_limit() -> None:
    program = Program(MachineLimits(commit_interval_s=1.0, max_records=2))
    for _ in range(5):
        program.poison()
    sizes: list[int] = []
    instructions = program.tick()
    while commits := of_kind(Commit, instructions):
        sizes.append(len(commits[0].outcomes))
        program.handle(TransactionCommitted())
        instructions = program.tick()
    assert sizes == [2, 2, 1]


def test_rule_3_outcomes_that_fit_only_together_with_later_ones_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, those that waited for want of room hid the one behind them that would have made the room, for ever."""
    limit_metadata(monkeypatch, 40)
    program = without_room(files=40, max_records=3)
    assert program.machine.progress().outcomes_pending > 3, "this is about more than a transaction carries"
    for name in ["z", *(f"{chr(ord('A') + number)}1" for number in range(40))]:
        (start,) = of_kind(StartTask, program.chunks(a_version(name, 2), 2))
        program.answer(start.task)
    while of_kind(Commit, program.tick()):
        program.handle(TransactionCommitted())
    assert program.machine.progress().outcomes_pending == 0
    assert program.position() == program.next[0]


def test_rule_3_positions_move_without_outcomes_too() -> None:
    program = Program()
    program.skip(1_000, filtered=1_000, messages=1_000)
    (commit,) = of_kind(Commit, program.tick())
    assert (commit.outcomes, commit.commits[0].position) == ((), 1_000)
    assert program.machine.progress().filtered == 1_000


def test_rule_3_positions_that_stay_are_committed_again_after_the_refresh_interval() -> None:
    program = Program(MachineLimits(commit_interval_s=1.0, refresh_interval_s=3_600.0))
    (first,) = program.tick()
    program.handle(TransactionCommitted())
    assert program.tick(3_000) == []
    assert program.tick(700) == [first]


# ---------------------------------------------------------------- rule 4


def test_rule_4_a_worker_that_dies_costs_its_own_file() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    for name in "abcdefghij":
        program.chunks(a_version(name), 1)
    batches: list[StartTask] = of_kind(StartTask, program.answer(1))
    while not any(len(batch.files) > 1 for batch in batches):
        batches = of_kind(StartTask, program.answer(batches[0].task if batches else 2))
    (batch,) = batches
    alone = program.handle(TaskCrashed(batch.task, "worker_crashed", "signal 11"))
    restarted = of_kind(StartTask, alone)
    while len(restarted) < len(batch.files):
        restarted += of_kind(StartTask, program.answer(restarted[-1].task))
    assert [start.files for start in restarted] == [(work,) for work in batch.files]


def test_rule_4_a_file_that_ends_its_worker_each_time_becomes_a_dead_letter() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    program.chunks(a_version(), 1)
    (again,) = program.handle(TaskCrashed(1, "out_of_memory", "killed"))
    assert isinstance(again, StartTask)
    assert again.files[0].version == a_version()
    program.handle(TaskCrashed(again.task, "out_of_memory", "killed"))
    (commit,) = of_kind(Commit, program.tick())
    assert [(outcome.kind, outcome.reason) for outcome in commit.outcomes] == [("dead_letter", "out_of_memory")]


def test_rule_4_a_file_that_fails_becomes_a_dead_letter_that_names_its_offsets() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    program.chunks(a_version("a", 3), 3, 1, 2)
    program.answer(1, Failure("extractor_raised", "ValueError: no", "Traceback ..."))
    (commit,) = of_kind(Commit, program.tick())
    (letter,) = commit.outcomes
    record = json.loads(letter.value)
    assert record["reason"] == "extractor_raised"
    assert record["source"]["offsets"] == {"0": [[0, 2]]}
    assert record["time"].startswith("2023-11-14T")


def test_rule_4_a_task_that_takes_too_long_is_cancelled_once() -> None:
    program = Program(MachineLimits(pool=PoolLimits(timeout_s=10.0)))
    program.handle(SlotsChanged(1))
    program.chunks(a_version(), 1)
    assert of_kind(CancelTask, program.tick(60)) == [], "it is still queued"
    program.handle(TaskBegan(1))
    assert of_kind(CancelTask, program.tick(9.9)) == []
    assert of_kind(CancelTask, program.tick(0.1)) == [CancelTask(1)]
    assert of_kind(CancelTask, program.tick(60)) == []
    program.handle(TransactionCommitted())
    program.handle(TaskCrashed(1, "worker_crashed", "cancelled"))
    (commit,) = of_kind(Commit, program.tick())
    assert [outcome.reason for outcome in commit.outcomes] == ["timeout"]


# ---------------------------------------------------------------- rule 5


def test_rule_5_consumers_hold_still_while_too_many_files_wait_and_go_on_at_half() -> None:
    program = Program(MachineLimits(max_waiting_files=4, pool=PoolLimits(queued_tasks=0)))
    program.handle(SlotsChanged(1))
    said = [of_kind(SetReading, program.chunks(a_version(name), 1)) for name in "abcdefg"]
    assert said == [[], [], [], [], [], [SetReading(False)], []]
    said = [of_kind(SetReading, program.answer(task)) for task in (1, 2)]
    assert program.machine.progress().files_waiting <= 2
    assert [SetReading(True)] in said


def test_rule_5_consumers_hold_still_while_too_many_bytes_wait() -> None:
    program = Program(MachineLimits(max_waiting_bytes=100))
    assert program.chunks(a_version("a"), 1, size_bytes=100) == []
    assert program.chunks(a_version("b"), 1, size_bytes=1) == [SetReading(False)]


def test_rule_5_incomplete_files_never_stop_the_reading() -> None:
    program = Program(MachineLimits(max_waiting_files=1, max_waiting_bytes=1))
    for number in range(100):
        assert of_kind(SetReading, program.chunks(a_version(f"f{number}", 2), 1, size_bytes=10**9)) == []


def test_rule_5_consumers_hold_still_while_outcomes_wait_for_the_broker() -> None:
    program = Program(MachineLimits(max_pending_bytes=10))
    one_file_to_commit(program)
    assert of_kind(SetReading, program.poison()) == [SetReading(False)]
    program.handle(TransactionCommitted())
    assert of_kind(Commit, program.tick()), "the poison"
    assert of_kind(SetReading, program.handle(TransactionCommitted())) == [SetReading(True)]


def test_rule_5_outcomes_that_are_collected_for_the_next_transaction_stop_nothing() -> None:
    program = Program(MachineLimits(max_pending_bytes=10, commit_interval_s=1000.0))
    assert program.poison() == []


# ---------------------------------------------------------------- rule 6


def test_rule_6_a_repeat_of_a_version_that_is_done_adds_nothing() -> None:
    program = Program()
    one_file_to_commit(program)
    program.handle(TransactionCommitted())
    assert program.chunks(a_version(), 1) == [ReleaseSegments((2,))]
    (commit,) = program.tick()
    assert isinstance(commit, Commit)
    assert (commit.outcomes, commit.commits[0].position) == ((), 2)
    assert program.machine.progress().duplicates == 1


@pytest.mark.parametrize("state", ["waiting", "running", "ready", "committing"])
def test_rule_6_a_repeat_of_a_version_that_is_whole_is_done_with_it(state: str) -> None:
    program = Program()
    program.chunks(a_version("a", 2), 1, 2)
    if state != "waiting":
        program.handle(SlotsChanged(1))
    if state in ("ready", "committing"):
        program.answer(1)
    if state == "committing":
        program.tick()
    assert program.chunks(a_version("a", 2), 2) == [ReleaseSegments((2,))]
    if state == "waiting":
        program.handle(SlotsChanged(1))
    if state in ("waiting", "running"):
        program.answer(1)
    carried: list[str] = []
    for instructions in [program.tick(), program.handle(TransactionCommitted()), program.tick()]:
        carried += [outcome.path for announce in of_kind(Announce, instructions) for outcome in announce.outcomes]
    assert carried == ["dir/a"]
    assert program.position() == 3
    assert program.machine.progress().duplicates == 1


def test_rule_6_a_repeat_of_a_chunk_that_is_held_is_done_with_its_version() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    version = a_version("a", 2)
    program.chunks(version, 1)
    assert program.chunks(version, 1) == [ReleaseSegments((2,))]
    (start,) = program.chunks(version, 2)
    assert isinstance(start, StartTask)
    assert start.files[0].slices == (SegmentSlice(1, 0, 1), SegmentSlice(3, 0, 1))


def restored_at_1() -> dict[int, PartitionStart]:
    """Partition 0 has a hole at 0; what lies in [1, 5) is done. Partition 1 is new."""
    return {0: PartitionStart(0, CommittedState(TOPIC_ID, frozenset(), ((0, 1),), 5)), 1: PartitionStart(0)}


@pytest.mark.parametrize("state", ["assembling", "waiting", "running", "ready"])
def test_rule_6_what_another_partition_knows_to_be_done_is_a_repeat_whatever_was_thought_of_it(state: str) -> None:
    program = Program(starts=restored_at_1())
    version = a_version("a", 2)
    program.chunks(version, 1, partition=1)
    if state != "assembling":
        program.chunks(version, 2, partition=1)
    if state in ("running", "ready"):
        program.handle(SlotsChanged(1))
    if state == "ready":
        program.answer(1)
    instructions = program.skip(5, done_before=frozenset({version.id}))
    instructions += program.chunks(version, 2, partition=1)
    if state == "running":
        assert program.machine.progress().files_in_flight == 1
        instructions += program.answer(1)
    instructions += program.handle(SlotsChanged(1))
    assert of_kind(StartTask, instructions) == []
    (commit,) = of_kind(Commit, program.tick())
    assert commit.outcomes == ()
    assert {p: c.position for p, c in commit.commits.items()} == {0: 5, 1: program.next[1]}
    released = [segment for r in of_kind(ReleaseSegments, instructions) for segment in r.segments]
    held = 0 if state == "ready" else 1 if state == "assembling" else 2
    assert len(released) == len(set(released)) == held + 1


@pytest.mark.parametrize("cause", ["worker_crashed", "node_died"])
def test_rule_6_an_unwanted_file_whose_worker_dies_is_not_run_again(cause: Any) -> None:
    program = Program(starts=restored_at_1())
    program.handle(SlotsChanged(1))
    program.chunks(a_version(), 1, partition=1)
    program.skip(5, done_before=frozenset({a_version().id}))
    assert of_kind(StartTask, program.handle(TaskCrashed(1, cause, ""))) == []
    (commit,) = of_kind(Commit, program.tick())
    assert commit.outcomes == ()


def test_rule_6_an_unwanted_answer_is_ignored_also_when_its_version_is_remembered_no_longer() -> None:
    program = Program(MachineLimits(versions_remembered=1), starts=restored_at_1())
    program.handle(SlotsChanged(1))
    program.chunks(a_version(), 1, partition=1)
    program.skip(4, done_before=frozenset({a_version().id}))
    program.skip(5, done_before=frozenset({a_version("b").id}))
    program.chunks(a_version(), 1, partition=1)
    program.answer(1)
    (commit,) = of_kind(Commit, program.tick())
    assert commit.outcomes == ()
    assert commit.commits[1].position == 2


def test_rule_6_versions_done_lately_are_remembered_up_to_a_limit() -> None:
    program = Program(MachineLimits(versions_remembered=1))
    for name in ("a", "b"):
        one_file_to_commit(program, name)
        program.handle(TransactionCommitted())
    assert of_kind(StartTask, program.chunks(a_version("b"), 1)) == []
    assert of_kind(StartTask, program.chunks(a_version("a"), 1)) != []


def test_rule_6_two_versions_of_one_path_are_two_files() -> None:
    program = Program()
    program.handle(SlotsChanged(2))
    older = FileVersion("dir", "a", "", b"1" * 64, 1)
    newer = FileVersion("dir", "a", "", b"2" * 64, 1)
    program.chunks(older, 1)
    program.chunks(newer, 1)
    program.answer(1, b'{"n":1}')
    program.answer(2, b'{"n":2}')
    (commit,) = of_kind(Commit, program.tick())
    assert [outcome.value for outcome in commit.outcomes] == [b'{"n":1}', b'{"n":2}']


# ---------------------------------------------------------------- rule 7


def test_rule_7_a_shared_segment_is_released_with_the_last_of_its_files() -> None:
    program = Program()
    program.handle(SlotsChanged(2))
    receipts = tuple(
        SegmentReceipt(a_version(name), SegmentSlice(1, first, 1), (0,), (first,), (1,), 10, 0)
        for first, name in enumerate("ab")
    )
    program.handle(Delivered(Delivery(ranges=((0, 0, 2),), receipts=receipts)))
    assert of_kind(ReleaseSegments, program.answer(1)) == []
    assert of_kind(ReleaseSegments, program.answer(2)) == [ReleaseSegments((1,))]


def test_rule_7_a_crash_does_not_release_what_is_needed_again() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    program.chunks(a_version(), 1)
    assert of_kind(ReleaseSegments, program.handle(TaskCrashed(1, "worker_crashed", ""))) == []
    assert of_kind(ReleaseSegments, program.answer(2)) == [ReleaseSegments((1,))]


# ---------------------------------------------------------------- drain and stop


def test_a_drain_ends_when_everything_below_its_ends_is_committed() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    assert program.handle(DrainTo({0: 2})) == []
    program.chunks(a_version("a"), 1)
    assert of_kind(SetReading, program.chunks(a_version("b"), 1)) == [SetReading(False)]
    program.answer(1)
    (commit,) = of_kind(Commit, program.answer(2))
    assert len(commit.outcomes) == 2, "with nothing to come, there is nothing to wait for"
    assert of_kind(Finish, program.handle(TransactionCommitted())) == [Finish()]
    assert program.machine.progress().drained


def test_a_drain_of_nothing_ends_at_once() -> None:
    program = Program()
    (commit,) = of_kind(Commit, program.handle(DrainTo({0: 0})))
    assert commit.outcomes == ()
    assert Finish() in program.handle(TransactionCommitted())


def test_a_drain_that_leaves_outcomes_behind_has_not_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_metadata(monkeypatch, 40)
    program = without_room(files=20)
    assert of_kind(Finish, program.handle(DrainTo({0: program.next[0]})))
    assert program.machine.progress().outcomes_pending > 0
    assert not program.machine.progress().drained


def test_a_drain_does_not_wait_for_files_that_are_incomplete() -> None:
    program = Program()
    program.handle(DrainTo({0: 1}))
    assert of_kind(Commit, program.chunks(a_version("a", 2), 1))
    assert of_kind(Finish, program.handle(TransactionCommitted())) == [Finish()]
    assert program.machine.progress().files_incomplete == 1


def test_a_drain_waits_for_workers_that_are_still_to_come() -> None:
    program = Program()
    program.handle(DrainTo({0: 1}))
    program.chunks(a_version(), 1)
    program.handle(TransactionCommitted())
    assert program.tick() == []
    assert of_kind(StartTask, program.handle(SlotsChanged(1)))


def test_a_stop_finishes_what_workers_have_and_starts_nothing_more() -> None:
    program = Program(MachineLimits(pool=PoolLimits(queued_tasks=0)))
    program.handle(SlotsChanged(1))
    program.chunks(a_version("a"), 1)
    program.chunks(a_version("b"), 1)
    assert program.handle(StopRequested()) == [SetReading(False)]
    instructions = program.answer(1)
    assert of_kind(StartTask, instructions) == []
    (commit,) = of_kind(Commit, instructions)
    assert [outcome.path for outcome in commit.outcomes] == ["dir/a"]
    assert commit.commits[0].position == 1, "b is not done"
    assert of_kind(Finish, program.handle(TransactionCommitted())) == [Finish()]
    assert not program.machine.progress().drained


def test_after_the_end_nothing_more_is_asked_for() -> None:
    program = Program()
    program.handle(StopRequested())
    program.handle(TransactionCommitted())
    assert program.handle(SlotsChanged(4)) == []
    assert of_kind(StartTask, program.chunks(a_version(), 1)) == []
    assert program.tick(10**6) == []


# ---------------------------------------------------------------- what can be asked


def test_the_story_tells_what_became_of_an_offset_and_of_a_path() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    version = a_version("a", 2)
    program.chunks(version, 1)
    program.chunks(version, 2)
    program.chunks(version, 2)
    program.handle(TaskCrashed(1, "worker_crashed", "signal 11"))
    program.answer(2)
    program.tick()
    program.handle(TransactionCommitted())
    program.chunks(version, 1)
    told = ["chunk", "chunk", "whole", "start", "repeat", "crash", "start", "answer", "plan", "committed", "repeat"]
    assert [happening.what for happening in program.machine.story.of_path("dir/a")] == told
    for offset in range(4):
        assert [happening.what for happening in program.machine.story.of_offset(0, offset)] == told
    assert program.machine.story.of_offset(0, 4) == []


def test_progress_says_nothing_of_the_broker_by_itself() -> None:
    progress = Program().machine.progress()
    assert (progress.lag_messages, progress.broker_trouble) == (None, "")


def test_progress_counts_each_file_where_it_is() -> None:
    program = Program(MachineLimits(pool=PoolLimits(queued_tasks=0)))
    program.handle(SlotsChanged(1))
    program.chunks(a_version("incomplete", 2), 1, size_bytes=7)
    program.chunks(a_version("running"), 1)
    program.chunks(a_version("waiting"), 1)
    program.poison()
    progress = program.machine.progress(lag_messages=5, broker_trouble="away")
    assert (progress.messages_read, progress.bytes_read) == (3, 27)
    assert (progress.files_incomplete, progress.files_in_flight, progress.files_waiting) == (1, 1, 1)
    assert (progress.outcomes_pending, progress.lag_messages, progress.broker_trouble) == (1, 5, "away")


# ---------------------------------------------------------------- rule 6: after a restart

IMPATIENT = replace(SLOW_COMMITS, patience=PatienceLimits(incomplete_after_s=100.0, grace_s=1.0, look_interval_s=1.0))
HOLDING = replace(IMPATIENT, failures="hold")


def test_rule_6_what_earlier_lives_have_finished_is_a_repeat() -> None:
    program = Program(done_lately=[a_version("a").id])
    program.handle(SlotsChanged(1))
    assert not of_kind(StartTask, program.chunks(a_version("a"), 1))
    assert program.machine.progress().duplicates == 1
    assert program.position() == 1


def test_rule_6_a_result_of_another_program_makes_its_file_a_repeat() -> None:
    existing = ExistingResults()
    existing.add(a_version("a").result_key.encode(), int(EPOCH_S * 1000))
    program = Program(existing=existing)
    program.handle(SlotsChanged(1))
    assert not of_kind(StartTask, program.chunks(a_version("a"), 1))
    assert program.position() == 1
    assert program.machine.progress().duplicates == 1
    assert of_kind(StartTask, program.chunks(a_version("b"), 1))


def test_rule_6_with_reprocess_a_finished_file_that_comes_again_is_a_file_like_any_other() -> None:
    program = Program(replace(SLOW_COMMITS, duplicates="reprocess"), done_lately=[a_version("a").id])
    one_file_to_commit(program)
    assert not of_kind(StartTask, program.chunks(a_version("a"), 1))  # it is not committed yet
    program.handle(TransactionCommitted())
    assert of_kind(StartTask, program.chunks(a_version("a"), 1))
    assert program.machine.progress().duplicates == 1


def test_rule_6_with_reprocess_a_file_that_waits_is_done_though_an_earlier_copy_of_it_is() -> None:
    program = Program(replace(SLOW_COMMITS, duplicates="reprocess"))
    program.chunks(a_version("a"), 1)
    program.skip(5, done_before=frozenset({a_version("a").id}))
    assert of_kind(StartTask, program.handle(SlotsChanged(1)))


@pytest.mark.parametrize("reason", ["hash_mismatch", "inconsistent_chunks"])
def test_rule_6_a_file_that_came_damaged_may_be_sent_again(reason: Reason) -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    (start,) = of_kind(StartTask, program.chunks(a_version("a"), 1))
    program.answer(start.task, Failure(reason, "it is not what was sent"))
    program.tick()
    program.handle(TransactionCommitted())
    assert of_kind(StartTask, program.chunks(a_version("a"), 1))


@pytest.mark.parametrize("damaged", [False, True])
def test_rule_6_so_it_is_after_a_restart(damaged: bool) -> None:
    restored = CommittedState(TOPIC_ID, frozenset(), ((10, 11),), 12)
    told = [a_version("a").id] if damaged else []
    program = Program(starts={0: PartitionStart(10, restored)}, damaged=told)
    program.handle(SlotsChanged(1))
    program.skip(12, done_before=frozenset([a_version("a").id]))
    assert bool(of_kind(StartTask, program.chunks(a_version("a"), 1))) is damaged


# ---------------------------------------------------------------- rule 8


def given_up(program: Program, version: FileVersion, *indices: int) -> Commit:
    """Let a version become too old, up to the transaction that says so."""
    program.handle(Delivered(Delivery(read_to_ms={0: AT_END})))
    program.chunks(version, *indices)
    assert not of_kind(Commit, program.tick(99.0))[0].outcomes
    program.handle(TransactionCommitted())
    (commit,) = of_kind(Commit, program.tick(1.0))
    assert isinstance(commit, Commit)
    return commit


def test_rule_8_an_incomplete_file_becomes_a_dead_letter_that_lists_what_is_missing() -> None:
    program = Program(IMPATIENT)
    (letter,) = given_up(program, a_version("a", 5), 2, 4).outcomes
    value = json.loads(letter.value)
    assert (letter.kind, letter.reason, value["attempts"]) == ("dead_letter", "incomplete", 0)
    assert value["file"]["missing"] == [[1, 1], [3, 3], [5, 5]]
    assert value["file"]["chunks_missing"] == 3
    assert value["source"]["offsets"] == {"0": [[0, 1]]}
    assert "3 of 5 chunks are missing (1, 3, 5)" in value["error"]
    assert program.machine.progress().files_incomplete == 0
    committed = program.handle(TransactionCommitted())
    assert of_kind(ReleaseSegments, committed) == [ReleaseSegments((1,))]
    assert program.position() == 2


def test_rule_8_one_of_which_a_newer_version_came_is_superseded() -> None:
    program = Program(IMPATIENT)
    program.chunks(FileVersion("dir", "a", "", b"2" * 64, 3, mtime=2.0), 1)
    (letter, other) = given_up(program, FileVersion("dir", "a", "", b"1" * 64, 3, mtime=1.0), 1).outcomes
    assert (letter.reason, other.reason) == ("incomplete", "superseded")


def test_rule_8_a_chunk_before_the_transaction_takes_it_back() -> None:
    program = Program(replace(IMPATIENT, commit_interval_s=1000.0))
    program.handle(SlotsChanged(1))
    program.handle(Delivered(Delivery(read_to_ms={0: AT_END})))
    program.chunks(a_version("a", 2), 1)
    program.tick(100.0)
    assert program.machine.progress().outcomes_pending == 1
    (start,) = of_kind(StartTask, program.chunks(a_version("a", 2), 2))
    assert program.machine.progress().outcomes_pending == 0
    program.answer(start.task)
    (commit,) = of_kind(Commit, program.tick(1000.0))
    assert [outcome.kind for outcome in commit.outcomes] == ["result"]


@pytest.mark.parametrize("committed", [False, True])
def test_rule_8_a_chunk_during_the_transaction_waits_for_its_end(committed: bool) -> None:
    program = Program(IMPATIENT)
    program.handle(SlotsChanged(1))
    given_up(program, a_version("a", 2), 1)
    arrived = program.chunks(a_version("a", 2), 2)
    assert not of_kind(ReleaseSegments, arrived)
    assert not of_kind(StartTask, arrived)
    after = program.handle(TransactionCommitted() if committed else TransactionAborted())
    if committed:  # the chunk begins a new version: what it lacks may be sent again
        assert of_kind(ReleaseSegments, after) == [ReleaseSegments((1,))]
        assert program.position() == 1
        assert program.machine.progress().files_incomplete == 1
        (start,) = of_kind(StartTask, program.chunks(a_version("a", 2), 1))
    else:
        (start,) = of_kind(StartTask, after)
    program.answer(start.task)
    (commit,) = of_kind(Commit, program.tick(1.0))
    assert [outcome.kind for outcome in commit.outcomes] == ["result"]
    program.handle(TransactionCommitted())
    assert program.position() == program.next[0]
    assert not program.machine._assembly._users


def test_rule_8_a_whole_file_that_comes_during_the_transaction_and_a_part_of_it_again() -> None:
    program = Program(IMPATIENT)
    program.handle(SlotsChanged(1))
    given_up(program, a_version("a", 3), 1)
    program.chunks(a_version("a", 3), 1, 2, 3)
    program.chunks(a_version("a", 3), 1, 2)
    after = program.handle(TransactionAborted())
    (start,) = of_kind(StartTask, after)
    assert of_kind(ReleaseSegments, after) == [ReleaseSegments((3,))]
    assert program.machine.progress().duplicates == 2, "chunks of the last segment: the file was whole"
    program.answer(start.task)
    program.tick(1.0)
    program.handle(TransactionCommitted())
    assert program.position() == program.next[0]
    assert not program.machine._assembly._users


def test_rule_8_a_drain_gives_up_what_is_overdue_and_leaves_the_rest() -> None:
    program = Program(IMPATIENT)
    program.chunks(a_version("old", 2), 1)
    program.now_s = 100.0
    assert of_kind(Commit, program.chunks(a_version("young", 2), 1))
    program.handle(DrainTo({0: 2}))
    (commit,) = of_kind(Commit, program.handle(TransactionCommitted()))
    assert [outcome.reason for outcome in commit.outcomes] == ["incomplete"]
    assert of_kind(Finish, program.handle(TransactionCommitted()))
    assert program.machine.progress().files_incomplete == 1
    assert program.machine.progress().drained


def test_rule_8_a_letter_that_the_broker_refuses_is_made_smaller_and_still_not_final() -> None:
    program = Program(IMPATIENT)
    given_up(program, a_version("a", 2), 1)
    program.handle(TransactionAborted(too_large=0))
    (commit,) = of_kind(Commit, program.tick(1.0))
    (letter,) = commit.outcomes
    assert (letter.reason, letter.final) == ("incomplete", False)
    program.handle(TransactionCommitted())
    program.chunks(a_version("a", 2), 1)
    assert program.machine.progress().files_incomplete == 1


def test_rule_8_chunks_that_came_during_a_transaction_that_was_aborted_all_count() -> None:
    program = Program(IMPATIENT)
    program.handle(SlotsChanged(1))
    given_up(program, a_version("a", 3), 1)
    program.chunks(a_version("a", 3), 2)
    program.chunks(a_version("a", 3), 3)
    (start,) = of_kind(StartTask, program.handle(TransactionAborted()))
    assert len(start.files[0].slices) == 3


def test_rule_8_what_was_given_up_does_not_hide_those_behind_it() -> None:
    program = Program(replace(IMPATIENT, commit_interval_s=1000.0))
    program.handle(Delivered(Delivery(read_to_ms={0: AT_END})))
    program.chunks(a_version("a", 2), 1)
    program.tick(50.0)
    program.chunks(a_version("b", 2), 1)
    program.tick(50.0)
    assert program.machine.progress().outcomes_pending == 1
    program.tick(100.0)
    assert program.machine.progress().outcomes_pending == 2


def test_rule_8_the_first_message_of_a_stream_is_not_given_up_by_the_clock_alone() -> None:
    program = Program(IMPATIENT)
    old = program.delivery(a_version("a", 2), 1)
    old = replace(old, receipts=tuple(receipt._replace(timestamp_ms=1_000) for receipt in old.receipts))
    program.handle(Delivered(old))
    assert program.machine.progress().files_incomplete == 1


def test_rule_8_nothing_is_given_up_before_the_past_was_read_again() -> None:
    program = Program(IMPATIENT, starts={0: PartitionStart(0, CommittedState(TOPIC_ID, frozenset(), ((0, 1),), 8))})
    program.chunks(a_version("a", 2), 1)
    program.handle(Delivered(Delivery(read_to_ms={0: AT_END})))
    program.tick(1_000.0)
    assert program.machine.progress().outcomes_pending == 0, "what it lacks may lie in what is read again"
    program.skip(8)
    program.tick(1_000.0)
    assert program.machine.progress().outcomes_pending == 1


def test_rule_8_nothing_is_given_up_before_a_new_partition_was_read() -> None:
    program = Program(IMPATIENT)
    program.handle(Delivered(Delivery(read_to_ms={0: AT_END})))
    program.chunks(a_version("a", 2), 1)
    program.handle(PartitionsAdded({1: 0}))
    program.tick(1_000.0)
    assert program.machine.progress().outcomes_pending == 0
    program.handle(Delivered(Delivery(read_to_ms={1: AT_END})))
    program.tick(1_000.0)
    assert program.machine.progress().outcomes_pending == 1


def test_rule_8_a_chunk_that_was_read_just_now_gives_its_file_a_while() -> None:
    program = Program(IMPATIENT)
    program.handle(Delivered(Delivery(read_to_ms={0: AT_END})))
    program.now_s = 1_000.0
    old = program.delivery(a_version("a", 2), 1)
    old = replace(old, receipts=tuple(receipt._replace(timestamp_ms=1_000) for receipt in old.receipts))
    program.handle(Delivered(old))
    assert program.machine.progress().outcomes_pending == 0
    program.tick(IMPATIENT.patience.grace_s)
    assert program.machine.progress().outcomes_pending == 1


def test_rule_8_nothing_is_given_up_by_a_program_that_is_to_stop() -> None:
    program = Program(IMPATIENT)
    program.handle(SlotsChanged(1))
    program.handle(Delivered(Delivery(read_to_ms={0: AT_END})))
    program.chunks(a_version("running"), 1)
    program.chunks(a_version("a", 2), 1)
    program.handle(StopRequested())
    program.tick(1_000.0)
    assert program.machine.progress().files_incomplete == 1


# ---------------------------------------------------------------- rule 9


def test_rule_9_a_file_that_fails_is_held_and_its_offsets_stay_undone() -> None:
    program = Program(HOLDING)
    program.handle(SlotsChanged(1))
    (start,) = of_kind(StartTask, program.chunks(a_version("a"), 1))
    (announced,) = of_kind(Announce, program.answer(start.task, Failure("extractor_raised", "no")))
    assert [(o.kind, o.reason, o.error) for o in announced.outcomes] == [("held", "extractor_raised", "no")]
    program.chunks(a_version("a"), 1)  # a repeat waits for it
    one_file_to_commit(program, "b")
    program.handle(TransactionCommitted())
    progress = program.machine.progress()
    assert (program.position(), progress.held, progress.results, progress.duplicates) == (0, 1, 1, 1)
    assert of_kind(Finish, program.handle(DrainTo({0: 3})))


def test_rule_9_a_result_that_the_broker_refuses_is_held_too() -> None:
    program = Program(HOLDING)
    one_file_to_commit(program)
    (announced,) = of_kind(Announce, program.handle(TransactionAborted(too_large=0)))
    assert [(o.kind, o.reason) for o in announced.outcomes] == [("held", "result_too_large")]
    assert program.position() == 0


def test_rule_9_poison_is_a_dead_letter_all_the_same() -> None:
    program = Program(HOLDING)
    program.poison()
    (commit,) = of_kind(Commit, program.tick())
    assert [outcome.kind for outcome in commit.outcomes] == ["dead_letter"]


def test_rule_9_incomplete_files_are_waited_for_without_end() -> None:
    program = Program(HOLDING)
    program.handle(Delivered(Delivery(read_to_ms={0: AT_END})))
    program.chunks(a_version("a", 2), 1)
    program.tick(1e6)
    assert program.machine.progress().files_incomplete == 1


# ---------------------------------------------------------------- partitions that are new, offsets that are lost


def test_a_new_partition_is_read_and_committed() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    assert of_kind(ReadPartitions, program.handle(PartitionsAdded({4: 7}))) == [ReadPartitions({4: 7})]
    program.next[4] = 7
    (start,) = of_kind(StartTask, program.chunks(a_version("a"), 1, partition=4))
    program.answer(start.task)
    (commit,) = of_kind(Commit, program.tick())
    assert commit.commits[4].position == 8


def test_offsets_that_are_lost_are_counted_and_passed() -> None:
    program = Program()
    program.skip(9, lost=((0, 2, 9),))
    assert program.machine.progress().offsets_lost == 7
    assert program.position() == 9
