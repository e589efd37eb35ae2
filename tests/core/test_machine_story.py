"""What a person is told of a file afterwards: each step with the event, the place and the reason that belong to it."""

from __future__ import annotations

import json
from dataclasses import replace

from ray_reproducer.core.events import (
    Announce,
    Commit,
    Delivered,
    SlotsChanged,
    StartTask,
    TaskCrashed,
    TransactionAborted,
    TransactionCommitted,
)
from ray_reproducer.core.intake import Delivery
from ray_reproducer.core.limits import MachineLimits
from ray_reproducer.core.outcome import Failure
from ray_reproducer.core.patience import AT_END
from tests.core.test_machine import HOLDING, IMPATIENT, SLOW_COMMITS, Program, a_version, of_kind

NO = Failure("extractor_raised", "no")


def told(program: Program, path: str = "dir/a") -> list[tuple[str, str, tuple[object, ...]]]:
    """What is told of a file: step, path, detail."""
    return [(h.what, h.path, h.detail) for h in program.machine.story.of_path(path)]


def test_a_file_is_told_from_its_chunks_to_its_transaction() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    program.chunks(a_version("a", 2), 2)
    program.chunks(a_version("a", 2), 1)
    program.answer(1)
    program.tick()
    program.handle(TransactionCommitted())
    assert told(program) == [
        ("chunk", "dir/a", ((0, 0),)),
        ("chunk", "dir/a", ((0, 1),)),
        ("whole", "dir/a", ()),
        ("start", "dir/a", (1,)),
        ("answer", "dir/a", ("",)),
        ("plan", "", ()),
        ("committed", "dir/a", ()),
    ]
    assert [h.number for h in program.machine.story.of_path("dir/a")] == [2, 3, 3, 3, 4, 5, 6]


def test_repeats_are_told_and_counted_one_by_one() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    program.chunks(a_version("a"), 1)
    program.chunks(a_version("a"), 1)
    program.chunks(a_version("a"), 1)
    repeats = [h for h in program.machine.story.of_path("dir/a") if h.what == "repeat"]
    assert [(h.number, h.path, h.detail) for h in repeats] == [(3, "dir/a", ((0, 1),)), (4, "dir/a", ((0, 2),))]
    assert program.machine.progress().duplicates == 2


def test_a_crash_is_told_with_its_cause_and_so_is_what_it_led_to() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    program.chunks(a_version("a"), 1)
    program.handle(TaskCrashed(1, "worker_crashed", "signal 11"))
    assert ("crash", "", (1, "worker_crashed", "signal 11")) in told(program)
    program.handle(TaskCrashed(2, "worker_crashed", "signal 11"))
    (commit,) = of_kind(Commit, program.tick())
    assert "signal 11" in commit.outcomes[0].error
    assert told(program)[-2:] == [("answer", "dir/a", ("worker_crashed",)), ("plan", "", ())]


def test_an_answer_that_nobody_wants_any_more_is_told() -> None:
    program = Program()
    program.handle(SlotsChanged(1))
    program.chunks(a_version("a"), 1)
    program.skip(5, done_before=frozenset({a_version("a").id}))
    program.answer(1)
    assert told(program)[-1] == ("ignored answer", "dir/a", ())


def test_poison_is_told_with_its_place_and_reason() -> None:
    program = Program()
    program.poison()
    (poison, *_) = program.machine.story.of_offset(0, 0)
    assert (poison.what, poison.path, poison.detail) == ("poison", "", ((0, 0), "not_a_chunk"))


def test_a_file_that_is_given_up_and_comes_after_all_is_told() -> None:
    program = Program(replace(IMPATIENT, commit_interval_s=1000.0))
    program.handle(Delivered(Delivery(read_to_ms={0: AT_END})))
    program.chunks(a_version("a", 3), 1)
    program.tick(100.0)
    program.chunks(a_version("a", 3), 2)
    assert told(program)[1:] == [
        ("give up", "dir/a", ("incomplete",)),
        ("late chunk", "dir/a", ()),
    ]


