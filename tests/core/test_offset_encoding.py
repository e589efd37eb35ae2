"""Rules of ``ray_reproducer.core.offset_encoding``."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_reproducer.core.errors import CommitMetadataError
from ray_reproducer.core.offset_encoding import (
    MAX_INFLATED_BYTES,
    MAX_RUNS,
    MAX_VARINT,
    Run,
    decode_runs,
    encode_runs,
    read_varint,
    write_varint,
)

RICE, DEFLATED = 0, 1
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Machines that run tests do other things too."""
NUMBERS = st.one_of(st.integers(0, 3), st.integers(0, 300), st.integers(0, 2**40))


def runs_of(offsets: set[int]) -> list[Run]:
    after = {offset + 1 for offset in offsets}
    return list(zip(sorted(offsets - after), sorted(after - offsets), strict=True))


def random_offsets(count: int, density: float, seed: int = 0) -> set[int]:
    return set(random.Random(seed).sample(range(count), round(count * density)))


def varint(number: int) -> bytes:
    written = bytearray()
    write_varint(number, written)
    return bytes(written)


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


@UNHURRIED
@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=200))
def test_rule_1_runs_come_back_the_same(gaps_and_lengths: list[tuple[int, int]]) -> None:
    runs: list[Run] = []
    stop = -1
    for gap, more in gaps_and_lengths:
        runs.append((stop + 1 + gap, stop + 2 + gap + more))
        stop = runs[-1][1]
    encoded = encode_runs(runs, 10_000)
    assert encoded is not None
    assert decode_runs(*encoded, runs[-1][1] if runs else 0) == tuple(runs)


@pytest.mark.parametrize(
    ("offsets", "form", "most_bytes"),
    [
        (random_offsets(60_000, 0.01), RICE, 640),
        (random_offsets(40_000, 0.1), RICE, 2_480),
        (random_offsets(24_000, 0.3), RICE, 2_780),
        (random_offsets(24_000, 0.5), RICE, 3_060),
        (set(range(0, 30_000, 2)), DEFLATED, 80),
        ({*random_offsets(3_000, 0.5), *range(10**9, 10**12, 10**10)}, DEFLATED, 900),
    ],
)
def test_rule_2_each_form_wins_somewhere(offsets: set[int], form: int, most_bytes: int) -> None:
    runs = runs_of(offsets)
    encoded = encode_runs(runs, 10_000)
    assert encoded is not None
    assert encoded[0] == form
    assert len(encoded[1]) <= most_bytes
    assert decode_runs(*encoded, max(offsets) + 1) == tuple(runs)


@UNHURRIED
@given(st.sets(st.integers(0, 500)))
def test_rule_2_what_does_not_fit_is_not_returned(offsets: set[int]) -> None:
    runs = runs_of(offsets)
    encoded = encode_runs(runs, 1_000)
    assert encoded is not None
    size = len(encoded[1])
    assert encode_runs(runs, size) == encoded
    smaller = encode_runs(runs, size - 1)
    # The other form is only tried if the first one is not small already.
    assert smaller is None or (len(smaller[1]) < size <= 64 and smaller[0] == DEFLATED)
    assert encode_runs(runs, -5) is None


def test_rule_3_too_many_runs_are_not_written() -> None:
    runs = [(offset, offset + 1) for offset in range(0, 2 * MAX_RUNS + 2, 2)]
    assert encode_runs(runs[:-1], 3_000) is not None
    assert encode_runs(runs, 3_000) is None


def test_rule_3_what_is_written_never_inflates_to_more_than_is_read() -> None:
    step = MAX_VARINT // MAX_RUNS
    runs = [(index * step, index * step + step // 2) for index in range(MAX_RUNS)]
    encoded = encode_runs(runs, MAX_INFLATED_BYTES)
    assert encoded is not None
    assert decode_runs(*encoded, MAX_VARINT) == tuple(runs)


@pytest.mark.parametrize("number", [0, 127, 128, 300, 2**32, MAX_VARINT])
def test_varints_come_back_the_same(number: int) -> None:
    assert read_varint(b"x" + varint(number), 1) == (number, 1 + len(varint(number)))


HOSTILE = {
    "no such form": (2, b""),
    "nothing": (RICE, b""),
    "no parameters": (RICE, b"\x00\x00"),
    "a parameter of 255": (RICE, b"\x01\x00\xff\x00\x00\x80"),
    "more runs than bits": (RICE, varint(MAX_VARINT) + b"\x00\x00\x00\x00\xff"),
    "more longer runs than runs": (RICE, varint(1) + varint(2) + b"\x00\x00\x00\xff"),
    "no end of a gap": (RICE, varint(1) + varint(0) + b"\x00\x00\x00\x00"),
    "no low bits of a gap": (RICE, varint(1) + varint(0) + b"\x3f\x00\x00\x01"),
    "a length for a run that is none": (RICE, varint(1) + varint(1) + b"\x00\x00\x00\xb0"),
    "a set bit behind the runs": (RICE, varint(1) + varint(0) + b"\x00\x00\x00\x81"),
    "a byte behind the runs": (RICE, varint(1) + varint(0) + b"\x00\x00\x00\x80\x00"),
    "a run behind the end": (RICE, varint(1) + varint(0) + b"\x08\x00\x00\xff\xff"),
    "an endless varint": (RICE, b"\xff" * 3_000),
    "not deflated": (DEFLATED, b"\xff\xff\xff"),
    "cut off": (DEFLATED, deflated(varint(3) + bytes(6))[:-1]),
    "followed by something": (DEFLATED, deflated(varint(0)) + b"x"),
    "nothing, deflated": (DEFLATED, deflated(b"")),
    "more runs than bytes": (DEFLATED, deflated(varint(MAX_VARINT) + b"\x00\x00")),
    "bytes behind the runs": (DEFLATED, deflated(varint(1) + b"\x00\x00\x00")),
    "huge numbers": (DEFLATED, deflated(varint(2) + varint(MAX_VARINT) * 4)),
    "an endless varint, deflated": (DEFLATED, deflated(b"\xff" * 100_000)),
    "a bomb": (DEFLATED, deflated(bytes(3_000_000))),
    "a bomb that says so": (DEFLATED, deflated(varint(50_000_000) + bytes(3_000_000))),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_rule_4_hostile_bytes_are_refused_without_allocating_for_them(case: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CommitMetadataError, match="damaged"):
            decode_runs(*HOSTILE[case], 1_000)
        assert tracemalloc.get_traced_memory()[1] < 16 * MAX_INFLATED_BYTES
    finally:
        tracemalloc.stop()


@UNHURRIED
@given(form=st.integers(0, 1), data=st.binary(max_size=200), length=st.integers(0, 2_000))
def test_rule_4_random_bytes_are_refused_or_read_as_valid_runs(form: int, data: bytes, length: int) -> None:
    try:
        runs = decode_runs(form, deflated(data) if form == DEFLATED else data, length)
    except CommitMetadataError:
        return
    edges = [edge for run in runs for edge in run]
    assert all(one < other for one, other in pairwise(edges))
    assert not edges or (edges[0] >= 0 and edges[-1] <= length)
