"""Which file versions are whole."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.assembly import Assembly, SegmentReceipt, SegmentSlice
from ray_reproducer.core.chunk import FileVersion

NOW_S = 0.0


def version(name: str = "a", n_chunks: int = 3, content: int = 0) -> FileVersion:
    return FileVersion("", name, "", bytes([content]) * 64, n_chunks)


def receipt(
    of: FileVersion, *indices: int, segment: int = 1, first: int = 0, at_ms: int = 0, oldest_ms: int = 0
) -> SegmentReceipt:
    count = len(indices)
    return SegmentReceipt(
        of, SegmentSlice(segment, first, count), (0,) * count, tuple(indices), indices, 10 * count, at_ms, oldest_ms
    )


def test_rule_1_a_version_is_whole_when_each_chunk_is_held_once() -> None:
    assembly = Assembly()
    assert not assembly.add(receipt(version(), 3, segment=1), NOW_S)
    assert not assembly.add(receipt(version(), 1, segment=2), NOW_S)
    assert version().id in assembly
    assert assembly.add(receipt(version(), 2, segment=3), NOW_S)


def test_rule_1_one_receipt_may_make_a_version_whole() -> None:
    assert Assembly().add(receipt(version(n_chunks=1), 1), NOW_S)
    assert Assembly().add(receipt(version(), 1, 2, 3), NOW_S)


@given(seed=st.integers(0, 2**32), counts=st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_rule_1_chunks_come_in_any_order_interleaved(seed: int, counts: list[int]) -> None:
    chunks = [(version(f"f{n}", count), index) for n, count in enumerate(counts) for index in range(1, count + 1)]
    Random(seed).shuffle(chunks)
    assembly, missing = Assembly(), {n: set(range(1, count + 1)) for n, count in enumerate(counts)}
    for segment, (of, index) in enumerate(chunks):
        number = int(of.filename[1:])
        missing[number].discard(index)
        assert assembly.add(receipt(of, index, segment=segment), NOW_S) == (not missing[number])
    assert len(assembly) == len(counts)
    assert all(opened.whole for opened in assembly)


@pytest.mark.parametrize("other", [version(content=1), version(n_chunks=2), version("b")])
def test_rule_2_chunks_of_two_versions_never_mix(other: FileVersion) -> None:
    assembly = Assembly()
    assembly.add(receipt(version(), 1, 2, segment=1), NOW_S)
    assert not assembly.add(receipt(other, 1, segment=2), NOW_S)
    assert assembly.get(version().id).held == {1, 2}
    assert assembly.get(other.id).held == {1}


def test_rule_3_a_repeated_chunk_adds_nothing_and_its_data_is_not_used() -> None:
    assembly = Assembly()
    assembly.add(receipt(version(), 1, 2, segment=1, at_ms=5), NOW_S)
    assert not assembly.add(receipt(version(), 2, segment=2, at_ms=9), NOW_S)
    held = assembly.get(version().id)
    assert (held.slices, held.size_bytes) == ([SegmentSlice(1, 0, 2)], 20)
    assert held.newest_ms == 9
    assert assembly.unused([1, 2]) == (2,)


def test_rule_3_a_receipt_that_adds_one_chunk_is_held_with_its_repeats() -> None:
    assembly = Assembly()
    assembly.add(receipt(version(), 1, segment=1), NOW_S)
    assert assembly.add(receipt(version(), 1, 2, 3, segment=2), NOW_S)
    assert assembly.get(version().id).slices == [SegmentSlice(1, 0, 1), SegmentSlice(2, 0, 3)]


def test_rule_4_references_stand_in_the_order_of_arrival() -> None:
    assembly = Assembly()
    for segment, index in [(9, 3), (4, 1), (7, 2)]:
        assembly.add(receipt(version(), index, segment=segment), NOW_S)
    held = assembly.take(version().id)
    assert [piece.segment for piece in held.slices] == [9, 4, 7]
    assert held.segments() == {4, 7, 9}
    assert version().id not in assembly
    with pytest.raises(KeyError):
        assembly.take(version().id)


def test_rule_6_a_segment_is_used_as_long_as_an_open_version_holds_a_chunk_in_it() -> None:
    assembly = Assembly()
    files = [version(f"f{n}", 1) for n in range(3)]
    for first, of in enumerate(files):
        assembly.add(receipt(of, 1, segment=1, first=first), NOW_S)
    for of in files:
        assert assembly.unused([1, 2]) == (2,)
        assembly.take(of.id)
    assert assembly.unused([1, 2]) == (1, 2)


def dated(mtime: float | None, content: int, name: str = "a") -> FileVersion:
    return FileVersion("", name, "", bytes([content]) * 64, 3, mtime)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_rule_5_a_version_is_superseded_by_a_newer_one_of_its_path(order: tuple[int, int, int]) -> None:
    assembly = Assembly()
    for mtime in order:
        assembly.add(receipt(dated(float(mtime), mtime), 1), NOW_S)
    assembly.add(receipt(dated(9.0, 9, "another"), 1), NOW_S)
    superseded = {m: assembly.get(dated(float(m), m).id).superseded for m in order}
    assert superseded == {1: True, 2: True, 3: False}


def test_rule_5_unknown_times_say_nothing() -> None:
    assembly = Assembly()
    for mtime, content in ((None, 1), (5.0, 2), (5.0, 3), (None, 4)):
        assembly.add(receipt(dated(mtime, content), 1), NOW_S)
    assert not any(version.superseded for version in assembly)


def test_rule_5_versions_that_are_gone_are_forgotten() -> None:
    assembly = Assembly()
    older, newer = dated(1.0, 1), dated(2.0, 2)
    assembly.add(receipt(newer, 1), NOW_S)
    assembly.take(newer.id)
    assembly.add(receipt(older, 1), NOW_S)
    assert not assembly.get(older.id).superseded


def test_rule_5_one_that_is_gone_is_not_superseded_any_more_and_others_of_its_path_are() -> None:
    assembly = Assembly()
    oldest, gone, newest = dated(1.0, 1), dated(2.0, 2), dated(3.0, 3)
    assembly.add(receipt(oldest, 1), NOW_S)
    assembly.add(receipt(gone, 1), NOW_S)
    assembly.take(gone.id)
    assembly.add(receipt(newest, 1), NOW_S)
    assert [(v.version, v.superseded) for v in assembly] == [(oldest, True), (newest, False)]


def test_the_size_is_that_of_all_that_is_held() -> None:
    assembly = Assembly()
    assembly.add(receipt(version(), 1, segment=1), NOW_S)
    assembly.add(receipt(version(), 2, 3, segment=2), NOW_S)
    assert assembly.get(version().id).size_bytes == 30


@pytest.mark.parametrize("times", [(500, 300, 0, 400), (0, 300, 500), (300, 0)])
def test_the_oldest_timestamp_is_that_of_the_oldest_chunk_which_has_one(times: tuple[int, ...]) -> None:
    assembly = Assembly()
    for index, oldest_ms in enumerate(times, start=1):
        assembly.add(receipt(version(n_chunks=9), index, oldest_ms=oldest_ms), NOW_S)
    assert assembly.get(version(n_chunks=9).id).oldest_ms == 300


def test_when_a_chunk_came_last_is_the_time_of_its_receipt_also_if_it_repeats_one() -> None:
    assembly = Assembly()
    for index, now_s in ((1, 3.0), (2, 5.0), (2, 8.0)):
        assembly.add(receipt(version(), index), now_s)
        assert assembly.get(version().id).touched_s == now_s


def test_what_is_missing_is_told_in_runs() -> None:
    assembly = Assembly()
    assembly.add(receipt(version(n_chunks=9), 2, 5, 6), NOW_S)
    assert assembly.get(version(n_chunks=9).id).missing() == [(1, 1), (3, 4), (7, 9)]
    assert assembly.add(receipt(version(n_chunks=9), 1, 3, 4, 7, 8, 9), NOW_S)
    assert assembly.get(version(n_chunks=9).id).missing() == []
