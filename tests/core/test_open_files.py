"""What views are told: files on their way, and what is known of a file besides its outcome."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_reproducer.core.assembly import SegmentReceipt
from ray_reproducer.core.chunk import Chunk, FileVersion, encode
from ray_reproducer.core.events import (
    Announce,
    Commit,
    Delivered,
    SlotsChanged,
    StartTask,
    TransactionAborted,
    TransactionCommitted,
)
from ray_reproducer.core.intake import Intake
from ray_reproducer.core.ledger import PartitionStart
from ray_reproducer.core.open_files import OpenFile
from ray_reproducer.core.outcome import Facts, Failure, Outcome
from ray_reproducer.core.progress import Progress
from tests.core.test_machine import Program, a_version, of_kind

EPOCH_MS = 1_700_000_000_000
"""The machine tests' clock begins here."""


def with_times(program: Program, version: FileVersion, *indices: int, times: tuple[int, int]) -> None:
    """Deliver chunks whose oldest and newest have these timestamps."""
    delivery = program.delivery(version, *indices)
    oldest_ms, newest_ms = times
    receipt: SegmentReceipt = delivery.receipts[0]._replace(oldest_ms=oldest_ms, timestamp_ms=newest_ms)
    program.handle(Delivered(replace(delivery, receipts=(receipt,))))


def committed(program: Program) -> tuple[Outcome, ...]:
    (announce,) = of_kind(Announce, program.handle(TransactionCommitted()))
    assert isinstance(announce, Announce)
    return announce.outcomes


def test_files_on_their_way_are_listed_until_their_outcome_is_committed() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    with_times(program, a_version("a", 2), 2, times=(500, 900))
    assert program.machine.open_files(10) == (OpenFile("dir/a", 2, 500, 900),)
    with_times(program, a_version("b", 3), 1, times=(0, -1))
    with_times(program, a_version("a", 2), 1, times=(300, 300))
    both = (OpenFile("dir/a", 2, 300, 900), OpenFile("dir/b", 3, 0, 0))
    assert program.machine.open_files(10) == both
    assert program.machine.open_files(1) == both[:1]
    program.answer(1, b"{}")
    assert program.machine.open_files(10) == both
    program.tick()
    assert program.machine.open_files(10) == both
    committed(program)
    assert program.machine.open_files(10) == both[1:]


@pytest.mark.parametrize("answer", [b'{"a":1}', Failure("timeout", "too long")])
def test_an_outcome_carries_what_is_known_of_its_file(answer: bytes | Failure) -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    with_times(program, a_version("a", 2), 1, times=(500, 900))
    with_times(program, a_version("a", 2), 2, times=(300, 400))
    program.now_s = 2.5
    assert of_kind(Commit, program.answer(1, answer))
    (outcome,) = committed(program)
    assert outcome.facts == Facts(2, 20, 300, 900, EPOCH_MS + 2500)


def test_a_refused_record_and_a_message_that_is_no_chunk_carry_it_too() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    with_times(program, a_version("a", 2), 1, 2, times=(300, 900))
    program.answer(1, b'{"a":1}')
    program.tick()
    program.handle(TransactionAborted(too_large=0))
    program.poison()
    assert of_kind(Commit, program.tick())
    refused, poison = committed(program)
    assert (refused.reason, refused.facts) == ("result_too_large", Facts(2, 10, 300, 900, EPOCH_MS))
    assert (poison.reason, poison.facts) == ("not_a_chunk", Facts(size_bytes=3))
    # It was never a file: nobody lists it.
    program.poison()
    assert program.machine.open_files(10) == ()


def test_progress_counts_what_is_processed_and_produced_when_it_is_committed() -> None:
    program = Program()
    program.handle(SlotsChanged(2))
    for name, n_chunks in (("a", 2), ("b", 3)):
        (start,) = of_kind(StartTask, program.chunks(a_version(name, n_chunks), *range(1, n_chunks + 1)))
        program.answer(start.task, b'{"a":1}' if name == "a" else Failure("timeout", "too long"))
    program.poison()
    program.chunks(a_version("c", 2), 1)
    nothing = program.machine.progress()
    assert (nothing.messages_processed, nothing.bytes_processed, nothing.bytes_produced) == (0, 0, 0)
    program.tick()
    committed(program)
    progress = program.machine.progress()
    assert (progress.messages_processed, progress.bytes_processed) == (6, 20 + 3)
    assert (progress.results, progress.bytes_produced) == (1, 7)
    twice = progress.after(progress)
    assert (twice.messages_processed, twice.bytes_processed, twice.bytes_produced) == (12, 46, 14)
    assert Progress().after(progress).bytes_produced == 7


def test_an_intake_tells_the_oldest_timestamp_that_a_message_has() -> None:
    intake = Intake(1, {0: PartitionStart(0)})
    version = FileVersion("", "a", "", bytes(64), 3)
    for offset, timestamp_ms in enumerate((700, -1, 300)):
        chunk = Chunk(version, offset + 1, offset, bytes(64), b"x")
        intake.message(0, offset, encode(chunk), timestamp_ms)
    intake.message(0, 3, encode(Chunk(replace(version, n_chunks=1), 1, 0, bytes(64), b"x")), -1)
    flush = intake.flush()
    assert flush is not None
    by_chunks = {receipt.version.n_chunks: receipt for receipt in flush.delivery.receipts}
    assert (by_chunks[3].oldest_ms, by_chunks[3].timestamp_ms) == (300, 700)
    assert by_chunks[1].oldest_ms == 0
