"""The benchmark's own arithmetic: its files, what is expected of them, and the rates."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield lambda name: importlib.import_module(f"benchmarks.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def workload(bench: Any) -> ModuleType:
    module: ModuleType = bench("workload")
    return module


def tiny(workload: ModuleType, **changes: Any) -> Any:
    settings = {"files": 10, "file_bytes": 1_024, "chunk_bytes": 128, "interleaved": 4, **changes}
    return replace(workload.WORKLOADS["medium"], **settings)


def contents(workload: ModuleType, wanted: Any) -> dict[str, bytes]:
    parts: dict[str, dict[int, bytes]] = defaultdict(dict)
    for chunk in workload.chunks(wanted):
        assert hashlib.sha512(chunk.data).digest() == chunk.chunk_hash
        assert chunk.write_offset == (chunk.index - 1) * wanted.chunk_bytes
        parts[chunk.version.relative_path][chunk.index] = chunk.data
    return {path: b"".join(parts[path][i] for i in sorted(parts[path])) for path in parts}


def test_the_chunks_of_a_file_are_what_its_hash_says(workload: ModuleType) -> None:
    wanted = tiny(workload, file_bytes=960)
    whole = contents(workload, wanted)
    hashes = {chunk.version.relative_path: chunk.version.file_hash for chunk in workload.chunks(wanted)}
    assert len(whole) == 10
    assert all(len(content) == 960 for content in whole.values())
    assert {path: hashlib.sha512(content).digest() for path, content in whole.items()} == hashes


@pytest.mark.parametrize("function", ["count_lines", "parse"])
def test_what_is_expected_is_what_the_function_says(workload: ModuleType, bench: Any, function: str) -> None:
    extraction = bench("extraction")
    extraction.PARSING_CPU_S = 0.002
    wanted = tiny(workload, function=function)
    for file, (_, content) in enumerate(sorted(contents(workload, wanted).items())):
        said = getattr(extraction, function)(SimpleNamespace(bytestring=content))
        assert said == workload.expected(wanted, file)
        assert workload.file_of_result(said) == file


def test_so_many_files_are_open_at_a_time_and_each_chunk_comes_once(workload: ModuleType) -> None:
    wanted = tiny(workload)
    seen: Counter[str] = Counter()
    most_open = 0
    for chunk in workload.chunks(wanted):
        seen[chunk.version.relative_path] += 1
        most_open = max(most_open, sum(1 for count in seen.values() if count < 8))
    assert set(seen.values()) == {8}
    assert most_open == 4


def test_files_end_at_an_even_pace(workload: ModuleType) -> None:
    ends = [n for n, chunk in enumerate(workload.chunks(tiny(workload))) if chunk.index == 8]
    steady = ends[: 10 - 3]
    assert {after - before for before, after in itertools.pairwise(steady)} == {8}


def test_files_that_are_not_staggered_end_together(workload: ModuleType) -> None:
    wanted = tiny(workload, files=4, staggered=False)
    assert [chunk.index for chunk in workload.chunks(wanted)][-4:] == [8, 8, 8, 8]


class FakeMessage:
    def __init__(self, value: bytes, time_s: float) -> None:
        self._value, self._time_s = value, time_s

    def value(self) -> bytes:
        return self._value

    def timestamp(self) -> tuple[int, int]:
        return 2, round(self._time_s * 1000)


def measured(
    bench: Any, monkeypatch: pytest.MonkeyPatch, wanted: Any, said: list[tuple[Any, float]], whole: bool
) -> Any:
    import orjson

    results = bench("results")
    messages = [FakeMessage(orjson.dumps(value), time_s) for value, time_s in said]
    monkeypatch.setattr(results, "read_all", lambda *_: iter(messages))
    return results.measure(wanted, "nowhere", "results", 100.0, whole=whole)


def test_steady_rate_leaves_out_the_first_result_and_the_last_open_files(
    bench: Any, workload: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tiny(workload, file_bytes=2**21, chunk_bytes=2**19, interleaved=3)
    times = [102.0, *(103.0 + n for n in range(7)), 109.1, 109.2]
    said = [(workload.expected(wanted, file), time_s) for file, time_s in enumerate(times)]
    result = measured(bench, monkeypatch, wanted, said, True)
    assert result.faults == ()
    assert result.first_result_s == 2.0
    assert result.last_result_s == 9.2
    assert result.steady == pytest.approx(7 * 2**21 / 1e6 / 7.0, abs=0.01)
    assert result.end_to_end == pytest.approx(10 * 2**21 / 1e6 / 9.2, abs=0.01)


def test_missing_double_and_wrong_results_are_faults(
    bench: Any, workload: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tiny(workload)
    right = [(workload.expected(wanted, file), 101.0 + file) for file in range(10)]
    assert measured(bench, monkeypatch, wanted, right, True).faults == ()
    assert "1 of 10 files" in measured(bench, monkeypatch, wanted, right[1:], True).faults[0]
    assert measured(bench, monkeypatch, wanted, right[1:], False).faults == ()
    assert "two or more" in measured(bench, monkeypatch, wanted, [*right, right[3]], False).faults[0]
    wrong = [({**right[0][0], "lines": 1}, 101.0), *right[1:]]
    assert "wrong results" in measured(bench, monkeypatch, wanted, wrong, False).faults[0]
    assert "wrong results" in measured(bench, monkeypatch, wanted, [({"a": 1}, 101.0), *right], True).faults[0]
    assert measured(bench, monkeypatch, wanted, [], False).faults == ("no results",)


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (["ray::ConsumerActor.run"], "ray::ConsumerActor"),
        (["ray::IDLE", "", ""], "ray::IDLE"),
        (["/usr/bin/python3", "-m", "ray_reproducer", "+extractor=x"], "ray_reproducer"),
        (["/x/python", "-u", "/y/dashboard/agent.py", "--z"], "agent.py"),
        (["/x/raylet/raylet", "--a"], "raylet"),
        ([], ""),
    ],
)
def test_roles(bench: Any, command: list[str], role: str) -> None:
    assert bench("sampler").role_of(command) == role


def test_the_core_benchmark_measures_work_that_is_done_right(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    core = bench("core")
    monkeypatch.setattr(core, "_MEASURED_IN_FLIGHT", 300)
    for measure, least in ((core._seen, 700), (core._in_flight, 300)):
        committer_s, consumer_s, files = measure(700)
        assert files >= least
        assert committer_s > 0.0 < consumer_s


def test_the_core_benchmark_does_not_take_wrong_outcomes_for_a_result(bench: Any) -> None:
    core = bench("core")
    run = core._Run(core.MachineLimits())
    run.step(100)
    run.outcomes += 1
    with pytest.raises(RuntimeError, match="100 files, 101 outcomes"):
        run.drain()


def test_growth_is_the_slowest_to_the_fastest(bench: Any) -> None:
    core = bench("core")
    points = [
        core.Point(files, committer_us, 1.0, 1.0, 1) for files, committer_us in ((10, 4.0), (100, 2.0), (1000, 5.0))
    ]
    assert core.growth(points) == 2.5
