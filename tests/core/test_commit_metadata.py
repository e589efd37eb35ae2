"""Rules of ``ray_reproducer.core.commit_metadata``."""

from __future__ import annotations

import base64
import hashlib
import random
import zlib
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ray_reproducer.core.commit_metadata import LIMIT_CHARS, CommittedState, decode, encode
from ray_reproducer.core.errors import CommitMetadataError, MetadataTooLargeError

TOPIC_ID = bytes(range(16))
DONE = b"a done file."
Undone = dict[bytes, list[int]]
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Machines that run tests do other things too."""


def version_id(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=12).digest()


@dataclass(frozen=True)
class Layout:
    """Who owns the offsets from the position on: the number of an open version, or 0 for done ones."""

    position: int
    owners: tuple[int, ...]
    end: int

    def undone(self) -> Undone:
        undone: Undone = {}
        for offset, owner in enumerate(self.owners, self.position):
            if owner:
                undone.setdefault(version_id(owner), []).append(offset)
        return undone

    def encode(self, limit_chars: int = LIMIT_CHARS) -> str:
        return encode(TOPIC_ID, self.position, self.undone(), self.end, limit_chars)

    def assert_described_by(self, state: CommittedState) -> None:
        assert state.topic_id == TOPIC_ID
        assert state.end == self.end
        for offset, owner in enumerate(self.owners, self.position):
            done = state.is_done(offset, version_id(owner) if owner else DONE)
            assert done == (owner == 0 and offset < self.end), (offset, owner)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Stretches of offsets, each with its own mix of done files, small files and large ones."""
    rng = draw(st.randoms(use_true_random=False))
    owners: list[int] = []
    for _ in range(draw(st.integers(0, 4))):
        n_large = draw(st.integers(0, 12))
        shares = [draw(st.integers(0, 9)) for _ in range(3)]
        for _ in range(draw(st.integers(1, 150))):
            kind = rng.choices(("done", "small", "large"), shares)[0] if any(shares) else "done"
            small = 1_000 + len(owners)
            owners.append({"done": 0, "small": small, "large": rng.randint(1, n_large) if n_large else small}[kind])
    position = draw(st.one_of(st.integers(0, 300), st.integers(0, 2**62)))
    return Layout(position, tuple(owners), position + draw(st.integers(0, len(owners))))


def random_layout(seed: int, *, position: int = 7) -> Layout:
    rng = random.Random(seed)
    owners = [rng.choice((0, 0, 0, 1, 2, 3, 1_000 + offset)) for offset in range(400)]
    return Layout(position, (1, *owners), position + 390)


def forge(payload: bytes, position: int = 0, version: int = 1) -> str:
    """Text whose checksum is right, whatever it says."""
    checksum = zlib.crc32(position.to_bytes(8, "big") + bytes((version,)) + payload).to_bytes(4, "big")
    return base64.b64encode(b"\x45\xac\x91" + bytes((version,)) + checksum + payload).rstrip(b"=").decode()


def payload_of(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))[8:]


# ------------------------------------------------------------------------------------------ rules 1, 2


@UNHURRIED
@given(layouts(), st.one_of(st.just(LIMIT_CHARS), st.integers(60, 400)))
@example(Layout(0, (), 0), LIMIT_CHARS)
@example(Layout(5, (0,) * 5, 10), LIMIT_CHARS)
def test_rules_1_and_2_what_is_read_describes_the_same_done_offsets(layout: Layout, limit_chars: int) -> None:
    try:
        text = layout.encode(limit_chars)
    except MetadataTooLargeError:
        assert limit_chars < LIMIT_CHARS
        return
    assert len(text) <= limit_chars
    assert text.isascii()
    assert text.isprintable()
    layout.assert_described_by(decode(text, layout.position))


def test_rule_1_offsets_from_the_end_on_are_not_done() -> None:
    state = decode(encode(TOPIC_ID, 10, {version_id(1): [10, 12]}, 14), 10)
    assert [state.is_done(offset, DONE) for offset in range(10, 16)] == [False, True, False, True, False, False]


