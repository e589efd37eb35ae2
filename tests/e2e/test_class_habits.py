"""Classes of different habits, each run inside this process: on a Ray that is the process's own, by a thread of it.

The broker is the embedded one, a new one for each run. What only a real one can show is in ``test_classes``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray

from ray_reproducer import ConfigurationError, MetadataJSONReproducer
from tests.e2e import habits
from tests.e2e.conftest import Files, write_files
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]

RUN_DEADLINE_S = 120.0
Counts = tuple[int, int, int, int, list[Path]]


@pytest.fixture(name="their_ray", scope="module", autouse=True)
def _their_ray() -> Iterator[str]:
    """The Ray of a program that runs us: it is used, and neither configured nor shut down."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="theirs")
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(name="results")
def _results(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Relative path -> metadata of each result that was produced, as its reader would parse it."""
    results: dict[str, Any] = {}

    def take(_self: object, path: Path, metadata: dict[str, Any]) -> None:
        results[path.as_posix()] = metadata

    for cls in (habits.LongForm, habits.WithState, habits.FromDisk, habits.LongParse, habits.LoggerUser):
        monkeypatch.setattr(cls, "_on_result_produced", take)
    return results


@pytest.fixture(name="overrides")
def _overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Files], list[str]]:
    """Write files, and return the overrides with which a run takes them and ends."""
    repository = str(Path(__file__).parents[2])
    monkeypatch.syspath_prepend(repository)  # before the working directory is another one: workers look there, too
    monkeypatch.chdir(repository)

    def make(files: Files, mode: str = "drain") -> list[str]:
        write_files(tmp_path / "data", files)
        return ["kafka=embedded", f"upload.path={tmp_path / 'data'}", f"run={mode}", "upload.chunk_size=200000"]

    return make


def in_a_thread(reproducer: MetadataJSONReproducer) -> Counts:
    """Run an instance in a thread that is not the main one, to its end."""
    returned: list[Counts] = []
    thread = threading.Thread(target=lambda: returned.append(reproducer.produce_processing_results_for_files_as_read()))
    thread.start()
    thread.join(RUN_DEADLINE_S)
    assert returned, "it has not ended, or not well"
    return returned[0]


@pytest.mark.parametrize("cls", [habits.LongForm, habits.ShortForm])
def test_extra_arguments_in_both_forms(
    cls: type[MetadataJSONReproducer], overrides: Callable[..., list[str]], results: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "lab.config").write_text("[broker]\nbootstrap.servers = nowhere:1\n")
    arguments = ["XRD-2", "--config", str(tmp_path / "lab.config"), "--separator", ";", "--output_dir", str(tmp_path)]
    arguments += ["--consumer_topic_name", "raw", "--producer_topic_name", "metadata"]
    cls.run_from_command_line([*arguments, "--", *overrides({"a.csv": b"1;2;3", "sub/b.csv": b"1"})])
    assert results == {
        "a.csv": {"instrument": "XRD-2", "columns": 3},
        "sub/b.csv": {"instrument": "XRD-2", "columns": 1},
    }


def test_state_of_the_constructor_reaches_each_worker_once(
    overrides: Callable[..., list[str]], results: dict[str, Any], tmp_path: Path
) -> None:
    files = {f"{number}.txt": f"{number} mK".encode() for number in range(40)}
    # One file a task, so that there are many more tasks than workers.
    given = [*overrides(files), "extraction.max_batch_files=1"]
    made = habits.WithState(None, "raw", "metadata", output_dir=tmp_path, overrides=given)
    counts = in_a_thread(made)
    assert counts[:4] == (40, 40, 40, 40)
    assert {path: (found["kelvin"], found["model"]) for path, found in results.items()} == {
        f"{number}.txt": (number * 1e-3, float(number)) for number in range(40)
    }
    processes = {found["process"] for found in results.values()}
    assert {found["database"] for found in results.values()} == {7}
    assert {found["unpickled"] for found in results.values()} == {1}, "once in each worker process"
    assert sum(found["seen_before"] == 0 for found in results.values()) == len(processes)
    assert made.seen == [], "what a worker remembers, the driver does not know"


def test_a_file_is_read_from_disk_in_pieces(
    overrides: Callable[..., list[str]], results: dict[str, Any], tmp_path: Path
) -> None:
    content = np.random.default_rng(1).bytes(1_000_000)
    files = {"big.bin": content, "sub/dir/small.bin": b"1"}
    made = habits.FromDisk(
        None, "raw", "metadata", mode="disk", output_dir=tmp_path / "out", overrides=overrides(files)
    )
    assert in_a_thread(made)[2:4] == (2, 2)
    pieces = -(-len(content) // habits.PIECE_BYTES)
    assert results == {
        "big.bin": {"pieces": pieces, "same": True, "below": "big.bin", "bytes": len(content)},
        "sub/dir/small.bin": {"pieces": 1, "same": True, "below": "sub/dir/small.bin", "bytes": 1},
    }
    assert (tmp_path / "out" / "big.bin").read_bytes() == content


def test_hooks_commands_and_counters(
    overrides: Callable[..., list[str]], tmp_path: Path, their_ray: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = {"good.csv": b"1", "bad.csv": b"22", "bad_hook.csv": b"333", "sub/odd.csv": b"4444", "left/out.csv": b"5"}
    given = overrides(files, "stream")
    regex = "(?!LEFT)[a-z]"
    made = habits.WithHooks(
        None, "raw", "metadata", output_dir=tmp_path, overrides=given, filepath_regex=f"(?i){regex}"
    )
    returned: list[Counts] = []
    thread = threading.Thread(target=lambda: returned.append(made.produce_processing_results_for_files_as_read()))
    thread.start()
    wait_until(lambda: made.n_processed_files == 4 and made.n_msgs_read == 5, RUN_DEADLINE_S, "all files")
    with pytest.raises(ConfigurationError, match="is running already"):
        made.produce_processing_results_for_files_as_read()
    for command in ("dance", "c", "check"):
        made.control_command_queue.put(command)
    wait_until(lambda: len(made.driver) == 2, RUN_DEADLINE_S, "both checks")
    made.control_command_queue.put("q")
    made.control_command_queue.put("quit")
    thread.join(RUN_DEADLINE_S)

    ((read, processed, n_files, n_results, recent),) = returned
    assert (read, processed, n_files, n_results) == (5, 4, 4, 1)
    assert set(recent) == {Path("good.csv"), Path("bad.csv"), Path("bad_hook.csv"), Path("sub/odd.csv")}
    assert set(recent) == set(made.recent_processed_filepaths)
    assert made.recent_results_produced == [Path("good.csv")]
    assert made.driver == [("check", 5, 1), ("check", 5, 1), ("shutdown", 5, 1)]
    registry = made.file_registry
    assert (registry.results_produced, registry.n_files_in_progress) == ((Path("good.csv"),), 0)
    assert registry.failed == {
        Path("bad.csv"): "extractor_raised",
        Path("bad_hook.csv"): "extractor_raised",
        Path("sub/odd.csv"): "not_json",
    }

    said = [record.getMessage() for record in caplog.records if record.name == "WithHooks"]
    assert "bad.csv: failed with 2 bytes" in said
    assert "sub/odd.csv: failed with 4 bytes" in said
    assert any(
        text.startswith("bad_hook.csv: _failed_computing_processing_result raised RuntimeError") for text in said
    )
    assert any("'dance' is no command" in text for text in said)
    assert "5 messages read, 4 processed; 4 files processed, 1 results produced" in said

    made.close()
    made.close()
    assert ray.is_initialized()
    context = ray.get_runtime_context()
    assert (context.gcs_address, context.namespace) == (their_ray, "theirs")


def test_a_long_parse_with_pandas(overrides: Callable[..., list[str]], results: dict[str, Any], tmp_path: Path) -> None:
    frames = {
        f"{number}.csv": pd.DataFrame({"x": np.arange(300), "y": np.roll(np.linspace(0, 1, 300), number)})
        for number in range(4)
    }
    files = {name: frame.to_csv(index=False).encode() for name, frame in frames.items()}
    made = habits.LongParse(None, "raw", "metadata", output_dir=tmp_path, overrides=overrides(files))
    assert in_a_thread(made)[2:4] == (4, 4)
    for name, frame in frames.items():
        assert results[name] == {
            "mean": pytest.approx(frame["y"].mean()),
            "peak": int(frame["x"][frame["y"].argmax()]),
            "histogram": [100, 100, 100],
            "columns": ["x", "y"],
        }


def test_what_a_logger_user_says_has_the_files_name(
    overrides: Callable[..., list[str]], results: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {"good.txt": b"7", "sub/none.txt": b"x", "raised.txt": b"y", "typed.txt": b"z"}
    mine = logging.getLogger("lab.program")
    made = habits.LoggerUser(None, "raw", "metadata", output_dir=tmp_path, logger=mine, overrides=overrides(files))
    with caplog.at_level(logging.DEBUG, logger="lab.program"):
        in_a_thread(made)
    assert results == {"good.txt": {"number": 7}, "sub/none.txt": {"number": None}}
    said = {(record.levelname, record.getMessage()) for record in caplog.records if record.name == "lab.program"}
    for name in files:
        assert ("INFO", f"{name}: reading {Path(name).name}") in said
        assert ("WARNING", f"{name}: from the datafile") in said
        assert ("WARNING", f"{name}: from the module") in said
    assert not any("not shown" in text for _, text in said)
    (trace,) = [text for _, text in said if text.startswith("sub/none.txt: no number")]
    assert "ValueError: invalid literal" in trace
    assert any(text.startswith("raised.txt: this can't go on") for level, text in said if level == "ERROR")
    assert {made.file_registry.failed[Path(name)] for name in ("raised.txt", "typed.txt")} == {"extractor_raised"}
    assert any("KeyError: 'of another type' (extractor_raised)" in text for _, text in said)


def test_close_ends_a_run_and_a_run_that_can_not_begin_says_why(
    overrides: Callable[..., list[str]], tmp_path: Path
) -> None:
    given = overrides({"a.csv": b"1"}, "stream")
    made = habits.WithHooks(None, "raw", "metadata", output_dir=tmp_path, overrides=given)
    thread = threading.Thread(target=made.produce_processing_results_for_files_as_read)
    thread.start()
    wait_until(lambda: made.n_results_produced_files == 1, RUN_DEADLINE_S, "the result")
    made.close()
    assert made.driver == [("shutdown", 1, 1)], "it comes back when all is over"
    thread.join(RUN_DEADLINE_S)
    other = habits.WithHooks(None, "raw", "metadata", output_dir=tmp_path, overrides=["unknown=1", *given])
    with pytest.raises(ConfigurationError, match="There is no key unknown"):
        other.produce_processing_results_for_files_as_read()
    assert other.driver == [], "what has not begun is not shut down"
