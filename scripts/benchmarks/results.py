"""When each result was there, whether it is right, and the rates that follow.

1. End to end: from the start of the process to the last result.
2. Steady: from the first result to the last but those whose files ended while fewer and fewer files were open
   (`interleaved - 1`: their last chunks come ever closer together). Results with the first one's time don't count.
3. A file without a result, with two, or with another value than expected makes the whole row wrong. OpenMSIStream is
   stopped in the middle, so for it (only) files without a result are no fault.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from benchmarks.broker import read_all
from benchmarks.workload import Workload, expected, file_of_result

_SERIES_STEPS = 20


@dataclass(frozen=True)
class Measured:
    """What the results topic says of one run.

    Attributes:
        results: how many right ones.
        faults: what is wrong, in words; empty: nothing.
        first_result_s: from the start of the process to its first result.
        last_result_s: from the start of the process to its last result.
        end_to_end: rate by rule 1, in the workload's unit.
        steady: rate by rule 2, in the workload's unit.
        series_s: when 0, 5, 10 ... 100 % of the results were there, in seconds from the start of the process.
    """

    results: int
    faults: tuple[str, ...]
    first_result_s: float
    last_result_s: float
    end_to_end: float
    steady: float
    series_s: tuple[float, ...]


def measure(workload: Workload, bootstrap_servers: str, topic: str, started: float, *, whole: bool) -> Measured:
    """Read a run's results.

    Args:
        workload: what the program was given.
        bootstrap_servers: the broker.
        topic: where the program put its results; stamped by the broker.
        started: when the program was started, in seconds since the epoch.
        whole: whether there has to be a result of every file.
    """
    times: list[float] = []
    seen: Counter[int] = Counter()
    wrong: list[str] = []
    for message in read_all(bootstrap_servers, topic):
        said = json.loads(message.value() or b"{}")
        file = file_of_result(said)
        if file is None or not file < workload.files:
            wrong.append(f"no file's result: {str(said)[:100]}")
            continue
        should = expected(workload, file)
        if {name: said.get(name) for name in should} != should:
            wrong.append(f"file {file}: {str(said)[:100]} instead of {should}")
            continue
        seen[file] += 1
        times.append(message.timestamp()[1] / 1000 - started)
    return _rates(workload, sorted(times), _faults(workload, seen, wrong, whole=whole), whole=whole)


def _faults(workload: Workload, seen: Counter[int], wrong: list[str], *, whole: bool) -> tuple[str, ...]:
    faults = []
    if wrong:
        faults.append(f"{len(wrong)} wrong results, e.g. {wrong[0]}")
    twice = [file for file, count in seen.items() if count > 1]
    if twice:
        faults.append(f"{len(twice)} files with two or more results, e.g. {twice[0]}")
    if whole and len(seen) < workload.files:
        faults.append(f"{workload.files - len(seen)} of {workload.files} files have no result")
    if not seen:
        faults.append("no results")
    return tuple(faults)


def _rates(workload: Workload, times: list[float], faults: tuple[str, ...], *, whole: bool) -> Measured:
    if not times:
        return Measured(0, faults, 0.0, 0.0, 0.0, 0.0, ())
    first, last = times[0], times[-1]
    at_first = sum(1 for moment in times if moment == first)
    stop = max(len(times) - (workload.interleaved - 1 if whole else 0), at_first)
    series = tuple(round(times[(len(times) - 1) * step // _SERIES_STEPS], 2) for step in range(_SERIES_STEPS + 1))
    return Measured(
        results=len(times),
        faults=faults,
        first_result_s=round(first, 2),
        last_result_s=round(last, 2),
        end_to_end=round(workload.rate(len(times), last), 2),
        steady=round(workload.rate(stop - at_first, times[stop - 1] - first), 2),
        series_s=series,
    )