def test_rule_1_nothing_above_the_position_takes_few_characters() -> None:
    text = encode(TOPIC_ID, 10, {}, 10)
    assert len(text) <= 44
    assert decode(text, 10) == CommittedState(TOPIC_ID, frozenset(), (), 10)


def test_rule_2_versions_with_many_runs_are_listed_and_others_are_not() -> None:
    large, small, block = version_id(1), version_id(2), version_id(3)
    undone = {large: list(range(0, 10_000, 2)), small: [1, 55], block: list(range(20_000, 25_000))}
    state = decode(encode(TOPIC_ID, 0, undone, 30_000), 0)
    assert state.open_versions == {large}
    assert state.undone == ((1, 2), (55, 56), (20_000, 25_000))


# --------------------------------------------------------------------------------------------- rule 3


@UNHURRIED
@given(layouts(), st.randoms(use_true_random=False), st.integers(60, LIMIT_CHARS))
def test_rule_3_neither_order_nor_offsets_above_the_end_change_the_text(
    layout: Layout, rng: random.Random, limit_chars: int
) -> None:
    items = [(v, [offset for offset in offsets if offset < layout.end]) for v, offsets in layout.undone().items()]
    rng.shuffle(items)
    try:
        text = layout.encode(limit_chars)
    except MetadataTooLargeError:
        with pytest.raises(MetadataTooLargeError):
            encode(TOPIC_ID, layout.position, dict(items), layout.end, limit_chars)
    else:
        assert encode(TOPIC_ID, layout.position, dict(items), layout.end, limit_chars) == text


# ----------------------------------------------------------------------------------------- rules 4, 5


def test_rule_4_a_stretch_where_nothing_is_done_is_one_run_however_many_versions_share_it() -> None:
    rng = random.Random(4)
    layout = Layout(0, (*(rng.randint(1, 1_000) for _ in range(20_000)), 0), 20_001)
    text = layout.encode()
    assert len(text) < 60
    layout.assert_described_by(decode(text, 0))


def test_rule_4_runs_go_on_through_offsets_of_listed_versions() -> None:
    rng = random.Random(4)
    # Below: large files among done ones. Above: the same large files among small ones, none done but the last.
    below = [rng.choice((0, 0, 0, rng.randint(1, 200))) for _ in range(60_000)]
    above = [rng.choice((1_000 + offset, rng.randint(1, 200))) for offset in range(10_000)]
    layout = Layout(3, (1, *below, *above, 0), 3 + 70_002)
    text = layout.encode()
    state = decode(text, 3)
    assert len(state.open_versions) == 200
    assert len(state.undone) < 10
    layout.assert_described_by(state)


def test_rule_4_only_the_versions_with_most_runs_are_listed_if_there_is_no_room_for_all() -> None:
    rng = random.Random(4)
    owners = [rng.choice((0, rng.randint(1, 100))) for _ in range(20_000)]
    for number in range(500):  # in one place each, ten chunks among done ones
        owners += [0, 1_000 + number] * 10
    layout = Layout(0, (1, *owners, 0), len(owners) + 2)
    state = decode(layout.encode(), 0)
    assert state.open_versions >= {version_id(number) for number in range(1, 101)}
    layout.assert_described_by(state)


@pytest.mark.parametrize("limit_chars", [-1, 0, 1, 30, 36])
def test_rule_5_nothing_fits_into_no_room(limit_chars: int) -> None:
    with pytest.raises(MetadataTooLargeError):
        encode(TOPIC_ID, 5, {version_id(1): [5]}, 7, limit_chars)


def test_rule_5_what_does_not_fit_is_an_error_that_says_where() -> None:
    rng = random.Random(5)
    undone = {version_id(offset): [offset] for offset in sorted(rng.sample(range(100, 900_000), 9_000))}
    with pytest.raises(MetadataTooLargeError, match=r"offset 100 to 900000, with 9000 open .* 4095 characters"):
        encode(TOPIC_ID, 100, undone, 900_000)


