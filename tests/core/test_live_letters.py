"""Which letters are live. The rules are those at the head of ``core/live_letters.py``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.live_letters import CLEARS_HEADER, LiveLetters, Place, clears_header
from ray_reproducer.core.outcome import Failure, Origin, dead_letter

Record = tuple[Place, str, bytes | None, bytes | None]
ORIGIN = Origin("raw", bytes(16), "mine", "test")


def value(name: str, minute: int = 0) -> bytes:
    version = FileVersion("", name, "", bytes(64), 1)
    return dead_letter(version, Failure("timeout", "slow"), {0: [1]}, ORIGIN, f"2026-01-02T03:{minute:02}:05Z").value


def clearing(*places: tuple[int, int]) -> bytes:
    name, text = clears_header(Place(*place) for place in places)
    assert name == CLEARS_HEADER
    return text


def _is_earlier(partition: int, offset: int, place: Place) -> bool:
    return place.partition != partition or place.offset < offset


def live(records: Sequence[Record]) -> list[Place]:
    letters = LiveLetters()
    for record in records:
        letters.take(*record)
    return sorted(letter.place for letter in letters)


BODIES = (value("a"), value("b"), None, b"junk")
A, B, C = Place(0, 1), Place(0, 2), Place(1, 1)


def test_rule_1_letters_with_the_same_key_are_all_live() -> None:
    assert live([(A, "k", value("a"), None), (B, "k", value("b"), None), (C, "k", value("a"), None)]) == [A, B, C]


def test_rule_2_a_tombstone_clears_the_letter_that_it_names_and_no_other() -> None:
    letters: list[Record] = [(A, "k", value("a"), None), (B, "k", value("b"), None)]
    assert live([*letters, (Place(0, 5), "k", None, clearing((0, 1)))]) == [B]


def test_rule_2_a_letter_clears_the_one_in_whose_place_it_comes() -> None:
    again = Place(0, 7)
    assert live([(A, "k", value("a"), None), (again, "k", value("a"), clearing((0, 1)))]) == [again]


def test_rule_2_a_letter_with_another_key_is_not_cleared() -> None:
    assert live([(A, "k", value("a"), None), (Place(0, 5), "other", None, clearing((0, 1)))]) == [A]


def test_rule_3_a_tombstone_without_header_clears_its_key_before_it_on_its_partition() -> None:
    letters: list[Record] = [(A, "k", value("a"), None), (B, "k", value("b"), None), (C, "k", value("c"), None)]
    late: Record = (Place(0, 9), "k", value("d"), None)
    assert live([*letters, (Place(0, 5), "k", None, None), late]) == [Place(0, 9), C]
    assert live([*letters, (Place(0, 5), "other", None, None)]) == [A, B, C]


@pytest.mark.parametrize("text", [b"", b"x", b"1", b"1:", b"-1:2", b"0:1x", b"0:" + b"1" * 5_000, b"\xff:\xff", b",,,"])
def test_rule_2_a_header_that_names_no_places_clears_nothing(text: bytes) -> None:
    assert live([(A, "k", value("a"), None), (Place(0, 5), "k", None, text)]) == [A]


def test_rule_5_what_is_no_letter_is_counted_and_the_first_one_kept() -> None:
    letters = LiveLetters()
    letters.take(Place(3, 4), "k", b"junk", None)
    letters.take(A, "k", value("a"), None)
    letters.take(Place(3, 5), "", b"[]", None)
    assert (letters.records, letters.foreign, len(letters)) == (3, 2, 1)
    assert letters.first_foreign.startswith("partition 3, offset 4: it is no JSON")


def test_rule_5_what_is_no_letter_clears_nothing_whatever_its_header_says() -> None:
    letter: Record = (A, "k", value("a"), None)
    junk: Record = (Place(0, 5), "k", b"junk", clearing((0, 1)))
    elsewhere: Record = (C, "k", b"junk", clearing((0, 1)))
    assert live([letter, junk]) == [A]
    assert live([letter, elsewhere]) == live([elsewhere, letter]) == [A]


def test_letters_come_in_the_order_of_their_times_and_unwanted_ones_are_not_kept() -> None:
    letters = LiveLetters(lambda letter: letter.path != "c")
    for place, name, minute in [(A, "a", 3), (B, "b", 1), (C, "c", 2)]:
        letters.take(place, "k", value(name, minute), None)
    assert [letter.letter.path for letter in letters] == ["b", "a"]


@given(st.data())
def test_rule_4_the_order_in_which_partitions_are_read_does_not_matter(data: st.DataObject) -> None:
    """Letters and clearing records on three partitions, interleaved in two ways."""
    partitions: list[list[Record]] = []
    places = st.builds(Place, st.integers(0, 2), st.integers(0, 5))
    for partition in range(3):
        records: list[Record] = []
        for offset in range(data.draw(st.integers(0, 6))):
            # What clears comes after what it clears: a later offset, or another partition.
            earlier = places.filter(partial(_is_earlier, partition, offset))
            clears = data.draw(st.none() | st.lists(earlier, min_size=1, max_size=3).map(lambda ps: clearing(*ps)))
            body = data.draw(st.sampled_from(BODIES))
            records.append((Place(partition, offset), data.draw(st.sampled_from(["k", "l"])), body, clears))
        partitions.append(records)
    turns = [partition for partition, records in enumerate(partitions) for _ in records]

    def interleaved(order: Sequence[int]) -> list[Record]:
        iterators = [iter(records) for records in partitions]
        return [next(iterators[partition]) for partition in order]

    assert live(interleaved(turns)) == live(interleaved(data.draw(st.permutations(turns))))
