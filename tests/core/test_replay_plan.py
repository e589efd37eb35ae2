"""What a replay does. The rules are those at the head of ``core/replay_plan.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.dead_letter import parse
from ray_reproducer.core.live_letters import Letter, Place
from ray_reproducer.core.outcome import (
    MAX_OFFSET_RANGES,
    Failure,
    Origin,
    PoisonMessage,
    dead_letter,
    poison_letter,
    refused_by_broker,
    result,
)
from ray_reproducer.core.reasons import Reason
from ray_reproducer.core.replay_plan import (
    NAMED_RANGES,
    ReplayPlan,
    Selection,
    SourceTopic,
    failed_files,
    make_plan,
    merge,
)

TOPIC_ID = bytes(range(16))
TOPIC = SourceTopic("raw", TOPIC_ID, {0: (0, 1000), 1: (0, 1000)})
ANY = Selection()
_OFFSETS = count()


def version(name: str, n_chunks: int = 1, content: int = 0) -> FileVersion:
    return FileVersion("dir", name, "", bytes([content]) * 64, n_chunks)


def letter(
    of: FileVersion,
    offsets: Mapping[int, Sequence[int]],
    *,
    reason: Reason = "timeout",
    minute: int = 0,
    attempts: int = 1,
    origin: Origin = Origin("raw", TOPIC_ID, "mine", "test"),  # noqa: B008 - a frozen value
) -> Letter:
    """A live letter; each has a place of its own."""
    failure = Failure(reason, "what was wrong", attempts=attempts)
    outcome = dead_letter(of, failure, offsets, origin, f"2026-01-02T03:{minute:02}:00+00:00")
    return Letter(Place(0, next(_OFFSETS)), outcome.key, parse(outcome.value))


def poison(offset: int, raw: bytes = b"\xc1") -> Letter:
    message = PoisonMessage("not_a_chunk", "no msgpack", raw, len(raw))
    origin = Origin("raw", TOPIC_ID, "mine", "test")
    outcome = poison_letter(0, offset, message, origin, "2026-01-02T03:00:00+00:00")
    return Letter(Place(0, next(_OFFSETS)), outcome.key, parse(outcome.value))


def refusals(plan: ReplayPlan) -> list[tuple[str, str]]:
    return [(refusal.why, refusal.detail) for refusal in plan.refusals]


# ---------------------------------------------------------------- rule 1


def test_rule_1_letters_of_one_version_are_one_file_with_all_their_offsets() -> None:
    of = version("a", n_chunks=3)
    first = letter(of, {0: [4], 1: [7]}, reason="incomplete", minute=1, attempts=0)
    rest = letter(of, {0: [9]}, reason="incomplete", minute=2, attempts=2)
    plan = make_plan([rest, first], ANY, TOPIC)
    assert plan.files[of.id].letters == (first, rest)
    assert plan.ranges == {0: ((4, 5), (9, 10)), 1: ((7, 8),)}
    assert (plan.messages, plan.ends, plan.attempts) == (3, {0: 10, 1: 8}, {of.id: 2})


def test_rule_1_other_contents_extractors_and_topics_are_other_files() -> None:
    letters = [
        letter(version("a"), {0: [1]}),
        letter(version("a", content=1), {0: [2]}),
        letter(version("a", n_chunks=2), {0: [3, 4]}),
        letter(version("a"), {0: [1]}, origin=Origin("raw", TOPIC_ID, "other", "test")),
        letter(version("a"), {0: [1]}, origin=Origin("raw2", TOPIC_ID, "mine", "test")),
        poison(5),
        poison(6),
    ]
    assert len(failed_files(letters)) == len(letters)
    assert len(failed_files([poison(5), poison(5)])) == 1


# ---------------------------------------------------------------- rule 2


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(), "abc"),
        (Selection(path_regex="dir/[ab]"), "ab"),
        (Selection(path_regex="a"), ""),
        (Selection(reasons=("timeout",)), "a"),
        (Selection(reasons=("timeout", "not_json")), "ab"),
        (Selection(since=datetime(2026, 1, 2, 3, 2, tzinfo=timezone.utc)), "bc"),
        (Selection(until=datetime(2026, 1, 2, 3, 2, tzinfo=timezone.utc)), "a"),
        (Selection(path_regex="dir/", reasons=("not_json",), extractor="mine"), "b"),
        (Selection(extractor="other"), ""),
    ],
)
def test_rule_2_a_file_is_chosen_if_all_conditions_hold_for_its_newest(selection: Selection, chosen: str) -> None:
    letters = [
        letter(version("a"), {0: [1]}, reason="not_json", minute=0),
        letter(version("a"), {0: [1]}, reason="timeout", minute=1),
        letter(version("b"), {0: [2]}, reason="not_json", minute=2),
        letter(version("c"), {0: [3]}, reason="hash_mismatch", minute=3),
    ]
    plan = make_plan(letters, selection, TOPIC)
    assert sorted(file.newest.path for file in plan.files.values()) == [f"dir/{name}" for name in chosen]
    assert not plan.refusals


def test_rule_2_files_of_another_topic_are_counted_and_left_alone() -> None:
    plan = make_plan([letter(version("a"), {0: [1]}, origin=Origin("raw2", TOPIC_ID, "mine", "test"))], ANY, TOPIC)
    assert plan == ReplayPlan(elsewhere={"raw2": 1})


def test_one_result_is_enough_where_letters_of_several_extractors_are_chosen() -> None:
    other = letter(version("a"), {0: [1]}, origin=Origin("raw", TOPIC_ID, "other", "test"))
    plan = make_plan([letter(version("a"), {0: [1]}), other], ANY, TOPIC)
    assert len(plan.files) == 1
    assert refusals(plan) == [("another extractor's letter of the same file is replayed", "")]


# ---------------------------------------------------------------- rules 3 and 4


def test_rule_3_a_topic_made_anew_has_nothing_of_the_old_one() -> None:
    plan = make_plan([letter(version("a"), {0: [1]})], ANY, SourceTopic("raw", bytes(16), TOPIC.limits))
    assert refusals(plan) == [("the topic raw was deleted and made anew since", "")]
    assert plan.ranges == {}


def test_rule_3_offsets_that_are_gone_are_named_and_those_beyond_the_end_are_not_called_so() -> None:
    topic = SourceTopic("raw", TOPIC_ID, {0: (6, 20), 1: (0, 12)})
    gone = letter(version("a", n_chunks=4), {0: [2, 3, 4, 6]})
    assert refusals(make_plan([gone], ANY, topic)) == [("offsets are no longer on raw", "[0] 2-4")]
    new = letter(version("b", n_chunks=4), {1: [10, 11, 12], 2: [5]})
    assert refusals(make_plan([new], ANY, topic)) == [("offsets are beyond the end of raw", "[1] 12, [2] 5")]
    both = letter(version("c", n_chunks=2), {0: [5], 1: [12]})
    assert refusals(make_plan([both], ANY, topic)) == [
        ("offsets are no longer on raw", "[0] 5; beyond its end: [1] 12"),
    ]


def test_rule_3_of_many_ranges_that_are_gone_the_number_is_said() -> None:
    of = version("a", n_chunks=100)
    plan = make_plan([letter(of, {0: list(range(0, 200, 2))})], ANY, SourceTopic("raw", TOPIC_ID, {0: (500, 600)}))
    ((_, detail),) = refusals(plan)
    assert detail.startswith("[0] 0, [0] 2, ")
    assert detail.endswith(f" and {100 - NAMED_RANGES} more ranges")


def test_rule_3_a_file_with_fewer_offsets_than_chunks_is_not_whole() -> None:
    plan = make_plan([letter(version("a", n_chunks=3), {0: [1, 2]}, reason="incomplete")], ANY, TOPIC)
    assert refusals(plan) == [("chunks are missing", "2 of 3 chunks are on raw")]


def test_rule_3_a_message_that_is_no_chunk_can_not_be_run() -> None:
    assert refusals(make_plan([poison(5)], ANY, TOPIC)) == [("the message is no chunk of a file", "")]


def test_rule_4_a_file_that_was_uploaded_twice_may_lose_as_many_offsets_as_it_has_too_many() -> None:
    of = version("a", n_chunks=2)
    twice = [letter(of, {0: [1, 2]}, minute=1), letter(of, {0: [50, 51]}, minute=2)]
    topic = SourceTopic("raw", TOPIC_ID, {0: (50, 100)})
    plan = make_plan(twice, ANY, topic)
    assert (set(plan.files), plan.ranges) == ({of.id}, {0: ((50, 52),)})
    assert plan.files[of.id].letters == tuple(twice)


def test_rule_4_without_the_number_of_chunks_every_offset_is_needed() -> None:
    of = version("a", n_chunks=3)
    small = refused_by_broker(
        result(of, b"{}"), {0: [4, 9]}, Origin("raw", TOPIC_ID, "mine", "test"), "2026-01-02T03:00:00Z"
    )
    letter = replace(parse(small.value), n_chunks=0)
    live = Letter(Place(0, 0), small.key, letter)
    assert make_plan([live], ANY, TOPIC).ranges == {0: ((4, 10),)}
    gone = make_plan([live], ANY, SourceTopic("raw", TOPIC_ID, {0: (5, 20)}))
    assert refusals(gone) == [("offsets are no longer on raw", "[0] 4")]


def test_a_file_in_too_many_ranges_is_looked_for_between_its_outermost_offsets() -> None:
    of = version("a", n_chunks=MAX_OFFSET_RANGES + 1)
    scattered = letter(of, {0: list(range(0, 2 * MAX_OFFSET_RANGES + 2, 2))})
    topic = SourceTopic("raw", TOPIC_ID, {0: (0, 10**6)})
    assert make_plan([scattered], ANY, topic).ranges == {0: ((0, 2 * MAX_OFFSET_RANGES + 1),)}


# ---------------------------------------------------------------- rule 5


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 10)).map(lambda pair: (pair[0], pair[0] + pair[1]))))
def test_rule_5_merged_ranges_hold_the_same_offsets_once_and_in_order(ranges: list[tuple[int, int]]) -> None:
    merged = merge(ranges)
    offsets = [offset for start, stop in merged for offset in range(start, stop)]
    assert offsets == sorted({offset for start, stop in ranges for offset in range(start, stop)})
    assert all(stop < start for (_, stop), (start, _) in pairwise(merged))


@given(
    st.dictionaries(st.integers(0, 9), st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), min_size=1)),
    st.tuples(st.integers(0, 10), st.integers(0, 10)),
    st.integers(15, 31),
)
def test_rules_3_to_5_what_is_run_is_read_and_nothing_else(
    files: dict[int, list[tuple[int, int]]], lows: tuple[int, int], high: int
) -> None:
    """Each file has as many chunks as different offsets, so that it needs them all."""
    topic = SourceTopic("raw", TOPIC_ID, {p: (low, high) for p, low in enumerate(lows)})
    wanted: dict[bytes, set[tuple[int, int]]] = {}
    letters = []
    for number, places in files.items():
        of = version(f"f{number}", n_chunks=len(set(places)))
        wanted[of.id] = set(places)
        offsets = {p: sorted({o for q, o in places if q == p}) for p, _ in places}
        letters.append(letter(of, offsets))
    plan = make_plan(letters, ANY, topic)
    here = {(p, o) for p, (low, _) in topic.limits.items() for o in range(low, high)}
    assert set(plan.files) == {version_id for version_id, places in wanted.items() if places <= here}
    assert len(plan.refusals) == len(wanted) - len(plan.files)
    read = {(p, o) for p, ranges in plan.ranges.items() for start, stop in ranges for o in range(start, stop)}
    assert read == {place for version_id in plan.files for place in wanted[version_id]}
    assert plan.messages == len(read)
