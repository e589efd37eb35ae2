"""Which incomplete files are given up, and when."""

from __future__ import annotations

import pytest

from ray_reproducer.core.assembly import OpenVersion
from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.limits import Moment, PatienceLimits
from ray_reproducer.core.patience import AT_END, Patience, waited_for

EPOCH_S = 1_700_000_000.0
LIMITS = PatienceLimits(incomplete_after_s=100.0, grace_s=10.0, look_interval_s=5.0)


def at(seconds: float) -> Moment:
    return Moment(seconds, EPOCH_S + seconds)


def a_version(newest_s: float | None = 0.0, touched_s: float = 0.0, held: int = 1) -> OpenVersion:
    made = OpenVersion(FileVersion("", "a", "", bytes(64), 3))
    made.held.update(range(1, held + 1))
    made.newest_ms = 0 if newest_s is None else int((EPOCH_S + newest_s) * 1000)
    made.touched_s = touched_s
    return made


def overdue(patience: Patience, version: OpenVersion, seconds: float, *, drained: bool = False) -> bool:
    return list(patience.overdue([version], at(seconds), drained=drained)) == [version]


def read_to_the_end(limits: PatienceLimits = LIMITS) -> Patience:
    patience = Patience(limits, [0, 1], at(0))
    patience.read({0: AT_END, 1: AT_END})
    return patience


def test_rule_1_the_age_is_that_of_the_newest_chunk() -> None:
    assert not overdue(read_to_the_end(), a_version(), 99.9)
    assert overdue(read_to_the_end(), a_version(), 100.0)


def test_rule_1_a_restart_does_not_start_the_clock_again() -> None:
    version = a_version(newest_s=-95.0)
    assert not overdue(read_to_the_end(), version, 5.0)  # rule 3
    assert overdue(read_to_the_end(), version, 10.0)


def test_rule_1_a_chunk_without_a_timestamp_counts_from_when_it_was_read() -> None:
    version = a_version(newest_s=None, touched_s=50.0)
    assert waited_for(version, at(60.0)) == 10.0
    assert not overdue(read_to_the_end(), version, 149.0)
    assert overdue(read_to_the_end(), version, 150.0)


def test_rule_1_so_does_one_from_the_future() -> None:
    version = a_version(newest_s=1e9, touched_s=50.0)
    assert not overdue(read_to_the_end(), version, 149.0)
    assert overdue(read_to_the_end(), version, 150.0)
    assert overdue(read_to_the_end(), version, 150.0, drained=True)


def test_rule_2_the_topic_must_have_been_read_that_far() -> None:
    patience = Patience(LIMITS, [0, 1], at(0))
    version = a_version(newest_s=-1000.0)
    patience.read({0: AT_END, 1: int((EPOCH_S - 950.0) * 1000)})
    assert not overdue(patience, version, 50.0)  # the next message of partition 1 may be 50 s younger than the file
    patience.read({1: int((EPOCH_S - 900.0) * 1000)})
    assert overdue(patience, version, 60.0)


def test_rule_2_a_new_partition_has_not_been_read() -> None:
    patience = read_to_the_end()
    patience.add([2])
    assert not overdue(patience, a_version(), 500.0)
    patience.read({2: AT_END})
    assert overdue(patience, a_version(), 510.0)


def test_rule_3_a_file_of_which_a_chunk_was_just_read_is_waited_for() -> None:
    patience = read_to_the_end()
    version = a_version(newest_s=-1000.0, touched_s=95.0)
    assert not overdue(patience, version, 100.0)
    assert overdue(patience, version, 105.0)


def test_rule_4_in_a_drain_the_clock_alone_decides() -> None:
    patience = Patience(LIMITS, [0, 1], at(0))
    assert not overdue(patience, a_version(newest_s=-99.0), 0.5, drained=True)
    assert overdue(patience, a_version(newest_s=-100.0), 0.5, drained=True)


def test_files_that_are_whole_are_not_waited_for() -> None:
    assert not overdue(read_to_the_end(), a_version(held=3), 500.0)


def test_it_is_looked_for_them_now_and_then() -> None:
    patience = read_to_the_end()
    assert overdue(patience, a_version(), 200.0)
    assert not overdue(patience, a_version(), 204.0)
    assert overdue(patience, a_version(), 205.0)


def test_it_is_looked_for_them_after_a_while_for_the_first_time() -> None:
    old = a_version(newest_s=-1000.0, touched_s=-1000.0)
    assert not overdue(read_to_the_end(), old, 4.9)
    assert overdue(read_to_the_end(), old, 5.0)


def test_a_file_that_is_whole_does_not_hide_those_behind_it() -> None:
    whole, incomplete = a_version(held=3), a_version()
    assert list(read_to_the_end().overdue([whole, incomplete], at(200.0), drained=False)) == [incomplete]


def test_rule_1_a_chunk_without_a_timestamp_says_nothing_of_how_far_the_topic_was_read() -> None:
    assert overdue(Patience(LIMITS, [0], at(0)), a_version(newest_s=None), 150.0)


def test_of_no_partition_nothing_was_read() -> None:
    assert not overdue(Patience(LIMITS, [], at(0)), a_version(newest_s=-1000.0), 50.0)


@pytest.mark.parametrize("drained", [False, True])
def test_without_a_limit_nothing_is_given_up(drained: bool) -> None:
    patience = read_to_the_end(PatienceLimits(incomplete_after_s=None))
    assert not overdue(patience, a_version(), 1e9, drained=drained)
