"""When consumers hold still."""

from __future__ import annotations

import pytest

from ray_reproducer.core.flow import FlowLimits
from ray_reproducer.core.limits import MachineLimits, PoolLimits
from ray_reproducer.core.pool import ExtractionPool

LIMITS = MachineLimits(max_waiting_bytes=100, max_waiting_files=4, max_pending_bytes=50)


def full(files: int = 0, file_bytes: int = 0, uncommitted: int = 0, *, reading: bool = True) -> bool:
    pool = ExtractionPool(PoolLimits())
    for number in range(files):
        pool.wait(bytes([number]), file_bytes)
    return FlowLimits(LIMITS).full(pool, uncommitted, reading=reading)


@pytest.mark.parametrize("reading", [True, False])
def test_rule_1_nothing_waits(reading: bool) -> None:
    assert not full(reading=reading)


@pytest.mark.parametrize(("reading", "most"), [(True, 4), (False, 2)])
def test_rules_1_and_2_files_that_wait(reading: bool, most: int) -> None:
    assert not full(files=most, reading=reading)
    assert full(files=most + 1, reading=reading)


@pytest.mark.parametrize(("reading", "most"), [(True, 100), (False, 50)])
def test_rules_1_and_2_bytes_that_wait(reading: bool, most: int) -> None:
    assert not full(files=1, file_bytes=most, reading=reading)
    assert full(files=1, file_bytes=most + 1, reading=reading)


@pytest.mark.parametrize(("reading", "most"), [(True, 50), (False, 25)])
def test_rules_1_and_2_outcomes_that_wait(reading: bool, most: int) -> None:
    assert not full(uncommitted=most, reading=reading)
    assert full(uncommitted=most + 1, reading=reading)
