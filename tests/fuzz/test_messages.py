"""Whatever is on the source topic: each message is a chunk or is refused, each file ends, nothing leaves the root."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.actors.extraction import ExtractionJob, StoredSegment, extract
from ray_reproducer.core.chunk import MAX_NAME_BYTES, MAX_PATH_BYTES, Chunk, FileVersion, decode, encode
from ray_reproducer.core.delivery_encoding import decode as decode_delivery
from ray_reproducer.core.delivery_encoding import encode as encode_delivery
from ray_reproducer.core.errors import ChunkError
from ray_reproducer.core.events import (
    Commit,
    Delivered,
    DrainTo,
    Finish,
    Instruction,
    ReleaseSegments,
    SlotsChanged,
    StartTask,
    TaskFinished,
    Tick,
    TransactionCommitted,
)
from ray_reproducer.core.intake import Intake
from ray_reproducer.core.ledger import Ledger, PartitionStart
from ray_reproducer.core.limits import MachineLimits, Moment
from ray_reproducer.core.machine import Machine
from ray_reproducer.core.outcome import Origin, Outcome
from ray_reproducer.core.reasons import REASONS
from ray_reproducer.data_file import DataFile
from tests.fuzz.budget import fuzz
from tests.fuzz.hostile import damaged, messages, names, numbers, packed, remove_deep

TOPIC_ID = bytes(16)
MOST_BYTES_A_BYTE = 120
"""What a byte of a message may become: the smallest thing that msgpack can say takes one byte, and 64 in Python."""
MOST_EVENTS = 10_000
NOW = Moment(0.0, 1_700_000_000.0)


def check_path(version: FileVersion) -> None:
    path = version.relative_path
    assert len(path.encode()) <= MAX_PATH_BYTES
    assert "\0" not in path
    for part in path.split("/"):
        assert part not in ("", ".", "..")
        assert len(part.encode()) <= MAX_NAME_BYTES
    assert os.path.normpath(f"/root/{path}") == f"/root/{path}"


def check_chunk(chunk: Chunk, value: bytes) -> None:
    version = chunk.version
    check_path(version)
    assert 1 <= chunk.index <= version.n_chunks
    assert 0 <= chunk.write_offset <= chunk.write_offset + len(chunk.data) < 2**63
    assert len(chunk.data) <= len(value)
    assert decode(encode(chunk)) == chunk
    assert len(version.id) == 12


@given(messages)
@fuzz("message")
def test_a_message_is_a_chunk_or_is_refused_by_name(value: bytes | None) -> None:
    try:
        chunk = decode(value)
    except ChunkError as error:
        assert error.reason in REASONS
        assert error.message.encode("utf-8", "backslashreplace")
        assert len(error.message) < 5_000
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.message, again.hint) == (type(error), error.message, error.hint)
    else:
        check_chunk(chunk, value or b"")


def nested(leaf: bytes, depth: int) -> bytes:
    """An array of arrays of arrays: the most that a message can make of few bytes."""
    return b"\x9f" + nested(leaf, depth - 1) * 15 if depth else leaf


@pytest.mark.parametrize("leaf", [b"\x90", b"\x80", b"\xa0", b"\xc0", b"\xcf" + b"\xff" * 8, b"\xc4\x00"])
@pytest.mark.parametrize("head", [b"", b"\x9a", b"\x99", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"])
def test_a_message_of_a_megabyte_takes_memory_by_what_it_holds(head: bytes, leaf: bytes) -> None:
    value = head + nested(leaf, 4) * 10
    tracemalloc.start()
    try:
        with pytest.raises(ChunkError):
            decode(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= MOST_BYTES_A_BYTE * len(value)


# ---------------------------------------------------------------- a whole topic


@dataclass(frozen=True)
class Upload:
    """A file to send, and what is wrong with how it is sent."""

    name: str
    subdir: str
    content: bytes
    chunk_bytes: int
    wrong_offset: int | None
    wrong_count: int | None
    wrong_hash: bool
    twice: bool

    def values(self) -> list[bytes]:
        pieces = [self.content[i : i + self.chunk_bytes] for i in range(0, len(self.content), self.chunk_bytes)] or [
            b""
        ]
        digest = hashlib.sha512(self.content + b"!" * self.wrong_hash).digest()
        count = len(pieces) if self.wrong_count is None else self.wrong_count
        values: list[bytes] = []
        for number, piece in enumerate(pieces, 1):
            offset = (number - 1) * self.chunk_bytes if self.wrong_offset is None else self.wrong_offset
            row = [
                self.name,
                digest,
                hashlib.sha512(piece).digest(),
                offset,
                number,
                count,
                self.subdir,
                "",
                piece,
                1.0,
            ]
            values.append(msgpack.packb(row, use_bin_type=True, unicode_errors="surrogatepass"))
        return values * (2 if self.twice else 1)


seldom_numbers = st.none() | st.none() | st.integers(0, 30) | numbers
plain_names = st.sampled_from(["a", "b", "a.csv"])
uploads = st.builds(
    Upload,
    name=plain_names | names,
    subdir=st.sampled_from(["", "x", "x/y", "a"]) | names,
    content=st.binary(max_size=60),
    chunk_bytes=st.integers(5, 40),
    wrong_offset=seldom_numbers,
    wrong_count=seldom_numbers,
    wrong_hash=st.sampled_from([False, False, True]),
    twice=st.booleans(),
)


def describe(datafile: DataFile) -> dict[str, Any]:
    content = datafile.bytestring
    return {"path": datafile.relative_filepath.as_posix(), "sha512": hashlib.sha512(content).hexdigest()}


class Run:
    """The program without Ray and Kafka: intake, machine and worker, until everything is drained."""

    def __init__(self, values: list[bytes | None], output: Path) -> None:
        self.values = values
        self.outcomes: list[Outcome] = []
        self.segments: dict[int, StoredSegment] = {}
        self.position = 0
        self.finished = False
        mode = "disk" if output.name == "disk" else "memory"
        self.job = ExtractionJob(str(output), pickle.dumps(describe), (), str(output), mode, 100_000)  # type: ignore[arg-type]
        start = {0: PartitionStart(0)}
        self.machine = Machine(Ledger(TOPIC_ID, start), Origin("raw", TOPIC_ID, "fuzz", "fuzz"), MachineLimits(), NOW)
        self.intake = Intake(0, start)

    def __call__(self) -> None:
        self.carry_out(self.machine.handle(SlotsChanged(2), NOW))
        self.carry_out(self.machine.handle(DrainTo({0: len(self.values)}), NOW))
        for offset, value in enumerate(self.values):
            self.intake.message(0, offset, value, 1_700_000_000_000)
            if offset % 3 == 2 or offset == len(self.values) - 1:
                flush = self.intake.flush()
                assert flush is not None
                self.segments |= {number: StoredSegment.of(segment) for number, segment in flush.segments.items()}
                self.carry_out(self.machine.handle(Delivered(decode_delivery(encode_delivery(flush.delivery))), NOW))
        self.carry_out(self.machine.handle(Tick(), NOW))
        assert self.finished

    def carry_out(self, instructions: list[Instruction]) -> None:
        todo = list(instructions)
        for _ in range(MOST_EVENTS):
            if not todo:
                return
            instruction = todo.pop(0)
            if isinstance(instruction, StartTask):
                needed = {part.segment for file in instruction.files for part in file.slices}
                files = [file.slices for file in instruction.files]
                answer = extract(self.job, files, {number: self.segments[number] for number in needed})
                todo += self.machine.handle(TaskFinished(instruction.task, answer.answers, answer.seconds), NOW)
            elif isinstance(instruction, Commit):
                self.outcomes += instruction.outcomes
                self.position = instruction.commits[0].position
                todo += self.machine.handle(TransactionCommitted(), NOW)
            elif isinstance(instruction, ReleaseSegments):
                for number in instruction.segments:
                    del self.segments[number]
            elif isinstance(instruction, Finish):
                self.finished = True
        raise AssertionError("the machine does not come to rest")


def snapshot(directory: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(directory)): p.read_bytes() if p.is_file() else None for p in directory.rglob("*")}


def expected_of(values: list[bytes | None]) -> tuple[Counter[str], Counter[str], set[bytes]]:
    """What the messages say: paths of files that are whole, how many messages are none, files that are not whole."""
    held: dict[FileVersion, set[int]] = {}
    poison: Counter[str] = Counter()
    for value in values:
        try:
            chunk = decode(value)
        except ChunkError as error:
            poison[error.reason] += 1
        else:
            held.setdefault(chunk.version, set()).add(chunk.index)
    whole = Counter(version.relative_path for version, indices in held.items() if len(indices) == version.n_chunks)
    incomplete = {version.id for version, indices in held.items() if len(indices) < version.n_chunks}
    return whole, poison, incomplete


@pytest.mark.parametrize("mode", ["memory", "disk"])
@given(
    sent=st.lists(uploads, max_size=4),
    junk=st.lists(messages | damaged(packed()), max_size=3),
    order=st.randoms(use_true_random=False),
)
@fuzz("topic")
def test_each_file_and_each_message_that_is_none_has_one_outcome(
    tmp_path_factory: pytest.TempPathFactory, mode: str, sent: list[Upload], junk: list[bytes | None], order: Any
) -> None:
    values: list[bytes | None] = [value for upload in sent for value in upload.values()]
    values += junk
    order.shuffle(values)
    top = tmp_path_factory.mktemp("top")
    (top / "outside").mkdir()
    output = top / mode
    run = Run(values, output)
    run()
    whole, poison, incomplete = expected_of(values)
    assert Counter(o.path for o in run.outcomes if o.path) == whole
    assert Counter(o.reason for o in run.outcomes if not o.path) == poison
    if not incomplete:
        assert run.position == len(values)
        assert not run.segments
    for outcome in run.outcomes:
        record = json.loads(outcome.value)
        if outcome.kind == "result":
            assert outcome.version is not None
            assert record == {"path": outcome.path, "sha512": outcome.version.file_hash.hex()}
    if mode == "disk":
        # Of two versions of one path the one that was written last is there.
        versions = [o.version for o in run.outcomes if o.kind == "result" and o.version is not None]
        hashes = {(version.relative_path, version.file_hash) for version in versions}
        for path in {version.relative_path for version in versions}:
            assert (path, hashlib.sha512((output / path).read_bytes()).digest()) in hashes
    assert sorted(place.name for place in top.iterdir()) in (["outside"], sorted(["outside", mode]))
    assert not snapshot(top / "outside")
    assert not [name for name in snapshot(top) if name.endswith(".part") and name.count(".") > 1]
    remove_deep(top)