@UNHURRIED
@given(st.integers(0, 20))
def test_rule_5_the_limit_is_kept_to_the_character(seed: int) -> None:
    layout = random_layout(seed)
    size = len(layout.encode())
    assert len(layout.encode(size)) == size
    with pytest.raises(MetadataTooLargeError):
        # One byte less; not one character, because three of four lengths are lengths of base64.
        layout.encode(size - 2)


@pytest.mark.parametrize(
    ("topic_id", "position", "undone", "end"),
    [
        (b"short", 0, {}, 0),
        (TOPIC_ID, 5, {}, 4),
        (TOPIC_ID, -1, {}, 4),
        (TOPIC_ID, 0, {}, 2**63),
        (TOPIC_ID, 5, {version_id(1): [4, 6]}, 8),
        (TOPIC_ID, 0, {b"short": list(range(0, 40, 2))}, 80),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    topic_id: bytes, position: int, undone: Undone, end: int
) -> None:
    with pytest.raises(ValueError, match=r"position|has 1[26] bytes"):
        encode(topic_id, position, undone, end)


# --------------------------------------------------------------------------------------------- rule 6


def test_rule_6_of_a_listed_version_only_a_few_offsets_are_looked_at() -> None:
    class Counted(list[int]):
        looked_at = 0

        def __getitem__(self, index: object) -> int:  # type: ignore[override]
            self.looked_at += 1
            return super().__getitem__(index)  # type: ignore[call-overload,no-any-return]

        def __iter__(self) -> object:  # type: ignore[override]
            raise AssertionError("went through all offsets")

    scattered, block = Counted(range(0, 100_000, 2)), Counted(range(100_001, 200_000))
    text = encode(TOPIC_ID, 0, {version_id(1): scattered, version_id(2): block}, 300_000)
    assert decode(text, 0).open_versions == {version_id(1)}
    assert scattered.looked_at < 100
    assert block.looked_at < 100


# --------------------------------------------------------------------------------------------- rule 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        "OFFSETS:12,14,19",
        "bAMAAAAAAAAAAQ==",
        '{"offsets": [1, 2]}',
        "NONE",
        "rayr",
        "\0",
        "RayQ" + "A" * 60,
        "héllo \N{SNOWMAN} \ud800",
    ],
)
def test_rule_7_foreign_text_is_called_foreign(text: str) -> None:
    with pytest.raises(CommitMetadataError, match="foreign") as caught:
        decode(text, 3)
    assert "group" in caught.value.hint


def test_rule_7_a_later_format_is_not_called_damaged() -> None:
    with pytest.raises(CommitMetadataError, match="format version 2"):
        decode(forge(b"anything that a later version writes", version=2), 0)


@UNHURRIED
@given(st.integers(0, 20), st.data())
def test_rule_7_any_changed_character_is_found(seed: int, data: st.DataObject) -> None:
    text = random_layout(seed).encode()
    place = data.draw(st.integers(4, len(text) - 1))
    other = data.draw(st.characters().filter(lambda character: character != text[place]))
    with pytest.raises(CommitMetadataError, match="damaged"):
        decode(text[:place] + other + text[place + 1 :], 7)


@UNHURRIED
@given(st.integers(0, 20), st.data())
def test_rule_7_a_text_that_was_cut_off_or_continued_is_found(seed: int, data: st.DataObject) -> None:
    text = random_layout(seed).encode()
    with pytest.raises(CommitMetadataError):
        decode(text[: data.draw(st.integers(0, len(text) - 1))], 7)
    with pytest.raises(CommitMetadataError):
        decode(text + data.draw(st.text(min_size=1)), 7)


