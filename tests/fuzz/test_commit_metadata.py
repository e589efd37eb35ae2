"""Whatever stands beside a committed offset: it is read as a state that makes sense, or refused, in little memory."""

from __future__ import annotations

import base64
import tracemalloc
import zlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.chunk import VERSION_ID_BYTES, Chunk, FileVersion
from ray_reproducer.core.chunk import encode as encode_chunk
from ray_reproducer.core.commit_metadata import LIMIT_CHARS, CommittedState, decode, encode
from ray_reproducer.core.errors import CommitMetadataError
from ray_reproducer.core.events import Delivered, Tick
from ray_reproducer.core.intake import Intake
from ray_reproducer.core.ledger import Ledger, PartitionStart
from ray_reproducer.core.limits import MachineLimits, Moment
from ray_reproducer.core.machine import Machine
from ray_reproducer.core.offset_encoding import MAX_INFLATED_BYTES, MAX_VARINT
from ray_reproducer.core.outcome import Origin
from tests.fuzz.budget import fuzz

TOPIC_ID = bytes(range(16))
MOST_MEMORY_BYTES = 64 * 1024 * 1024
"""What reading may take: MAX_INFLATED_BYTES of numbers of a byte each, as Python's numbers and pairs."""
positions = st.integers(0, 50) | st.sampled_from([-1, 2**31, 2**53, MAX_VARINT - 3, MAX_VARINT, 2**64])
rests = st.binary(max_size=60)
fillers = st.sampled_from([b"\0", b"\1", b"\xff"])
varints = st.integers(0, 300) | st.sampled_from([2**14, 2**31, 2**62, 2**63 - 1, 2**63, 2**70])


def varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def sealed(payload: bytes, position: int, version: int = 1) -> str:
    """Text with the right magic and checksum: what is behind them is looked at."""
    place = max(0, position).to_bytes(9, "big")[-8:]
    checksum = zlib.crc32(place + bytes((version,)) + payload).to_bytes(4, "big")
    data = b"\x45\xac\x91" + bytes((version,)) + checksum + payload
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


@st.composite
def valid(draw: st.DrawFn) -> tuple[str, int]:
    """A text as this program writes it, and its position."""
    position = draw(st.integers(0, 1_000))
    holders = draw(st.dictionaries(st.integers(position, position + 300), st.integers(0, 5), max_size=80))
    undone: dict[bytes, list[int]] = {}
    for offset, holder in sorted(holders.items()):
        undone.setdefault(bytes([holder]) * 12, []).append(offset)
    return encode(TOPIC_ID, position, undone, position + draw(st.integers(0, 400))), position


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """What is behind the checksum: parts that lie about each other."""
    n_ids = draw(st.integers(0, 4))
    ids = b"".join(draw(st.lists(st.binary(min_size=12, max_size=12), min_size=n_ids, max_size=n_ids)))
    form = draw(st.sampled_from([0, 0, 1, 1, 2, 255]))
    numbers = b"".join(varint(n) for n in draw(st.lists(varints, max_size=12)))
    runs = draw(
        rests
        | st.just(varint(len(numbers)) + numbers)
        | st.builds(
            lambda few, longer, rest: varint(few) + varint(longer) + rest, varints, varints, st.binary(max_size=60)
        )
        | st.builds(
            lambda fill, n: varint(n // 2) + fill * n, st.sampled_from([b"\0", b"\1", b"\xff"]), st.integers(0, 5_000)
        )
    )
    if form == 1 and draw(st.booleans()):
        runs = deflated(runs)
    count = draw(st.just(varint(n_ids)) | varints.map(varint))
    whole = TOPIC_ID + bytes((form,)) + draw(varints.map(varint)) + count + ids + runs
    return whole[: draw(st.just(len(whole)) | st.integers(0, len(whole)))]


def check(text: str, position: int) -> CommittedState | None:
    """Read a text; what it says must make sense, or be refused."""
    try:
        state = decode(text, position)
    except CommitMetadataError as error:
        assert len(error.message) < 500
        assert error.hint
        return None
    assert 0 <= position <= state.end <= MAX_VARINT
    assert len(state.topic_id) == 16
    assert all(len(version_id) == VERSION_ID_BYTES for version_id in state.open_versions)
    assert all(position <= start < stop <= state.end for start, stop in state.undone)
    assert all(one[1] < other[0] for one, other in pairwise(state.undone))
    for offset in {position, state.end - 1, state.end, *(start for start, _ in state.undone[:3])}:
        undone = any(start <= offset < stop for start, stop in state.undone) or offset >= state.end
        assert state.is_done(offset, b"another one!") is not undone
    return state


@given(
    st.tuples(st.text(max_size=200), positions)
    | st.tuples(st.text("RayAb0/+=_-", max_size=120).map("RayR".__add__), positions)
    | valid()
)
@fuzz("commit_metadata")
def test_any_text_is_read_or_refused(written: tuple[str, int]) -> None:
    check(*written)


@given(valid(), st.data())
@fuzz("commit_metadata")
def test_text_that_was_changed_is_refused(written: tuple[str, int], data: st.DataObject) -> None:
    text, position = written
    at = data.draw(st.integers(0, len(text)))
    changed = text[:at] + data.draw(st.text(max_size=5)) + text[at + data.draw(st.integers(0, 5)) :]
    moved = data.draw(st.just(position) | positions)
    state = check(changed, moved)
    assert (state is not None) == ((changed, moved) == (text, position))


@given(payloads(), positions, st.sampled_from([1, 1, 1, 1, 1, 1, 1, 0, 2, 255]))
@fuzz("commit_metadata_resealed")
def test_lies_with_a_right_checksum_are_refused_or_make_sense(payload: bytes, position: int, version: int) -> None:
    state = check(sealed(payload, position, version), position)
    assert state is None or version == 1


@given(
    n_numbers=st.integers(1, MAX_INFLATED_BYTES * 2),
    number=st.sampled_from([b"\0", b"\1", b"\x7f", b"\xff\x7f"]),
    count=st.none() | varints,
)
@fuzz("commit_metadata_start")
def test_what_inflates_takes_little_memory(n_numbers: int, number: bytes, count: int | None) -> None:
    runs = deflated(varint(n_numbers // 2 if count is None else count) + number * n_numbers)
    text = sealed(TOPIC_ID + b"\1" + varint(2**62) + varint(0) + runs, 0)
    tracemalloc.start()
    try:
        check(text[: 16 * LIMIT_CHARS], 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= MOST_MEMORY_BYTES


@given(payloads(), st.integers(0, 5), st.lists(st.integers(1, 3), min_size=1, max_size=20))
@fuzz("commit_metadata_start")
def test_whatever_a_run_begins_with_it_reads_on(payload: bytes, position: int, chunk_counts: list[int]) -> None:
    state = check(sealed(payload, position), position)
    start = {0: PartitionStart(position, state)}
    now = Moment(0.0, 1_700_000_000.0)
    intake = Intake(0, start)
    machine = Machine(Ledger(TOPIC_ID, start), Origin("raw", TOPIC_ID, "fuzz", "fuzz"), MachineLimits(), now)
    for offset, n_chunks in enumerate(chunk_counts, position):
        version = FileVersion("", f"f{n_chunks}", "", bytes(64), n_chunks)
        intake.message(0, offset, encode_chunk(Chunk(version, 1, 0, bytes(64), b"x")), 0)
    flush = intake.flush()
    assert flush is not None
    machine.handle(Delivered(flush.delivery), now)
    machine.handle(Tick(), Moment(10.0, 1_700_000_010.0))
