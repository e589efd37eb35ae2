"""What a consumer makes of each message."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.assembly import SegmentReceipt, SegmentSlice
from ray_reproducer.core.chunk import Chunk, FileVersion, encode
from ray_reproducer.core.commit_metadata import CommittedState
from ray_reproducer.core.errors import IllegalEventError
from ray_reproducer.core.intake import SHARED_SEGMENT_BYTES, Delivery, Flush, Intake
from ray_reproducer.core.ledger import PartitionStart
from ray_reproducer.core.outcome import MAX_RAW_MESSAGE_BYTES, PoisonMessage
from ray_reproducer.core.patience import AT_END

TOPIC_ID = bytes(16)


def version(name: str = "a", n_chunks: int = 1) -> FileVersion:
    return FileVersion("dir", name, "", hashlib.sha512(name.encode()).digest(), n_chunks)


def message(of: FileVersion, index: int = 1, size: int = 10) -> bytes:
    return encode(Chunk(of, index, (index - 1) * size, bytes(64), b"x" * size))


def intake(*partitions: int, regex: str | None = None, number: int = 0) -> Intake:
    return Intake(number, {p: PartitionStart(0) for p in partitions or (0,)}, regex)


def flushed(taken: Intake) -> Flush:
    flush = taken.flush()
    assert flush is not None
    return flush


# ---------------------------------------------------------------- rule 1


def test_rule_1_every_offset_is_accounted_for_once() -> None:
    taken = intake(0, 1)
    taken.message(0, 0, message(version("a", 2)), 5)
    taken.message(0, 3, b"junk", 6)
    taken.message(1, 1, message(version("b")), 7)
    taken.reached(0, 9)
    delivery = flushed(taken).delivery
    assert delivery.ranges == ((0, 0, 9), (1, 0, 2))
    named = [(p, o) for r in delivery.receipts for p, o in zip(r.partitions, r.offsets, strict=True)]
    assert sorted(named) == [(0, 0), (1, 1)]
    assert [(p, o) for p, o, _ in delivery.poison] == [(0, 3)]
    assert (delivery.messages, delivery.size_bytes) == (3, 24)


def test_rule_1_what_was_filtered_out_is_in_the_range_and_nowhere_else() -> None:
    taken = intake(regex=r"dir/keep")
    taken.message(0, 0, message(version("keep.csv")), 0)
    taken.message(0, 1, message(version("drop.csv")), 0)
    delivery = flushed(taken).delivery
    assert delivery.ranges == ((0, 0, 2),)
    assert [receipt.version.filename for receipt in delivery.receipts] == ["keep.csv"]
    assert (delivery.messages, delivery.filtered) == (2, 1)


@pytest.mark.parametrize(
    ("regex", "taken_names"), [(r"dir/a", ["a.csv", "ab.csv"]), (r".*b\.csv$", ["ab.csv"]), (r"a", [])]
)
def test_rule_1_the_filter_matches_the_beginning_of_the_path_without_append(regex: str, taken_names: list[str]) -> None:
    taken = intake(regex=regex)
    for offset, name in enumerate(["a.csv", "ab.csv"]):
        of = FileVersion("dir", name, "_appended", bytes(64), 1)
        taken.message(0, offset, message(of), 0)
    assert [receipt.version.filename for receipt in flushed(taken).delivery.receipts] == taken_names


def test_rule_1_a_delivery_that_contradicts_itself_can_not_be_made() -> None:
    receipt = SegmentReceipt(version(), SegmentSlice(1, 0, 1), (0,), (5,), (1,), 10, 0)
    poison = (0, 5, PoisonMessage("not_a_chunk", "", b"", 0))
    for ranges in [((0, 0, 5),), ((0, 6, 9),), ((1, 0, 9),), ((0, 0, 3), (0, 3, 9)), ((0, 9, 0),), ()]:
        with pytest.raises(IllegalEventError):
            Delivery(ranges=ranges, receipts=(receipt,))
        with pytest.raises(IllegalEventError):
            Delivery(ranges=ranges, poison=(poison,))
    Delivery(ranges=((0, 5, 6),), receipts=(receipt,), poison=(poison,))


# ---------------------------------------------------------------- rule 2


def test_rule_2_offsets_of_a_partition_only_grow() -> None:
    taken = intake(0, 1)
    taken.message(0, 4, message(version("a")), 0)
    for offset in (4, 3, 0):
        with pytest.raises(IllegalEventError):
            taken.message(0, offset, message(version("b")), 0)
    taken.message(1, 0, message(version("c")), 0)
    delivery = flushed(taken).delivery
    assert delivery.ranges == ((0, 0, 5), (1, 0, 1))
    assert len(delivery.receipts) == delivery.messages == 2


def test_rule_2_partitions_of_others_are_refused() -> None:
    taken = intake(0)
    with pytest.raises(IllegalEventError):
        taken.message(7, 0, message(version()), 0)
    with pytest.raises(IllegalEventError):
        taken.reached(7, 3)
    assert taken.flush() is None


def test_rule_2_reaching_what_was_passed_changes_nothing() -> None:
    taken = intake()
    taken.message(0, 4, None, 0)
    taken.reached(0, 3)
    assert flushed(taken).delivery.ranges == ((0, 0, 5),)
    taken.reached(0, 5)
    assert flushed(taken).delivery == Delivery(read_to_ms={0: AT_END})
    assert taken.flush() is None


def test_rule_2_partitions_that_are_new_begin_where_it_is_said() -> None:
    taken = intake()
    taken.add({5: 7})
    taken.message(5, 7, message(version()), 0)
    assert flushed(taken).delivery.ranges == ((5, 7, 8),)
    with pytest.raises(IllegalEventError, match="not new"):
        taken.add({5: 9})


def test_rule_1_what_is_lost_is_in_the_range_and_said() -> None:
    taken = intake(0, 1)
    taken.message(0, 0, message(version()), 0)
    taken.lost(0, 9)
    taken.lost(0, 4)
    taken.message(0, 9, message(version("b")), 0)
    delivery = flushed(taken).delivery
    assert delivery.ranges == ((0, 0, 10),)
    assert delivery.lost == ((0, 1, 9),)


def test_rule_6_a_delivery_says_how_far_in_time_partitions_were_read() -> None:
    taken = intake(0, 1)
    taken.message(0, 0, message(version()), 1_000)
    taken.message(0, 1, message(version("b")), 900)
    taken.reached(1, 0)
    assert flushed(taken).delivery.read_to_ms == {0: 900, 1: AT_END}
    taken.message(1, 0, message(version("c")), 2_000)
    assert flushed(taken).delivery.read_to_ms == {1: 2_000}


# ---------------------------------------------------------------- rule 3

KNOWN, OPEN, SMALL = version("known", 3), version("open", 3), version("small", 1)
RESTORED = PartitionStart(10, CommittedState(TOPIC_ID, frozenset([OPEN.id]), ((12, 14),), 20))


def test_rule_3_what_is_done_is_passed_over_and_its_version_handed_on() -> None:
    taken = Intake(0, {0: RESTORED})
    taken.message(0, 10, message(OPEN, 1), 0)
    taken.message(0, 11, message(KNOWN, 1), 0)
    taken.message(0, 12, message(version("in a run")), 0)
    taken.message(0, 18, message(SMALL), 0)
    taken.message(0, 19, message(OPEN, 2), 0)
    delivery = flushed(taken).delivery
    assert delivery.done_before == {SMALL.id}  # of KNOWN only a chunk is known to be done
    assert sorted(o for receipt in delivery.receipts for o in receipt.offsets) == [10, 12, 19]


def test_rule_3_from_the_end_of_what_is_described_everything_is_taken() -> None:
    taken = Intake(0, {0: RESTORED})
    taken.message(0, 19, message(KNOWN, 1), 0)
    taken.message(0, 20, message(KNOWN, 2), 0)
    delivery = flushed(taken).delivery
    assert [receipt.offsets for receipt in delivery.receipts] == [(20,)]


def test_rule_3_poison_that_is_done_is_passed_over() -> None:
    taken = Intake(0, {0: RESTORED})
    for offset in (11, 13, 20):
        taken.message(0, offset, b"junk", 0)
    delivery = flushed(taken).delivery
    assert [offset for _, offset, _ in delivery.poison] == [13, 20]


def test_rule_3_each_partition_has_its_own_past() -> None:
    taken = Intake(0, {0: RESTORED, 1: PartitionStart(10)})
    taken.message(0, 11, message(KNOWN, 1), 0)
    taken.message(1, 11, message(KNOWN, 2), 0)
    assert [receipt.partitions for receipt in flushed(taken).delivery.receipts] == [(1,)]


# ---------------------------------------------------------------- rule 4


def test_rule_4_a_message_that_is_no_chunk_is_poison_with_reason_and_beginning() -> None:
    taken = intake()
    junk = b"\xc1" * (MAX_RAW_MESSAGE_BYTES + 5)
    for offset, value in enumerate([None, junk, message(version()).replace(b"dir", b"../")]):
        taken.message(0, offset, value, 0)
    tombstone, noise, unsafe = (poison for _, _, poison in flushed(taken).delivery.poison)
    assert (tombstone.reason, tombstone.raw, tombstone.size_bytes) == ("tombstone", b"", 0)
    assert (noise.reason, len(noise.raw), noise.size_bytes) == ("not_a_chunk", MAX_RAW_MESSAGE_BYTES, len(junk))
    assert unsafe.reason == "unsafe_path"
    assert all(poison.error for poison in (tombstone, noise, unsafe))


@given(st.lists(st.one_of(st.none(), st.binary(max_size=40), st.just(message(version()))), max_size=20))
def test_rule_4_no_message_stops_anything(values: list[bytes | None]) -> None:
    taken = intake()
    for offset, value in enumerate(values):
        taken.message(0, offset, value, 0)
    flush = taken.flush()
    assert (flush is None) == (not values)
    if flush:
        assert len(flush.delivery.poison) + len(flush.delivery.receipts) == len(values)


# ---------------------------------------------------------------- rule 5


def test_rule_5_a_flush_carries_what_was_taken_since_the_last_one() -> None:
    taken = intake()
    assert taken.flush() is None
    taken.message(0, 0, message(version("a")), 0)
    assert taken.buffered_bytes == 10
    first = flushed(taken)
    assert taken.buffered_bytes == 0
    assert taken.flush() is None
    taken.message(0, 1, message(version("b")), 0)
    second = flushed(taken)
    assert (first.delivery.ranges, second.delivery.ranges) == (((0, 0, 1),), ((0, 1, 2),))
    assert [r.version.filename for r in second.delivery.receipts] == ["b"]
    assert not first.segments.keys() & second.segments.keys()


def test_rule_5_gaps_alone_are_worth_a_flush() -> None:
    taken = intake()
    taken.reached(0, 7)
    flush = flushed(taken)
    assert (flush.delivery.ranges, flush.segments) == (((0, 0, 7),), {})


# ---------------------------------------------------------------- how segments are made


def test_files_of_several_chunks_have_segments_of_their_own_sorted_by_place() -> None:
    taken = intake(0, 1)
    big = version("big", 4)
    for offset, index in enumerate([3, 1]):
        taken.message(0, offset, message(big, index), 100 + offset)
    taken.message(1, 0, message(big, 2), 50)
    taken.message(1, 1, message(version("other", 2), 1), 0)
    flush = flushed(taken)
    of_big, of_other = flush.delivery.receipts
    assert of_big.indices == (1, 2, 3)
    assert (of_big.partitions, of_big.offsets) == ((0, 1, 0), (1, 0, 0))
    assert (of_big.size_bytes, of_big.timestamp_ms) == (30, 101)
    segment = flush.segments[of_big.slice.segment]
    assert [entry.chunk for entry in segment.table.read(0, 3)[1]] == [1, 2, 3]
    assert of_other.slice.segment != of_big.slice.segment


def test_an_empty_file_may_be_the_first_one() -> None:
    taken = intake()
    taken.message(0, 0, message(version("empty"), size=0), 0)
    taken.message(0, 1, message(version("full")), 0)
    flush = flushed(taken)
    assert [receipt.size_bytes for receipt in flush.delivery.receipts] == [0, 10]
    assert len(flush.segments) == 1


def test_one_chunk_files_share_a_segment_up_to_its_limit() -> None:
    taken = intake()
    size = SHARED_SEGMENT_BYTES // 4
    for offset in range(9):
        taken.message(0, offset, message(version(f"f{offset}"), size=size), 0)
    taken.message(0, 9, message(version("alone"), size=SHARED_SEGMENT_BYTES + 1), 0)
    flush = flushed(taken)
    assert [receipt.slice.first for receipt in flush.delivery.receipts] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 0]
    assert max(len(segment.table) for segment in flush.segments.values()) == 4
    assert all(receipt.slice.n_entries == 1 for receipt in flush.delivery.receipts)


def test_segment_ids_of_consumers_never_meet() -> None:
    ids: list[int] = []
    for number in range(3):
        taken = intake(number=number)
        for offset in range(5):
            taken.message(0, offset, message(version(f"f{offset}")), 0)
            ids += flushed(taken).segments
    assert len(set(ids)) == 15


# ---------------------------------------------------------------- rule 7


def test_rule_7_where_some_versions_are_wanted_all_else_is_filtered_out() -> None:
    wanted = version("a", 2)
    taken = Intake(0, {0: PartitionStart(0)}, only={wanted.id})
    for offset, value in enumerate([message(wanted), message(version("b")), b"junk", None, message(wanted, 2)]):
        taken.message(0, offset, value, 0)
    delivery = flushed(taken).delivery
    assert [(receipt.version, receipt.offsets) for receipt in delivery.receipts] == [(wanted, (0, 4))]
    assert (delivery.poison, delivery.filtered, delivery.messages) == ((), 3, 5)
    assert delivery.ranges == ((0, 0, 5),)
