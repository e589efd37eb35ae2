"""What a soak has counted so far, over all topics and lives of the program."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field, fields

from tests.faults.judge import Tally


@dataclass
class Kind:
    """What became of one kind of fault.

    Attributes:
        times: how often it struck.
        starts: how often the program had to be started again.
        recoveries_s: how long each recovery took, in seconds.
        failures: after how many of them something was wrong.
    """

    times: int = 0
    starts: int = 0
    recoveries_s: list[float] = field(default_factory=list)
    failures: int = 0

    @property
    def slowest_s(self) -> float:
        """The slowest recovery, in seconds."""
        return max(self.recoveries_s, default=0.0)

    @property
    def median_s(self) -> float:
        """The median recovery, in seconds."""
        return statistics.median(self.recoveries_s) if self.recoveries_s else 0.0


@dataclass
class SoakTally:
    """All of it.

    Attributes:
        kinds: by the fault's name.
        totals: of records and positions, from all judges.
        starts: of the program, the first ones included.
        repeats_allowed: outcomes that were there twice where that may be (`delivery=at_least_once`).
        unexpected_ends: how often the program ended though nothing was to end it.
        stuck: how often it did not get over a fault by itself, but after it was killed and started again.
        looks: how often committed positions were looked at.
        whole_checks: how often all topics were read again from their beginning.
        failures: what was wrong, in words.
    """

    kinds: dict[str, Kind] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    repeats_allowed: int = 0
    unexpected_ends: int = 0
    stuck: int = 0
    looks: int = 0
    whole_checks: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """How many faults struck."""
        return sum(kind.times for kind in self.kinds.values())

    @property
    def is_clean(self) -> bool:
        """Whether nothing at all was wrong."""
        return not self.failures

    @property
    def slowest(self) -> tuple[float, str]:
        """The slowest recovery in seconds, and from what."""
        return max(((kind.slowest_s, name) for name, kind in self.kinds.items()), default=(0.0, ""))

    def kind(self, name: str) -> Kind:
        """The counters of a kind of fault."""
        return self.kinds.setdefault(name, Kind())

    def add(self, tally: Tally, repeats: int) -> None:
        """Add what the judge of a rig has counted in the end; ``repeats`` were there twice, allowed or not."""
        self.repeats_allowed += repeats - tally.duplicates
        for counter in fields(tally):
            self.totals[counter.name] += getattr(tally, counter.name)
