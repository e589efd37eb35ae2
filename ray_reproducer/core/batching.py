"""How many files one task gets.

A task costs about a millisecond whatever it does, so cheap extractors need many files in a task; a slow one needs
one file in each, or the other workers stand idle. The time per file is measured as tasks come back (an exponential
moving average) and a batch is made as large as fits the wished-for time of a task. It never takes more than its
share of what is waiting, so that all workers have something to do, and never more bytes than a limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_WEIGHT_OF_NEWEST: Final = 0.3
"""Share of the newest measurement in the average: a change of kind shows after three or four tasks."""
_GROWTH: Final = 4
"""How much larger than the last measured batch the next may be: one odd measurement can't swallow the queue."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What bounds a batch.

    Attributes:
        target_s: how long a task should take, in seconds.
        max_files: the most files in a batch.
        max_bytes: a batch is closed when its files reach this size.
    """

    target_s: float = 0.1
    max_files: int = 512
    max_bytes: int = 16 * 1024 * 1024


class BatchSizer:
    """Learns how many files fit a task."""

    def __init__(self, limits: BatchLimits) -> None:
        """Begin with batches of one file."""
        self.limits = limits
        self._seconds_per_file: float | None = None
        self._largest_measured = 0

    def measured(self, files: int, seconds: float) -> None:
        """Take note that a task of some files kept a worker busy for some seconds."""
        if files == 0:
            return
        newest = seconds / files
        average = self._seconds_per_file
        self._seconds_per_file = newest if average is None else average + _WEIGHT_OF_NEWEST * (newest - average)
        self._largest_measured = max(1, min(self.limits.max_files, max(files, self._largest_measured)))

    def files(self, waiting: int, slots: int) -> int:
        """Return how many files the next batch may have (at least 1).

        Args:
            waiting: how many files wait for a worker.
            slots: how many tasks may run at a time.
        """
        if self._seconds_per_file is None:
            return 1
        fitting = self.limits.max_files
        # Multiplied first: a time next to nothing, as a divisor, gives more than a number can hold.
        if self._seconds_per_file * fitting > self.limits.target_s:
            fitting = int(self.limits.target_s / self._seconds_per_file)
        share = -(-waiting // max(1, slots))
        return max(1, min(fitting, share, self._largest_measured * _GROWTH))
