"""How chunks are packed into what travels."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.chunk import Chunk, FileVersion, encode
from ray_reproducer.core.intake import Intake
from ray_reproducer.core.ledger import PartitionStart
from ray_reproducer.core.segment import JOINED_BUFFER_BYTES, OWN_BUFFER_BYTES, Entry, Segment, pack

VERSION = FileVersion("", "a", "", bytes(64), 1_000)


def chunk(index: int, size: int, offset: int = 0) -> Chunk:
    return Chunk(VERSION, index, offset, index.to_bytes(64, "big"), bytes([index % 256]) * size)


def data(segment: Segment, entry: Entry) -> bytes:
    return segment.buffers[entry.buffer][entry.start : entry.start + entry.size]


def entries(segment: Segment) -> list[Entry]:
    return segment.table.read(0, len(segment.table))[1]


def test_rule_1_chunks_of_a_big_file_share_a_segment_with_nobody() -> None:
    intake = Intake(0, {0: PartitionStart(0)})
    files = [FileVersion("", name, "", name.encode() * 64, count) for name, count in [("a", 1), ("b", 2), ("c", 1)]]
    for offset, of in enumerate([*files, files[1]]):
        intake.message(0, offset, encode(Chunk(of, 1 + offset // 3, 0, bytes(64), b"x")), 0)
    flush = intake.flush()
    assert flush is not None
    segment_of = {receipt.version.filename: receipt.slice.segment for receipt in flush.delivery.receipts}
    assert segment_of["a"] == segment_of["c"] != segment_of["b"]
    assert {len(segment.table) for segment in flush.segments.values()} == {2}


def test_rule_2_the_table_tells_everything_about_a_chunk() -> None:
    segment = pack([chunk(7, 5, offset=100), chunk(9, 3, offset=200)])
    assert entries(segment) == [
        Entry(7, 100, (7).to_bytes(64, "big"), 0, 0, 5),
        Entry(9, 200, (9).to_bytes(64, "big"), 0, 5, 3),
    ]
    assert segment.size_bytes == 8


def test_rule_3_small_chunks_are_joined_in_their_order() -> None:
    segment = pack([chunk(index, 10) for index in range(1, 5)])
    assert segment.buffers == [b"".join(bytes([index]) * 10 for index in range(1, 5))]


def test_rule_3_large_chunks_are_buffers_of_their_own_and_not_copied() -> None:
    chunks = [chunk(1, OWN_BUFFER_BYTES), chunk(2, OWN_BUFFER_BYTES + 1)]
    segment = pack(chunks)
    assert [buffer is c.data for buffer, c in zip(segment.buffers, chunks, strict=True)] == [True, True]


def test_rule_3_joined_buffers_stay_below_their_limit() -> None:
    size = OWN_BUFFER_BYTES - 1
    segment = pack([chunk(index, size) for index in range(40)])
    assert max(map(len, segment.buffers)) <= JOINED_BUFFER_BYTES
    assert len(segment.buffers) == -(-40 // (JOINED_BUFFER_BYTES // size))


def test_rule_3_large_and_small_chunks_keep_their_order() -> None:
    sizes = [10, OWN_BUFFER_BYTES, 10, 10, OWN_BUFFER_BYTES]
    segment = pack([chunk(index, size) for index, size in enumerate(sizes)])
    assert [len(buffer) for buffer in segment.buffers] == [10, OWN_BUFFER_BYTES, 20, OWN_BUFFER_BYTES]


def test_rule_2_each_file_is_told_with_its_modification_time() -> None:
    files = [FileVersion("dir", f"{n}.csv", "_a", bytes([n]) * 64, 1, mtime) for n, mtime in enumerate([1.5, None])]
    table = pack([Chunk(of, 1, 0, bytes(64), of.name.encode()) for of in files]).table
    told = [table.read(number, 1)[0] for number in range(2)]
    assert [version.fields for version in told] == [of.fields for of in files]


def test_rule_4_each_row_is_read_by_itself() -> None:
    files = [FileVersion("", f"{n}.csv", "", bytes([n]) * 64, 1) for n in range(50)]
    table = pack([Chunk(of, 1, 0, of.file_hash, of.name.encode() * 99) for of in files]).table
    for number in reversed(range(50)):
        version, (entry,) = table.read(number, 1)
        assert version == files[number]
        assert entry.chunk_hash == files[number].file_hash
    of_many = pack([chunk(index, 3) for index in range(1, 9)]).table
    version, read = of_many.read(0, 8)
    assert version == VERSION
    assert [entry.chunk for entry in read] == list(range(1, 9))


def test_chunks_without_data_have_their_entry() -> None:
    segment = pack([chunk(1, 0), chunk(2, 3), chunk(3, 0)])
    assert [data(segment, entry) for entry in entries(segment)] == [b"", b"\x02\x02\x02", b""]


def test_nothing_packed_is_an_empty_segment() -> None:
    segment = pack([])
    assert (len(segment.table), segment.buffers) == (0, [])


@given(st.lists(st.sampled_from([0, 1, 100, OWN_BUFFER_BYTES - 1, OWN_BUFFER_BYTES, 200_000]), max_size=30))
def test_every_chunk_is_found_where_its_entry_says(sizes: list[int]) -> None:
    chunks = [chunk(index, size, offset=index) for index, size in enumerate(sizes)]
    segment = pack(iter(chunks))
    assert [data(segment, entry) for entry in (entries(segment) if sizes else [])] == [c.data for c in chunks]
    assert segment.size_bytes == sum(sizes)
