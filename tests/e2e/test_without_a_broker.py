"""What a user tries first: a directory that holds only ``conf/`` and a module, and the embedded broker."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import MY_LAB, Program
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]

STOP_DEADLINE_S = 60.0
EMBEDDED = ["kafka=embedded", "run=drain", "run.print_results=true"]
Start = Callable[..., Program]

PICKY = """

def picky(datafile):
    if datafile.filename.startswith("bad"):
        raise ValueError("this one is bad")
    print("noise on stdout")
    return digest(datafile)
"""


@pytest.fixture(name="data")
def _data(tmp_path: Path) -> dict[str, bytes]:
    """Files below ``tmp_path/data``: relative path -> content."""
    files = {
        "one.csv": b"a,b\n1,2\n",
        "Röntgen/2026/tief.csv": b"x\n" * 400_000,
        "with space/[odd] name.csv": b"1\n",
        "bad.csv": b"2\n",
    }
    for name, content in files.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return files


def test_one_json_line_a_file_and_nothing_else_on_stdout(
    workspace: Path, data: dict[str, bytes], start_program: Start
) -> None:
    (workspace / "my_lab.py").write_text(MY_LAB + PICKY)
    (workspace / "conf" / "extractor" / "mine.yaml").write_text("_target_: my_lab.picky\n")
    code, out, err = start_program("+extractor=mine", f"upload.path={workspace.parent / 'data'}", *EMBEDDED).wait()
    assert code == 3, err
    lines = [json.loads(line) for line in out.splitlines()]
    by_path = {line["path"]: line for line in lines}
    assert len(lines) == len(by_path) == len(data)
    bad = by_path.pop("bad.csv")
    assert "ValueError: this one is bad" in bad.pop("error")
    assert bad == {"path": "bad.csv", "outcome": "dead_letter", "reason": "extractor_raised"}
    for path, line in by_path.items():
        assert line["outcome"] == "result"
        assert line["metadata"]["path"] == path
        assert line["metadata"]["size"] == len(data[path])
    assert "bad.csv" in err
    assert "ValueError: this one is bad" in err
    assert "1 dead letter" in err
    assert {path.name for path in workspace.iterdir()} <= {"conf", "my_lab.py", "__pycache__"}


def test_a_multirun_gives_each_extractor_every_file(
    workspace: Path, data: dict[str, bytes], start_program: Start
) -> None:
    code, out, err = start_program(
        "-m", "+extractor=mine,file_info", f"upload.path={workspace.parent / 'data'}", *EMBEDDED
    ).wait()
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 2 * len(data)
    mine = [line["path"] for line in lines if "lines" in line["metadata"]]
    info = [line["path"] for line in lines if "media_type" in line["metadata"]]
    assert sorted(mine) == sorted(info) == sorted(data)
    assert err.index("Job 1: +extractor=mine") < err.index("Job 2: +extractor=file_info")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_stream_in_order(
    workspace: Path, data: dict[str, bytes], start_program: Start, number: signal.Signals
) -> None:
    program = start_program(
        "+extractor=mine", "kafka=embedded", "run.print_results=true", f"upload.path={workspace.parent / 'data'}"
    )
    stdout = program.process.stdout
    assert stdout is not None
    lines = [stdout.readline() for _ in data]
    assert all(json.loads(line)["outcome"] == "result" for line in lines)
    program.process.send_signal(number)
    wait_until(lambda: program.process.poll() is not None, STOP_DEADLINE_S, "the end of the program")
    code, out, err = program.wait()
    assert code == 0, err
    assert out == ""
    assert "finishing what is in flight" in err
    assert "stopped after" in err
    assert f"{len(data)} results" in err


def test_a_reader_that_goes_away_stops_the_program(
    workspace: Path, data: dict[str, bytes], start_program: Start
) -> None:
    program = start_program(
        "+extractor=mine", "kafka=embedded", "run.print_results=true", f"upload.path={workspace.parent / 'data'}"
    )
    stdout = program.process.stdout
    assert stdout is not None
    stdout.close()
    wait_until(lambda: program.process.poll() is not None, STOP_DEADLINE_S, "the end of the program")
    err = program.err()
    assert program.process.returncode == 0, err
    assert "Traceback" not in err
    assert "Broken pipe" not in err