def test_a_file_that_is_held_is_told_and_counted() -> None:
    program = Program(HOLDING)
    program.handle(SlotsChanged(1))
    for name in "ab":
        (start,) = of_kind(StartTask, program.chunks(a_version(name), 1))
        program.answer(start.task, NO)
    assert told(program)[-1] == ("hold", "dir/a", ("extractor_raised",))
    assert program.machine.progress().held == 2


def test_what_is_held_for_its_size_has_nothing_to_be_produced() -> None:
    program = Program(HOLDING)
    program.handle(SlotsChanged(1))
    program.chunks(a_version("a"), 1)
    program.answer(1)
    program.tick()
    (announced,) = of_kind(Announce, program.handle(TransactionAborted(too_large=0)))
    assert [outcome.value for outcome in announced.outcomes] == [b""]


def test_the_story_is_as_long_as_it_may_be() -> None:
    program = Program(MachineLimits(story_length=2))
    program.chunks(a_version("a"), 1)
    program.chunks(a_version("a"), 1)
    assert [h.what for h in program.machine.story.of_path("dir/a")] == ["whole", "repeat"]


def test_each_dead_letter_says_when_it_was_written() -> None:
    program = Program(SLOW_COMMITS)
    program.handle(SlotsChanged(1))
    program.chunks(a_version("a"), 1)
    program.now_s = 7.0
    written = [of_kind(Commit, program.answer(1, NO))]
    program.now_s = 8.0
    written.append(of_kind(Commit, program.handle(TransactionAborted(too_large=0)) + program.tick(0.5)))
    program.handle(TransactionCommitted())
    program.poison()
    written.append(of_kind(Commit, program.tick(1.0)))
    times = [json.loads(commit.outcomes[0].value)["time"] for (commit,) in written]
    assert times == [f"2023-11-14T22:13:{seconds}+00:00" for seconds in ("27.000", "28.000", "28.500")]


def test_the_letter_of_a_file_that_was_given_up_says_when_it_was_written() -> None:
    program = Program(IMPATIENT)
    program.handle(Delivered(Delivery(read_to_ms={0: AT_END})))
    program.chunks(a_version("a", 3), 1)
    (commit,) = of_kind(Commit, program.tick(100.0))
    assert json.loads(commit.outcomes[0].value)["time"] == "2023-11-14T22:15:00.000+00:00"


def test_every_outcome_of_a_file_carries_what_is_known_of_it() -> None:
    program = Program(IMPATIENT)
    program.handle(SlotsChanged(1))
    program.handle(Delivered(Delivery(read_to_ms={0: AT_END})))
    program.chunks(a_version("incomplete", 3), 1, 2, size_bytes=20)
    for name, answer in (("a", b"{}"), ("b", NO)):
        (start,) = of_kind(StartTask, program.chunks(a_version(name), 1, size_bytes=30))
        program.answer(start.task, answer)
    program.tick(1.0)
    program.handle(TransactionAborted())
    (commit,) = of_kind(Commit, program.tick(100.0))
    facts = {outcome.path: outcome.facts for outcome in commit.outcomes}
    assert {path: (known.n_messages, known.size_bytes, known.n_missing) for path, known in facts.items()} == {
        "dir/incomplete": (3, 20, 1),
        "dir/a": (1, 30, 0),
        "dir/b": (1, 30, 0),
    }


def test_what_is_held_carries_what_is_known_of_it() -> None:
    program = Program(HOLDING)
    program.handle(SlotsChanged(1))
    (start,) = of_kind(StartTask, program.chunks(a_version("a"), 1, size_bytes=30))
    (announced,) = of_kind(Announce, program.answer(start.task, NO))
    assert announced.outcomes[0].facts.size_bytes == 30