@pytest.mark.parametrize("position", [6, 8, 0, -7, 2**63, 2**70])
def test_rule_7_beside_another_position_a_text_is_damaged(position: int) -> None:
    text = random_layout(1, position=7).encode()
    with pytest.raises(CommitMetadataError, match="damaged"):
        decode(text, position)


@UNHURRIED
@given(st.one_of(st.text(max_size=200), st.text(alphabet="Aa0+/=\0\n ", max_size=200)))
def test_rule_7_random_text_is_refused(text: str) -> None:
    for hostile in (text, "RayR" + text):
        with pytest.raises(CommitMetadataError):
            decode(hostile, 0)


@UNHURRIED
@given(st.integers(0, 20), st.data())
def test_rule_7_lies_with_a_right_checksum_are_refused_or_harmless(seed: int, data: st.DataObject) -> None:
    position = data.draw(st.sampled_from((0, 7, 2**63 - 1)))
    payload = bytearray(payload_of(random_layout(seed).encode()))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(payload)))
        payload[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=12))
    try:
        state = decode(forge(bytes(payload), position), position)
    except CommitMetadataError:
        return
    assert position <= state.end <= 2**63 - 1
    assert all(position <= start < stop <= state.end for start, stop in state.undone)


HOSTILE = {
    "nothing": b"",
    "a topic id only": TOPIC_ID,
    "no end": TOPIC_ID + b"\x00",
    "an endless end": TOPIC_ID + b"\x00" + b"\xff" * 2_000,
    "an end behind the last offset": TOPIC_ID + b"\x00" + b"\xff" * 8 + b"\x7f\x00\x00\x00\x00\x00\x00",
    "versions without end": TOPIC_ID + b"\x00\x00" + b"\xff" * 8 + b"\x7f" + bytes(40),
    "one version of eleven bytes": TOPIC_ID + b"\x00\x00\x01" + bytes(11),
    "the same version twice": TOPIC_ID + b"\x00\x00\x02" + bytes(24) + b"\x00\x00\x00\x00\x00",
    "versions in the wrong order": TOPIC_ID + b"\x00\x00\x02" + b"b" * 12 + b"a" * 12 + b"\x00\x00\x00\x00\x00",
    "an unknown form": TOPIC_ID + b"\x07\x00\x00\x00\x00\x00\x00\x00",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_rule_7_hostile_payloads_are_refused(case: str) -> None:
    with pytest.raises(CommitMetadataError, match="damaged"):
        decode(forge(HOSTILE[case], position=1), 1)


def test_rule_7_an_enormous_text_is_refused_before_it_is_read() -> None:
    with pytest.raises(CommitMetadataError, match="characters"):
        decode("RayR" + "A" * 50_000_000, 0)


def test_the_layout_is_what_the_table_says() -> None:
    """Texts are kept by brokers over releases: a change here needs a new format version."""
    undone = {version_id(1): list(range(100, 120, 2)), version_id(2): [101], version_id(3): [105, 106, 107]}
    text = encode(TOPIC_ID, 100, undone, 130, limit_chars=200)
    assert text.startswith("RayR")
    raw = base64.b64decode(text + "=" * (-len(text) % 4))
    assert raw[:4] == b"\x45\xac\x91\x01"
    assert raw[4:8] == zlib.crc32((100).to_bytes(8, "big") + b"\x01" + raw[8:]).to_bytes(4, "big")
    assert raw[8:24] == TOPIC_ID
    assert (raw[24], raw[25]) == (0, 30)
    layout_without_ids = CommittedState(
        TOPIC_ID,
        frozenset(),
        ((100, 103), (104, 109), (110, 111), (112, 113), (114, 115), (116, 117), (118, 119)),
        130,
    )
    assert decode(text, 100) == layout_without_ids
    # no id; 7 runs, 2 of them longer; then gaps 0 0 0 0 0 0 0, between 0 0, lengths 1 3 (parameter 1).
    assert raw[26:] == bytes((0, 7, 2, 0, 0, 1)) + int("1111111111101100", 2).to_bytes(2, "big")
