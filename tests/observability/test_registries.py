"""The registries without a broker: rows as they are told, whatever happens to the files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.open_files import OpenFile
from ray_reproducer.core.outcome import Facts, Outcome
from ray_reproducer.observability import registries
from ray_reproducer.observability.registries import Registries, RegistryNames
from ray_reproducer.observability.registry_format import result_row, values

NAMES = RegistryNames("raw", "metadata", "metadata.dead_letters", "group", clients=None)
NOW_MS = 1_795_452_492_000


def done(path: str, *, reason: str = "", at_ms: int = NOW_MS, n: int = 2) -> Outcome:
    facts = Facts(n_messages=n, size_bytes=10, first_ms=NOW_MS - 5000, newest_ms=NOW_MS - 1000, done_ms=at_ms)
    return Outcome(path, "dead_letter" if reason else "result", "k", b"", reason=reason, facts=facts)


def rows(path: Path) -> list[list[str | int]]:
    return [values(line) for line in path.read_text(encoding="utf-8").split("\n")[1:] if line]


def registered(registry: Registries) -> list[str | int]:
    return [row[1] for row in rows(registry.results_path)]


def in_progress(registry: Registries) -> dict[str | int, str | int]:
    return {row[1]: row[2] for row in rows(registry.in_progress_path)}


@pytest.fixture
def registry(tmp_path: Path) -> Registries:
    return Registries(tmp_path / "deep" / "LOGS", NAMES)


def again(registry: Registries) -> Registries:
    """A later run with the same files."""
    return Registries(registry.results_path.parent, NAMES)


def test_both_files_are_there_from_the_start(registry: Registries) -> None:
    registry.update(last=False)
    assert registry.results_path.name == "results_produced_to_metadata.csv"
    assert registry.in_progress_path.name == "consuming_from_raw_in_progress_by_group.csv"
    assert rows(registry.results_path) == rows(registry.in_progress_path) == []


def test_a_result_is_a_row_and_a_file_on_its_way_is_another(registry: Registries) -> None:
    registry.open_files([OpenFile("sub/b.csv", 7, NOW_MS, NOW_MS)])
    registry.outcomes([done("sub/a.csv")])
    registry.update(last=False)
    assert registered(registry) == ["sub/a.csv"]
    assert rows(registry.results_path)[0][:3] == ["a.csv", "sub/a.csv", 2]
    assert rows(registry.in_progress_path)[0][:4] == ["b.csv", "sub/b.csv", "in_progress", 7]
    registry.open_files([])
    registry.outcomes([done("sub/b.csv", n=7)])
    registry.update(last=True)
    assert registered(registry) == ["sub/a.csv", "sub/b.csv"]
    assert in_progress(registry) == {}


def test_rule_3_the_last_word_on_a_path_counts(registry: Registries) -> None:
    registry.outcomes([done("a", reason="hash_mismatch", at_ms=NOW_MS), done("b", reason="timeout", at_ms=NOW_MS)])
    registry.update(last=False)
    assert in_progress(registry) == {"a": "mismatched_hash", "b": "computing_result_message_failed"}
    registry.outcomes([done("a", at_ms=NOW_MS + 1)])
    registry.open_files([OpenFile("b", 1, NOW_MS, NOW_MS), OpenFile("b", 2, NOW_MS, NOW_MS)])
    registry.update(last=False)
    assert in_progress(registry) == {"b": "in_progress"}
    assert [row[3] for row in rows(registry.in_progress_path)] == [2]


def test_a_message_that_is_no_chunk_has_no_row(registry: Registries) -> None:
    registry.outcomes([done("", reason="tombstone")])
    registry.update(last=True)
    assert rows(registry.results_path) == rows(registry.in_progress_path) == []


def test_a_later_run_goes_on_with_the_rows_and_forgets_what_was_on_its_way(registry: Registries) -> None:
    registry.open_files([OpenFile("open", 3, NOW_MS, NOW_MS)])
    registry.outcomes([done("a"), done("bad;'\n", reason="extractor_raised")])
    registry.update(last=True)
    later = again(registry)
    later.outcomes([done("b")])
    later.update(last=False)
    assert registered(later) == ["a", "b"]
    assert in_progress(later) == {"bad;'\n": "computing_result_message_failed"}


@pytest.mark.parametrize("torn", ["'b.csv';'b.c", "'b.csv';'b.csv';1;'Mon Nov 23, 2026 at 16:48:12'", '"', "\0"])
def test_rule_2_a_torn_row_is_taken_away(registry: Registries, torn: str) -> None:
    registry.outcomes([done("a")])
    registry.update(last=True)
    with registry.results_path.open("a") as file:
        file.write(torn)
    later = again(registry)
    later.outcomes([done("b")])
    later.update(last=False)
    assert registered(later) == ["a", "b"]


def test_rule_2_a_whole_last_row_without_a_newline_stays(registry: Registries) -> None:
    registry.results_path.parent.mkdir(parents=True)
    text = "filename;rel_filepath;n_chunks;first_message;processed_at\n" + result_row(done("a"))
    registry.results_path.write_text(text.rstrip())  # as OpenMSIStream leaves it
    registry.outcomes([done("b")])
    registry.update(last=False)
    assert registered(registry) == ["a", "b"]


def test_deleted_files_and_directories_come_back(registry: Registries) -> None:
    registry.outcomes([done("a"), done("bad", reason="timeout")])
    registry.update(last=False)
    registry.in_progress_path.unlink()
    registry.update(last=False)
    assert in_progress(registry) == {"bad": "computing_result_message_failed"}
    for path in (registry.in_progress_path, registry.results_path):
        path.unlink()
    registry.results_path.parent.rmdir()
    registry.outcomes([done("b")])
    registry.update(last=False)
    assert registered(registry) == ["b"]
    assert in_progress(registry) == {"bad": "computing_result_message_failed"}


def test_what_can_not_be_written_waits(tmp_path: Path) -> None:
    (tmp_path / "LOGS").write_text("a file in the way")
    registry = Registries(tmp_path / "LOGS", NAMES)
    registry.outcomes([done("a")])
    with pytest.raises(FileExistsError):
        registry.update(last=False)
    registry.outcomes([done("b")])
    (tmp_path / "LOGS").unlink()
    registry.update(last=False)
    assert registered(registry) == ["a", "b"]


def test_rule_5_what_waits_and_what_failed_is_bounded(registry: Registries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "MAX_WAITING", 3)
    monkeypatch.setattr(registries, "MAX_FAILED", 2)
    registry.outcomes([done(name, reason="timeout") for name in "abc"])
    registry.outcomes([done("too many")])
    registry.update(last=True)
    assert list(in_progress(registry)) == ["b", "c"]
    assert registered(registry) == []


def test_an_unchanged_file_is_not_written_again(registry: Registries) -> None:
    files = [OpenFile("a", 1, NOW_MS, NOW_MS)]
    registry.open_files(files)
    registry.update(last=False)
    before = registry.in_progress_path.stat().st_ino
    registry.open_files(list(files))
    registry.update(last=False)
    assert registry.in_progress_path.stat().st_ino == before


PATHS = st.sampled_from(["a", "b;c", "d'e\n"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("outcomes"), st.lists(st.builds(done, PATHS, reason=st.sampled_from(["", "timeout"])))),
        st.tuples(st.just("open"), st.lists(st.builds(OpenFile, PATHS, st.integers(1, 9), st.just(0), st.just(0)))),
        st.tuples(st.just("update"), st.just([])),
        st.tuples(st.just("restart"), st.just([])),
    )
)


@given(STEPS)
def test_after_any_story_the_files_say_what_was_told(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[str, list[object]]]
) -> None:
    directory = tmp_path_factory.mktemp("LOGS")
    registry = Registries(directory, NAMES)
    results: list[str] = []
    failed: dict[str, None] = {}
    on_their_way: list[str] = []
    for what, told in steps:
        if what == "outcomes":
            outcomes = [outcome for outcome in told if isinstance(outcome, Outcome)]
            registry.outcomes(outcomes)
            for outcome in outcomes:
                failed.pop(outcome.path, None)
                if outcome.kind == "result":
                    results.append(outcome.path)
                else:
                    failed[outcome.path] = None
        elif what == "open":
            files = [file for file in told if isinstance(file, OpenFile)]
            registry.open_files(files)
            on_their_way = [file.path for file in files]
        elif what == "update":
            registry.update(last=False)
        else:
            registry.update(last=True)
            for path in on_their_way:  # its one row said so: the next run finds out from the topic how it is
                failed.pop(path, None)
            registry, on_their_way = Registries(directory, NAMES), []
    registry.update(last=True)
    assert registered(registry) == results
    assert in_progress(registry).keys() == failed.keys() | set(on_their_way)
    with registry.in_progress_path.open(newline="") as file:
        assert all(len(row) == 6 for row in csv.reader(file, delimiter=";"))
