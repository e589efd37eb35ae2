"""What a user tries first: a directory that holds only ``conf/`` and a module, and the embedded broker."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import MY_LAB, Files, Program, function_of, local_results, write_files
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]

STOP_DEADLINE_S = 120.0
BIG_BYTES = 26_000_000
"""With the many small ones: more than the embedded broker holds at a time, in one file and in all."""
SMALL = 300
BAD = "sub/bad.csv"
CRASH = "sub/crash.csv"
TALKATIVE = """

import os, sys
print("printed by the import")
os.write(1, b"written by the import\\n")


def mine(datafile):
    print("printed by the function")
    os.write(1, b"written by the function\\n")
    os.system("echo printed by a program")
    if datafile.filename == "crash.csv":
        os._exit(7)
    if datafile.filename == "bad.csv":
        raise ValueError("this one is bad")
    return digest(datafile)
"""


@pytest.fixture(name="files")
def _files() -> Files:
    source = random.Random(4)
    files = {f"small/{number}.bin": source.randbytes(12_000) for number in range(SMALL)}
    files |= {"big.bin": source.randbytes(BIG_BYTES), "Röntgen/2026/tief.csv": b"1\n", "with space/[odd].csv": b"2\n"}
    return files | {BAD: b"3\n", CRASH: b"4\n"}


@pytest.fixture(name="data")
def _data(tmp_path: Path, files: Files) -> Path:
    """The directory to upload; an empty file in it is no chunk and gives nothing."""
    write_files(tmp_path / "data", {**files, "empty.csv": b""})
    return tmp_path / "data"


def test_one_json_line_a_file_and_nothing_else_on_stdout(
    workspace: Path, files: Files, data: Path, start_program: Callable[..., Program]
) -> None:
    (workspace / "my_lab.py").write_text(MY_LAB + TALKATIVE)
    (workspace / "conf" / "extractor" / "mine.yaml").write_text("_target_: my_lab.mine\n")
    arguments = ["+extractor=mine", "kafka=embedded", f"upload.path={data}", "run=drain", "run.print_results=true"]
    code, out, err = start_program(*arguments).wait()

    assert code == 3, err
    lines = [json.loads(line) for line in out.splitlines()]
    by_path: dict[str, Any] = {line.pop("path"): line for line in lines}
    assert len(lines) == len(by_path) == len(files)
    error = by_path[BAD].pop("error")
    assert "ValueError: this one is bad" in error
    assert by_path.pop(BAD) == {"outcome": "dead_letter", "reason": "extractor_raised"}
    assert by_path[CRASH].pop("error")
    assert by_path.pop(CRASH) == {"outcome": "dead_letter", "reason": "worker_crashed"}
    good = [data / path for path in files if path not in {BAD, CRASH}]
    expected = local_results(data, function_of(workspace, "digest"), good)
    assert by_path == {path: {"outcome": "result", "metadata": metadata} for path, metadata in expected.items()}

    assert f"{len(good)} results on metadata, 2 dead letters" in err
    assert f"{BAD}: {error} (extractor_raised)" in err
    assert 'raise ValueError("this one is bad")' in err, "the traceback is shown"
    assert {path.name for path in workspace.iterdir()} <= {"conf", "my_lab.py", "__pycache__"}


def test_a_reader_that_goes_away_stops_the_program(workspace: Path, start_program: Callable[..., Program]) -> None:
    data = workspace.parent / "data"
    write_files(data, {"one.csv": b"1\n"})
    program = start_program("+extractor=mine", "kafka=embedded", "run.print_results=true", f"upload.path={data}")
    stdout = program.process.stdout
    assert stdout is not None
    stdout.close()
    wait_until(lambda: program.process.poll() is not None, STOP_DEADLINE_S, "the end of the program")
    err = program.err()
    assert program.process.returncode == 0, err
    assert "Traceback" not in err
    assert "Broken pipe" not in err


def test_a_ray_that_another_run_has_for_itself_is_no_cluster(
    workspace: Path, start_program: Callable[..., Program]
) -> None:
    write_files(workspace / "data", {"a.txt": b"1"})
    common = ["+extractor=mine", "kafka=embedded", "upload.path=data"]
    running = start_program(*common, RAY_AUTH_MODE="disabled")
    address = wait_until(lambda: gcs_address(running), STOP_DEADLINE_S, "its Ray")
    wait_until(lambda: "1 files done" in running.err(), STOP_DEADLINE_S, "its file")
    code, _, err = start_program(*common, "ray=cluster", f"ray.address={address}", RAY_AUTH_MODE="disabled").wait()
    assert code == 1
    assert f"the Ray found at {address} is no cluster: another run of ray_reproducer has it for itself" in err
    assert running.process.poll() is None


def gcs_address(program: Program) -> str:
    """Where the Ray of a program's own is; "" if there is none yet."""
    family = psutil.Process(program.process.pid).children(recursive=True)
    found = (re.search(r"--gcs-address=(\S+)", " ".join(process.cmdline())) for process in family)
    return next((match[1] for match in found if match), "")
