"""Which files go to a worker next, and what follows from a worker's end."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.batching import BatchLimits
from ray_reproducer.core.limits import PoolLimits
from ray_reproducer.core.pool import ExtractionPool
from ray_reproducer.core.reasons import Reason

TIMEOUT_S = 10.0


def pool(slots: int = 1, *, files: int = 0, fast: bool = False, **limits: object) -> ExtractionPool:
    """A pool with some files waiting; ``fast``: it knows that files are cheap, so that batches are large."""
    made = ExtractionPool(PoolLimits(**{"queued_tasks": 0, **limits}))  # type: ignore[arg-type]
    if fast:
        for number in range(4):
            made.slots = 1
            for of_batch in range(4**number):
                made.wait(b"warm%d" % of_batch, 0)
            for task, _ in list(made.start()):
                made.finished(task, 0.0)
    made.slots = slots
    for number in range(files):
        made.wait(name(number), 10)
    return made


def name(number: int) -> bytes:
    return b"file %d" % number


def start(made: ExtractionPool) -> dict[int, tuple[bytes, ...]]:
    return dict(made.start())


# ---------------------------------------------------------------- rule 1


@pytest.mark.parametrize(("slots", "queued", "tasks"), [(0, 5, 0), (1, 0, 1), (3, 0, 3), (3, 2, 5)])
def test_rule_1_there_are_no_more_tasks_than_slots_and_a_short_queue(slots: int, queued: int, tasks: int) -> None:
    made = pool(slots, files=20, queued_tasks=queued)
    assert len(start(made)) == made.running == tasks
    assert start(made) == {}


def test_rule_1_a_task_that_comes_back_makes_room() -> None:
    made = pool(files=3)
    (first,) = start(made)
    made.finished(first, 1.0)
    assert list(start(made).values()) == [(name(1),)]


def test_rule_1_fewer_slots_end_no_task() -> None:
    made = pool(3, files=5)
    tasks = start(made)
    made.slots = 1
    assert start(made) == {}
    for task in list(tasks)[:2]:
        made.finished(task, 1.0)
        assert start(made) == {}
    made.finished(list(tasks)[2], 1.0)
    assert len(start(made)) == 1


# ---------------------------------------------------------------- rule 2


def test_rule_2_files_go_in_the_order_in_which_they_became_whole() -> None:
    made = pool(fast=True, files=200)
    gone: list[bytes] = []
    while tasks := start(made):
        for task, versions in tasks.items():
            gone += versions
            made.finished(task, 0.0)
    assert gone == [name(number) for number in range(200)]


def test_rule_2_a_batch_is_closed_when_it_reaches_its_size() -> None:
    made = pool(fast=True, files=50, batch=BatchLimits(max_bytes=35))
    assert [len(versions) for versions in start(made).values()] == [4]


def test_rule_2_a_discarded_file_goes_nowhere() -> None:
    made = pool(2, files=3)
    made.discard(name(0))
    assert (made.waiting, made.waiting_bytes) == (2, 20)
    assert list(start(made).values()) == [(name(1),), (name(2),)]
    assert (made.waiting, made.waiting_bytes, made.files_in_flight) == (0, 0, 2)


def test_rule_2_a_file_that_runs_alone_shares_its_task_with_none_and_goes_first() -> None:
    made = pool(2, fast=True, files=8)
    made.wait(b"alone", 10, alone=True)
    first, second = start(made).values()
    assert first == (b"alone",)
    assert b"alone" not in second


@given(
    st.lists(st.tuples(st.sampled_from(["wait", "alone", "discard", "start", "finish", "crash"]), st.integers(0, 9)))
)
def test_rule_2_every_file_that_waits_starts_once_or_is_discarded(steps: list[tuple[str, int]]) -> None:
    made = pool(2, batch=BatchLimits(max_files=3))
    waiting: set[bytes] = set()
    running: dict[int, tuple[bytes, ...]] = {}
    for kind, number in steps:
        in_tasks = {version for versions in running.values() for version in versions}
        if kind in ("wait", "alone") and name(number) not in waiting | in_tasks:
            made.wait(name(number), number, alone=kind == "alone")
            waiting.add(name(number))
        elif kind == "discard" and name(number) in waiting:
            made.discard(name(number))
            waiting.remove(name(number))
        elif kind == "start":
            for task, versions in start(made).items():
                assert waiting >= set(versions)
                assert len(set(versions)) == len(versions) > 0
                waiting.difference_update(versions)
                running[task] = versions
        elif kind in ("finish", "crash") and running:
            task = sorted(running)[number % len(running)]
            versions = running.pop(task)
            assert made.versions_of(task) == versions
            if kind == "finish":
                assert made.finished(task, 0.01) == versions
            else:
                assert set(made.crashed(task, "node_died", "")) == set(versions)
        assert made.waiting == len(waiting)
        assert made.waiting_bytes == sum(int(version.split()[1]) for version in waiting)
        assert made.running == len(running)


# ---------------------------------------------------------------- rule 3


def test_rule_3_each_file_of_a_lost_batch_runs_again() -> None:
    made = pool(fast=True, files=5)
    ((task, versions),) = start(made).items()
    assert len(versions) > 1
    assert made.crashed(task, "worker_crashed", "") == dict.fromkeys(versions)


def test_rule_3_a_file_that_alone_ends_its_worker_too_often_has_failed() -> None:
    made = pool(files=1, max_crashes=3)
    for _ in range(2):
        (task,) = start(made)
        assert made.crashed(task, "worker_crashed", "signal 11") == {name(0): None}
        made.wait(name(0), 10, alone=True)
    (task,) = start(made)
    (failure,) = made.crashed(task, "out_of_memory", "killed at 3 GB").values()
    assert failure is not None
    assert (failure.reason, failure.attempts) == ("out_of_memory", 3)
    assert "3 times" in failure.error
    assert "killed at 3 GB" in failure.error


def test_rule_3_the_loss_of_a_machine_counts_for_nothing() -> None:
    made = pool(files=1, max_crashes=1)
    for _ in range(10):
        (task,) = start(made)
        assert made.crashed(task, "node_died", "") == {name(0): None}
        made.wait(name(0), 10, alone=True)


def test_rule_3_a_batch_that_is_lost_counts_for_none_of_its_files() -> None:
    made = pool(fast=True, files=2, max_crashes=1)
    made.slots = 1
    ((task, versions),) = start(made).items()
    assert len(versions) == 2
    assert set(made.crashed(task, "worker_crashed", "").values()) == {None}


def test_rule_3_an_answer_ends_the_count() -> None:
    made = pool(files=1, max_crashes=2)
    (task,) = start(made)
    made.crashed(task, "worker_crashed", "")
    made.wait(name(0), 10, alone=True)
    (task,) = start(made)
    made.finished(task, 1.0)
    made.wait(name(0), 10)
    (task,) = start(made)
    assert made.crashed(task, "worker_crashed", "") == {name(0): None}


def test_rule_3_so_does_the_failure() -> None:
    made = pool(files=1, max_crashes=2)
    failed: list[bool] = []
    for _ in range(4):
        (task,) = start(made)
        (failure,) = made.crashed(task, "worker_crashed", "").values()
        failed.append(failure is not None)
        made.wait(name(0), 10, alone=True)
    assert failed == [False, True, False, True], "the same file may be sent again"


def run_all(made: ExtractionPool, crashing: set[bytes], hanging: set[bytes]) -> tuple[dict[bytes, int], float]:
    """Run one task after the other until nothing waits: how often each file was started, and how long it all took."""
    starts: Counter[bytes] = Counter()
    now_s = 0.0
    while tasks := start(made):
        ((task, versions),) = tasks.items()
        starts.update(versions)
        made.began(task, now_s)
        if hanging & set(versions):
            now_s += TIMEOUT_S
            assert made.late(now_s) == [task]
        elif not crashing & set(versions):
            made.finished(task, 0.0)
            continue
        for version_id, failure in made.crashed(task, "worker_crashed", "").items():
            if failure is None:
                made.wait(version_id, 10, alone=True)
    return starts, now_s


def test_rule_3_many_crashing_files_cost_their_mates_one_more_run_and_themselves_what_is_allowed() -> None:
    made = pool(files=2000, fast=True, max_crashes=3)
    crashing = {name(number) for number in range(0, 2000, 97)}
    starts, _ = run_all(made, crashing, set())
    assert len(starts) == 2000
    for version_id, times in starts.items():
        assert times in ((3, 4) if version_id in crashing else (1, 2)), version_id


# ---------------------------------------------------------------- rule 4


def test_rule_4_who_shares_a_batch_with_a_file_that_hangs_waits_for_it_once() -> None:
    made = pool(files=1000, fast=True, timeout_s=TIMEOUT_S)
    starts, took_s = run_all(made, set(), {name(500)})
    assert len(starts) == 1000
    assert took_s == 2 * TIMEOUT_S, "once in the batch, once alone"
    assert set(starts.values()) <= {1, 2}


@pytest.mark.parametrize(("timeout_s", "files"), [(None, 100), (1000.0, 100), (4.0, 100), (0.4, 10), (0.001, 1)])
def test_rule_4_a_batch_is_made_to_take_a_quarter_of_the_time_limit_at_most(
    timeout_s: float | None, files: int
) -> None:
    made = pool(files=10_000, timeout_s=timeout_s, batch=BatchLimits(target_s=1.0))
    size = 0
    for _ in range(30):
        ((task, versions),) = start(made).items()
        size = len(versions)
        made.finished(task, size * 0.01)
    assert size == pytest.approx(files, abs=1)


def test_rule_4_the_time_runs_from_the_start_in_the_worker() -> None:
    made = pool(files=1, timeout_s=10.0)
    (task,) = start(made)
    assert made.late(10**6) == []
    made.began(task, 100.0)
    assert made.late(109.9) == []
    assert made.late(110.0) == [task]
    assert made.late(111.0) == [], "it is ended once"


def test_rule_4_a_batch_has_no_more_time_than_a_single_file() -> None:
    made = pool(fast=True, files=4, timeout_s=10.0)
    ((task, versions),) = start(made).items()
    made.began(task, 0.0)
    assert len(versions) > 1
    assert made.late(9.9) == []
    assert made.late(10.0) == [task]
    assert made.crashed(task, "worker_crashed", "") == dict.fromkeys(versions), "who was slow is not known"


@pytest.mark.parametrize("cause", ["worker_crashed", "node_died", "out_of_memory"])
def test_rule_4_a_file_that_exceeds_its_time_alone_has_failed(cause: Reason) -> None:
    made = pool(files=1, timeout_s=0.5)
    (task,) = start(made)
    made.began(task, 0.0)
    made.late(1.0)
    (failure,) = made.crashed(task, cause, "ended by force").values()
    assert failure is not None
    assert failure.reason == "timeout"
    assert "extraction.timeout=0.5" in failure.error


def test_rule_4_without_a_limit_nothing_is_late() -> None:
    made = pool(files=1)
    (task,) = start(made)
    made.began(task, 0.0)
    assert made.late(10**9) == []


def test_rule_4_a_task_that_came_back_before_its_beginning_was_told_is_none() -> None:
    made = pool(files=1, timeout_s=1.0)
    (task,) = start(made)
    made.finished(task, 0.1)
    made.began(task, 0.0)
    assert made.late(10.0) == []
    assert made.versions_of(task) is None


def test_rule_5_a_task_that_takes_long_is_named_and_again_each_time_it_has_taken_twice_as_long() -> None:
    made = pool(files=1, warn_after_s=10.0)
    (task,) = start(made)
    assert made.slow(10**6) == [], "it may be queued"
    made.began(task, 100.0, "process 7 on somewhere")
    assert made.slow(109.9) == []
    (slow,) = made.slow(110.0)
    assert (slow.versions, slow.seconds, slow.worker) == (made.versions_of(task), 10.0, "process 7 on somewhere")
    assert slow.timeout_s is None
    assert made.slow(119.9) == []
    assert [slow.seconds for slow in made.slow(185.0)] == [85.0]
    assert made.slow(259.9) == []
    assert [slow.seconds for slow in made.slow(260.0)] == [160.0]


def test_rule_5_what_is_ended_by_force_or_came_back_is_not_named() -> None:
    made = pool(files=1, timeout_s=20.0, warn_after_s=10.0)
    (task,) = start(made)
    made.began(task, 0.0)
    assert [slow.timeout_s for slow in made.slow(10.0)] == [20.0]
    assert made.late(20.0) == [task]
    assert made.slow(20.0) == []
    made.crashed(task, "worker_crashed", "")
    assert made.slow(10**6) == []


def test_rule_5_nothing_is_named_if_it_is_not_wanted() -> None:
    made = pool(files=1, warn_after_s=None)
    (task,) = start(made)
    made.began(task, 0.0)
    assert made.slow(10**9) == []
