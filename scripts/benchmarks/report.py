"""The figures as a table for people and as JSON for the repository.

`vs raw` is the ratio of steady rates in the same run. For the parsing workload it is the share of all cores that was
busy parsing (rate x 0.1 s / cores), because the raw loop has one core only.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.extraction import PARSING_CPU_S
from benchmarks.programs import PROGRAMS, Run
from benchmarks.results import Measured
from benchmarks.workload import Workload

_ACTORS = ("ConsumerActor", "CommitterActor", "extract")


@dataclass(frozen=True)
class Row:
    """One run of one program on one workload."""

    program: str
    run: Run
    measured: Measured

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with this run; empty: nothing."""
        if self.run.exit_code is None:
            return (*self.measured.faults, "ended after its deadline")
        ended = (f"exit code {self.run.exit_code}",) if self.run.exit_code else ()
        return (*self.measured.faults, *ended)

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "program": self.program,
            "right": not self.faults,
            "faults": list(self.faults),
            **{key: value for key, value in asdict(self.measured).items() if key != "faults"},
            "seconds": self.run.seconds,
            "machine_cpu_s": self.run.machine_cpu_s,
            "exit_code": self.run.exit_code,
            "peak_tree_heap_mb": round(self.run.usage.tree_heap / 1e6, 1),
            "peak_shared_mb": round(self.run.usage.shared / 1e6, 1),
            "processes": self.run.usage.by_role(),
        }


@dataclass
class Section:
    """All runs on one workload."""

    workload: Workload
    messages: int
    produced_s: float
    fetch_only_s: float
    rows: list[Row] = field(default_factory=list)

    def steady(self, program: str) -> float:
        """Median of a program's right runs; 0: it has none."""
        rates = [row.measured.steady for row in self.rows if row.program == program and not row.faults]
        return median(rates) if rates else 0.0

    def ratio(self, program: str) -> float | None:
        """What the floor is about; None: there is nothing to compare with."""
        rate = self.steady(program)
        if self.workload.function == "parse":
            return rate * PARSING_CPU_S / (os.cpu_count() or 1)
        raw = self.steady("raw")
        return rate / raw if raw and rate else None

    def floor_reached(self) -> bool | None:
        """Whether this project's program is fast enough here; None: not measured."""
        ratio = self.ratio("ours")
        rate = self.steady("ours")
        if not rate:
            return None
        if self.workload.floor_rate and rate >= self.workload.floor_rate:
            return True
        return None if ratio is None else ratio >= self.workload.floor

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        programs = {row.program for row in self.rows}
        return {
            **asdict(self.workload),
            "unit": self.workload.unit,
            "messages": self.messages,
            "produced_s": round(self.produced_s, 1),
            "fetch_only": round(self.workload.rate(self.workload.files, self.fetch_only_s), 1),
            "steady": {program: self.steady(program) for program in sorted(programs)},
            "ratio": {program: round(self.ratio(program) or 0.0, 3) for program in sorted(programs)},
            "floor_reached": self.floor_reached(),
            "runs": [row.as_json() for row in self.rows],
        }


def show(console: Console, section: Section) -> None:
    """Print one workload's table."""
    workload = section.workload
    fetch = workload.rate(workload.files, section.fetch_only_s)
    table = Table(
        title=f"{workload.name}: {workload.title}, {workload.files:,} files, {workload.interleaved} at a time, "
        f"{workload.total_bytes / 1e9:.2f} GB (fetching alone: {fetch:,.0f} {workload.unit})",
        title_justify="left",
    )
    table.add_column("program")
    headings = (
        "results",
        f"steady {workload.unit}",
        "end to end",
        "first result",
        "vs raw",
        "heap, all",
        "largest rss",
    )
    for heading in (*headings, "cpu"):
        table.add_column(heading, justify="right")
    table.add_column("right")
    for row in section.rows:
        table.add_row(*_cells(section, row))
    console.print(table)
    reached = section.floor_reached()
    if reached is not None and workload.floor:
        console.print(f"  floor {workload.floor} {'reached' if reached else '[bold red]NOT reached[/]'}")


def _cells(section: Section, row: Row) -> list[str]:
    measured, usage = row.measured, row.run.usage
    raw = section.steady("raw")
    if section.workload.function == "parse":
        ratio = f"{measured.steady * PARSING_CPU_S / (os.cpu_count() or 1):.2f} of cores"
    else:
        ratio = f"{measured.steady / raw:.2f}" if raw else ""
    largest = max((process.rss for process in usage.processes.values()), default=0)
    return [
        PROGRAMS[row.program].title,
        f"{measured.results:,}",
        f"{measured.steady:,.1f}",
        f"{measured.end_to_end:,.1f}",
        f"{measured.first_result_s:.1f} s",
        ratio,
        f"{usage.tree_heap / 1e6:,.0f} MB",
        f"{largest / 1e6:,.0f} MB",
        f"{sum(process.cpu_s for process in usage.processes.values()):.1f} s",
        "yes" if not row.faults else "[bold red]WRONG[/]: " + "; ".join(row.faults),
    ]


def show_processes(console: Console, row: Row) -> None:
    """Print what each kind of process of a run took at most."""
    table = Table(title=f"{PROGRAMS[row.program].title}: peak of each kind of process", title_justify="left")
    table.add_column("process")
    for heading in ("how many", "heap", "rss", "cpu"):
        table.add_column(heading, justify="right")
    for role, peaks in row.run.usage.by_role().items():
        sizes = (f"{peaks[name]:,.0f} MB" for name in ("heap_mb", "rss_mb"))
        table.add_row(role, f"{peaks['processes']:.0f}", *sizes, f"{peaks['cpu_s']:.1f} s")
    console.print(table)


def largest_actor_heaps(row: Row) -> dict[str, float]:
    """Peak heap in MB of the largest of each of this program's processes that must stay small."""
    heaps: dict[str, float] = {}
    for role, peaks in row.run.usage.by_role().items():
        for actor in _ACTORS:
            if actor in role:
                heaps[actor] = max(heaps.get(actor, 0.0), peaks["heap_mb"])
    return heaps


def save(path: Path, machine: dict[str, Any], settings: dict[str, Any], sections: list[Section]) -> None:
    """Write the JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "settings": settings, "workloads": [section.as_json() for section in sections]}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
