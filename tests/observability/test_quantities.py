"""Numbers as people read them."""

from __future__ import annotations

import pytest

from ray_reproducer.core.progress import Progress
from ray_reproducer.observability.quantities import RateMeter, Rates, count, data_size, duration, rate


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1536, "1.54 kB"),
        (999_999, "1 MB"),
        (123_456_789, "123 MB"),
        (2e12, "2 TB"),
    ],
)
def test_data_size(size_bytes: float, text: str) -> None:
    assert data_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.5, "59.5 s"), (245, "4 min 05 s"), (7380, "2 h 03 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_count_and_rate() -> None:
    assert [count(0, "file"), count(1, "file"), count(1200, "file")] == ["0 files", "1 file", "1,200 files"]
    assert [rate(0), rate(2.34), rate(1234.5)] == ["0.0", "2.3", "1,234"]


def test_rates_are_of_the_last_seconds() -> None:
    meter = RateMeter(window_s=5)
    assert meter.add(Progress(), 0) == Rates(0, 0)
    assert meter.add(Progress(results=10, bytes_read=100), 1) == Rates(10, 100)
    for second in range(2, 20):
        rates = meter.add(Progress(results=10, bytes_read=100), second)
    assert rates == Rates(0, 0)
    assert meter.add(Progress(results=10, dead_letters=5, bytes_read=100), 20) == Rates(1, 0)
