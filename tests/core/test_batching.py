"""How many files one task gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.batching import BatchLimits, BatchSizer

LIMITS = BatchLimits(target_s=0.1, max_files=512)


def settled(seconds_per_file: float, slots: int = 2) -> BatchSizer:
    """A sizer that has seen many tasks of such files."""
    sizer = BatchSizer(LIMITS)
    for _ in range(40):
        files = sizer.files(10**6, slots)
        sizer.measured(files, files * seconds_per_file)
    return sizer


def test_before_anything_is_measured_a_task_gets_one_file() -> None:
    assert BatchSizer(LIMITS).files(10_000, 2) == 1


@pytest.mark.parametrize(("seconds_per_file", "files"), [(1.0, 1), (0.1, 1), (0.01, 10), (0.001, 100), (0.0, 512)])
def test_a_batch_is_as_large_as_fits_the_time_of_a_task(seconds_per_file: float, files: int) -> None:
    assert settled(seconds_per_file).files(10**6, 2) == pytest.approx(files, abs=1)


def test_a_batch_takes_no_more_than_its_share_of_what_waits() -> None:
    sizer = settled(0.0)
    assert [sizer.files(waiting, 4) for waiting in (0, 1, 4, 5, 9, 400)] == [1, 1, 1, 2, 3, 100]


def test_one_odd_measurement_can_not_swallow_the_queue() -> None:
    sizer = BatchSizer(LIMITS)
    sizer.measured(1, 0.0)
    sizes: list[int] = []
    for _ in range(6):
        sizes.append(sizer.files(10**6, 1))
        sizer.measured(sizes[-1], 0.0)
    assert sizes == [4, 16, 64, 256, 512, 512]


def test_files_that_become_slow_are_noticed_within_a_few_tasks() -> None:
    sizer = settled(0.001)
    for _ in range(4):
        sizer.measured(1, 1.0)
    assert sizer.files(10**6, 2) == 1


def test_a_time_next_to_nothing_is_no_time() -> None:
    sizer = BatchSizer(LIMITS)
    sizer.measured(1, 1e-320)
    assert sizer.files(10**6, 1) == 4


def test_a_task_without_files_teaches_nothing() -> None:
    sizer = BatchSizer(LIMITS)
    sizer.measured(0, 5.0)
    assert sizer.files(10, 1) == 1


@given(
    measured=st.lists(st.tuples(st.integers(0, 512), st.floats(0, 100)), max_size=20),
    waiting=st.integers(0, 10**6),
    slots=st.integers(0, 64),
)
def test_a_batch_always_has_a_file_and_never_too_many(
    measured: list[tuple[int, float]], waiting: int, slots: int
) -> None:
    sizer = BatchSizer(LIMITS)
    for files, seconds in measured:
        sizer.measured(files, seconds)
    assert 1 <= sizer.files(waiting, slots) <= LIMITS.max_files
