"""User code is a guest: whatever it does costs its own file, and no other; on real Ray, in one life of the program."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e import nasty_lab
from tests.e2e.conftest import Files, Program, write_files
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

GOOD = 300
LEAKY = 40
COPIES = 2
"""Of those that return, so that they meet other files in their process."""
TIMEOUT_S = 5
WARN_AFTER_S = 2
MEMORY_ALLOWED_BYTES = 5 * 1024**3
"""More than the program needs (1 GB), less than the nasty file eats; a busy machine may change its use meanwhile."""
CHILDREN_DEADLINE_S = 30.0
RAISE: Mapping[str, str] = {
    "exit": "SystemExit: bye",
    "keyboard": "KeyboardInterrupt",
    "generator": "GeneratorExit",
    "mute": "MuteError: (its text can't be made)",
    "much": "ValueError: much \\ud800much",
    "deep": "RecursionError: maximum recursion depth exceeded",
    "alarm": "TimeoutError: my own alarm",
    "write": "TypeError: cannot modify read-only memory",
}
JSON: Mapping[str, tuple[str, str]] = {
    "list": ("not_a_dict", "the extractor returned list, not a dictionary"),
    "cycle": ("not_json", "metadata['inner'][0] lies within itself"),
    "huge": ("not_json", "metadata['scan'][0]['n'] is an integer beyond 64 bits"),
    "big": ("result_too_large", "the metadata is 52428811 bytes of JSON"),
    "endless": ("not_json", "metadata['lines'] is a callable_iterator, which is not read"),
}
KINDS = sorted(name.removeprefix("nasty_") for name in vars(nasty_lab) if name.startswith("nasty_"))


def of(prefix: str) -> list[str]:
    return [kind for kind in KINDS if kind.startswith(f"{prefix}_")]


@pytest.fixture(name="nasty")
def _nasty(workspace: Path) -> Path:
    """Make the workspace that of the nasty extractor; return where it notes the children that it leaves."""
    shutil.copy(nasty_lab.__file__, workspace / "my_lab.py")
    pids = workspace.parent / "pids"
    pids.mkdir()
    (workspace / "conf" / "extractor" / "mine.yaml").write_text(f"_target_: my_lab.extract\npids: {pids}\n")
    return pids


def files_of(kinds: list[str], good: int) -> Files:
    """One-chunk files of these kinds, among good ones, shuffled."""
    wanted = ["good"] * good + kinds
    random.Random(7).shuffle(wanted)
    return {f"{number:03}.{kind}": f"content {number}".encode() for number, kind in enumerate(wanted)}


def lines_of(out: str) -> dict[str, Any]:
    """The outcomes on stdout, by path; each line must be one."""
    lines = [json.loads(line) for line in out.splitlines()]
    by_path = {line.pop("path"): line for line in lines}
    assert len(by_path) == len(lines)
    return by_path


def test_each_nasty_file_costs_itself_and_no_other(
    nasty: Path, workspace: Path, start_program: Callable[..., Program]
) -> None:
    kinds = [kind for family in ("raise", "json", "ok", "crash", "hang") for kind in of(family)]
    files = files_of(kinds + of("ok") * (COPIES - 1), GOOD)
    write_files(workspace.parent / "data", files)
    code, out, err = start_program(
        "+extractor=mine", "kafka=embedded", f"upload.path={workspace.parent / 'data'}", "run=drain",
        "run.print_results=true", f"extraction.timeout={TIMEOUT_S}", f"extraction.warn_after={WARN_AFTER_S}",
        "extraction.max_crashes=2", "ray.num_cpus=2",
    ).wait(300)  # fmt: skip

    assert code == 3, err
    outcomes = lines_of(out)
    assert outcomes.keys() == files.keys()
    for path, outcome in outcomes.items():
        check(path, outcome, files[path].decode(), workspace)
    told = set(re.findall(r"^(\S+): the extractor has been at it for \d+ s \(process \d+ on .*\)\.", err, re.MULTILINE))
    # Five a minute at most; on a busy machine others may take as long.
    assert told & {path for path in files if path.partition(".")[2].startswith("hang_")}
    children = {path.name: int(path.read_text()) for path in nasty.iterdir()}
    assert {name.split(".")[1] for name in children} == {"crash_exit", "crash_fault", "hang_c", "ok_child"}
    gone = children.values()
    wait_until(lambda: not any(map(alive, gone)), CHILDREN_DEADLINE_S, f"the end of what workers started ({children})")


def test_a_file_that_eats_all_memory_costs_itself_and_no_other(
    nasty: Path, workspace: Path, start_program: Callable[..., Program]
) -> None:
    """Ray's own monitor, told that a few gigabytes more than are used now are too many."""
    assert nasty.exists()
    memory = psutil.virtual_memory()
    allowed = min(0.95, (memory.total - memory.available + MEMORY_ALLOWED_BYTES) / memory.total)
    files = files_of(["memory_eat"], 20)
    write_files(workspace.parent / "data", files)
    code, out, err = start_program(
        "+extractor=mine", "kafka=embedded", f"upload.path={workspace.parent / 'data'}", "run=drain",
        "run.print_results=true", "extraction.max_crashes=1", "ray.num_cpus=1",
        RAY_memory_usage_threshold=f"{allowed:.4f}", RAY_memory_monitor_refresh_ms="50",
    ).wait(150)  # fmt: skip

    assert code == 3, err
    outcomes = lines_of(out)
    assert outcomes.keys() == files.keys()
    for path, outcome in outcomes.items():
        if path.endswith(".good"):
            check(path, outcome, files[path].decode(), workspace)
        else:
            assert (outcome["outcome"], outcome["reason"]) == ("dead_letter", "out_of_memory")
            assert "killed due to the node running low on memory" in outcome["error"]


