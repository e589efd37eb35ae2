"""What a consumer tells arrives at the committer as it was told."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.assembly import SegmentReceipt, SegmentSlice
from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.delivery_encoding import decode, encode
from ray_reproducer.core.errors import IllegalEventError
from ray_reproducer.core.intake import Delivery
from ray_reproducer.core.outcome import PoisonMessage
from ray_reproducer.core.patience import AT_END

NUMBERS = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters(codec=None), max_size=20)  # half characters, too
VERSIONS = st.builds(
    FileVersion,
    st.text(max_size=20),
    st.text(max_size=20),
    st.text(max_size=5),
    st.binary(min_size=64, max_size=64),
    st.integers(1, 2**31 - 1),
    st.none() | st.floats(0, 2e9),
)
POISON = st.builds(PoisonMessage, TEXT, TEXT, st.binary(max_size=20), NUMBERS)


@st.composite
def receipts(draw: st.DrawFn) -> SegmentReceipt:
    columns = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99), st.integers(1, 2**31 - 1)), min_size=1))
    partitions, offsets, indices = zip(*columns, strict=True)
    place = SegmentSlice(draw(NUMBERS), draw(st.integers(0, 1000)), len(columns))
    sizes = draw(st.tuples(NUMBERS, st.integers(-1, 2**63 - 1), NUMBERS))
    return SegmentReceipt(draw(VERSIONS), place, partitions, offsets, indices, *sizes)


DELIVERIES = st.builds(
    Delivery,
    ranges=st.just(tuple((partition, 0, 100) for partition in range(4))),
    receipts=st.lists(receipts(), max_size=5).map(tuple),
    poison=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99), POISON), max_size=3).map(tuple),
    done_before=st.frozensets(st.binary(min_size=12, max_size=12), max_size=3),
    messages=NUMBERS,
    size_bytes=NUMBERS,
    filtered=NUMBERS,
    lost=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=3).map(tuple),
    read_to_ms=st.dictionaries(st.integers(0, 3), st.sampled_from([-1, 0, 1_700_000_000_000, AT_END])),
)


@given(DELIVERIES)
def test_rule_1_what_is_decoded_is_what_was_encoded(delivery: Delivery) -> None:
    ids = [receipt.version.id for receipt in delivery.receipts]
    decoded = decode(encode(delivery))
    for field in dataclasses.fields(Delivery):
        assert getattr(decoded, field.name) == getattr(delivery, field.name), field.name
    versions = [receipt.version for receipt in decoded.receipts]
    # Equal versions may differ in their time; the ids are there, and need not be made.
    assert [version.fields for version in versions] == [receipt.version.fields for receipt in delivery.receipts]
    assert [vars(version).get("id") for version in versions] == ids
    assert all(isinstance(receipt.slice, SegmentSlice) for receipt in decoded.receipts)


def test_a_delivery_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(IllegalEventError):
        decode(encode(Delivery()).replace(b"\x90", b"\x91\x93\x00\x05\x03", 1))  # a range that ends before it begins
