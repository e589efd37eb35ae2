"""Numbers as people read them, and how fast they grow."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from ray_reproducer.core.progress import Progress

RATE_WINDOW_S: Final = 5.0
"""Rates are averages over this time: long enough to be readable, short enough to show a standstill."""
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


def done(progress: Progress) -> int:
    """Files and messages that have their outcome committed."""
    return progress.results + progress.dead_letters


def data_size(size_bytes: float) -> str:
    """Write a number of bytes with three significant digits: ``1.23 MB``."""
    value = float(size_bytes)
    for unit in _UNITS[:-1]:
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} {_UNITS[-1]}"


def rate(value: float) -> str:
    """Write a rate: whole numbers when large, one digit after the point when small."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Write a duration: ``3.2 s``, ``4 min 05 s``, ``2 h 03 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def count(number: int, one: str, many: str = "") -> str:
    """Write a number with its noun: ``1 file``, ``1,200 files``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a run is now.

    Attributes:
        files_per_s: outcomes committed a second.
        bytes_per_s: content read a second, in bytes.
    """

    files_per_s: float = 0.0
    bytes_per_s: float = 0.0


class RateMeter:
    """Averages of the last seconds, from snapshots taken at any pace."""

    def __init__(self, window_s: float = RATE_WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int, int]] = deque()

    def add(self, progress: Progress, now_s: float) -> Rates:
        """Take a snapshot into account and return the rates.

        Args:
            progress: the snapshot.
            now_s: when it was taken, on a clock that never goes back.
        """
        self._samples.append((now_s, done(progress), progress.bytes_read))
        while len(self._samples) > 2 and self._samples[1][0] <= now_s - self._window_s:
            self._samples.popleft()
        first_s, first_done, first_bytes = self._samples[0]
        elapsed_s = now_s - first_s
        if elapsed_s <= 0:
            return Rates()
        return Rates((done(progress) - first_done) / elapsed_s, (progress.bytes_read - first_bytes) / elapsed_s)
