"""What is said of tasks that take long, and which are ended."""

from __future__ import annotations

import pytest

from ray_reproducer.core.events import CancelTask, FileWork, SlotsChanged, StartTask, TaskBegan, Warn
from ray_reproducer.core.limits import MachineLimits, PoolLimits
from ray_reproducer.core.overtime import NAMED_A_MINUTE
from tests.core.test_machine import Program, a_version, of_kind

WORKER = "process 4711 on node7"


def program(timeout_s: float | None) -> Program:
    made = Program(MachineLimits(pool=PoolLimits(timeout_s=timeout_s, warn_after_s=60.0, queued_tasks=0)))
    made.handle(SlotsChanged(1))
    return made


@pytest.mark.parametrize(
    ("timeout_s", "end"),
    [
        (None, "Without extraction.timeout=SECONDS it may take for ever."),
        (90.0, "It is ended after extraction.timeout=90 s."),
    ],
)
def test_a_file_that_takes_long_is_named_with_its_process_and_what_ends_it(timeout_s: float | None, end: str) -> None:
    made = program(timeout_s)
    made.chunks(a_version("scan_7"), 1)
    made.handle(TaskBegan(1, WORKER))
    path = a_version("scan_7").relative_path
    assert of_kind(Warn, made.tick(59.0)) == []
    assert of_kind(Warn, made.tick(1.0)) == [
        Warn(f"{path}: the extractor has been at it for 60 s ({WORKER}). {end}"),
    ]
    ended = of_kind(CancelTask, made.tick(30.0))
    assert ended == ([CancelTask(1)] if timeout_s else [])


def test_of_a_task_with_several_files_it_is_not_known_which_takes_long() -> None:
    made = program(timeout_s=None)
    # The first one is fast, so that those that come meanwhile go together.
    (first,) = of_kind(StartTask, made.chunks(a_version("fast"), 1))
    for name in "abc":
        made.chunks(a_version(name), 1)
    (start,) = of_kind(StartTask, made.answer(first.task, seconds=0.001))
    assert all(isinstance(file, FileWork) for file in start.files)
    made.handle(TaskBegan(start.task))
    (warning,) = of_kind(Warn, made.tick(61.0))
    others = len(start.files) - 1
    assert others > 0
    path = start.files[0].version.relative_path
    assert warning.text.startswith(f"{path}, or one of {others} more in the same task: the extractor has been at it")


def test_of_many_tasks_some_are_named_and_the_others_counted() -> None:
    tasks = NAMED_A_MINUTE + 3
    made = Program(MachineLimits(pool=PoolLimits(warn_after_s=60.0, queued_tasks=0)))
    made.handle(SlotsChanged(tasks))
    for number in range(tasks):
        made.chunks(a_version(chr(97 + number)), 1)
        made.handle(TaskBegan(number + 1))
        made.tick(1.0)
    seen = [warning for _ in range(140) for warning in of_kind(Warn, made.tick(0.5))]
    assert len(seen) == NAMED_A_MINUTE
    seen = [warning for _ in range(60) for warning in of_kind(Warn, made.tick(1.0))]
    assert Warn("The extractor has been at the files of 3 other tasks for as long.") in seen
    assert len(seen) <= NAMED_A_MINUTE + 1


def test_each_minute_as_many_are_named_and_others_counted_anew() -> None:
    made = Program(MachineLimits(pool=PoolLimits(warn_after_s=60.0, queued_tasks=0)))
    made.handle(SlotsChanged(NAMED_A_MINUTE + 1))

    def begin(first: int, tasks: int) -> None:
        for number in range(first, first + tasks):
            made.chunks(a_version(chr(96 + number)), 1)
            made.handle(TaskBegan(number))

    def warnings(seconds: int) -> list[str]:
        return [warning.text for _ in range(seconds) for warning in of_kind(Warn, made.tick(1.0))]

    def end(first: int, tasks: int) -> None:
        for number in range(first, first + tasks):
            made.answer(number)

    begin(1, NAMED_A_MINUTE + 1)
    assert len(warnings(61)) == NAMED_A_MINUTE
    end(1, NAMED_A_MINUTE + 1)
    begin(NAMED_A_MINUTE + 2, NAMED_A_MINUTE)
    others, *named = warnings(61)
    assert others == "The extractor has been at the files of 1 other tasks for as long."
    assert [text[:5] for text in named] == [f"dir/{chr(96 + NAMED_A_MINUTE + 2 + n)}" for n in range(NAMED_A_MINUTE)]
    end(NAMED_A_MINUTE + 2, NAMED_A_MINUTE)
    assert warnings(200) == []