def test_files_that_leak_wear_out_their_process_and_harm_no_other(
    nasty: Path, workspace: Path, start_program: Callable[..., Program]
) -> None:
    assert nasty.exists()
    files = files_of(["leak_files"] * LEAKY, 0)
    assert LEAKY * nasty_lab.FILES_LEFT_OPEN > 3 * nasty_lab.LEAK_LIMIT
    write_files(workspace.parent / "data", files)
    code, out, err = start_program(
        "+extractor=mine", "kafka=embedded", f"upload.path={workspace.parent / 'data'}", "run=drain",
        "run.print_results=true", "ray.num_cpus=1",
    ).wait()  # fmt: skip
    assert code == 0, err
    assert lines_of(out) == {path: {"outcome": "result", "metadata": {}} for path in files}


def check(path: str, outcome: dict[str, Any], content: str, workspace: Path) -> None:
    family, _, kind = path.partition(".")[2].partition("_")
    if family == "good":
        metadata = outcome["metadata"]
        assert metadata == {
            "content": content,
            "directory": str(workspace),
            "environment": "as before",
            "path": False,
            "home": True,
            "umask": True,
            "signals": [False] * 3,
            "alarm": 0.0,
            "deep": metadata["deep"],
            "streams": [".out", ".err"],
            "kept": True,
        }, path
        assert metadata["deep"] >= 1000
    elif family == "ok":
        assert outcome == {"outcome": "result", "metadata": {"code": 0} if kind == "processes" else {}}, path
    else:
        reason, text = {
            "raise": ("extractor_raised", RAISE.get(kind)),
            "json": JSON.get(kind, ("", "")),
            "crash": ("worker_crashed", "the extractor ended its worker 2 times"),
            "hang": ("timeout", f"the extractor took longer than extraction.timeout={TIMEOUT_S} seconds"),
        }[family]
        assert (outcome["outcome"], outcome["reason"]) == ("dead_letter", reason), path
        assert text is not None
        assert text in outcome["error"], path


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
