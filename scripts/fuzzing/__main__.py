"""Command line of `scripts/fuzz`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.broker import ROOT
from benchmarks.machine import describe

_DIRECTORY: Final = ROOT / "tests" / "fuzz"
_SOAK_EXAMPLES: Final = 100_000
_NICENESS: Final = 10


@dataclass(frozen=True)
class Ran:
    """What one file of fuzz tests took.

    Attributes:
        name: of the file, without ``test_``.
        targets: how many examples each of its targets ran.
        seconds: from start to end.
        peak_mb: the most memory of its process, or of one that it started (resident).
        output: what pytest said.
        code: pytest's exit code; negative: the signal that ended it.
    """

    name: str
    targets: dict[str, int]
    seconds: float
    peak_mb: float
    output: str
    code: int


def main() -> int:
    """Run the tests and show what they took.

    Returns:
        Exit code: 0 all well, 1 a test failed or its process died.
    """
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description="Run the fuzz tests (tests/fuzz) with a number of examples over all targets."
    )
    parser.add_argument(
        "--examples", type=int, default=_SOAK_EXAMPLES, help=f"over all targets (default: {_SOAK_EXAMPLES:,})"
    )
    parser.add_argument("--only", help="part of a file's name: commit_metadata, messages...")
    parser.add_argument("--output", type=Path, help="write the table here, too")
    args = parser.parse_args()
    console = Console(width=120, record=True)
    files = [file for file in sorted(_DIRECTORY.glob("test_*.py")) if not args.only or args.only in file.name]
    machine = describe(None)
    ran = [_run(file, args.examples) for file in files]
    _show(console, machine, ran)
    if args.output:
        args.output.write_text(console.export_text(), encoding="utf-8")
    for one in ran:
        if one.code:
            sys.stderr.write(f"{one.output}\nscripts/fuzz: {one.name} FAILED ({one.code})\n")
    return int(any(one.code for one in ran))


def _run(file: Path, examples: int) -> Ran:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        report, output = Path(directory, "report.json"), Path(directory, "output.txt")
        environment = {
            **os.environ,
            "HYPOTHESIS_PROFILE": "soak",
            "FUZZ_EXAMPLES": str(examples),
            "FUZZ_REPORT": str(report),
        }
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command = ["nice", "-n", str(_NICENESS), *pytest, f"--basetemp={Path(directory, 'files')}", str(file)]
        began = time.monotonic()
        with output.open("wb") as said:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
            # By hand: it gives the memory of this one process and its children, which `wait` does not.
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        targets: dict[str, int] = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
        text = output.read_text(encoding="utf-8", errors="replace")
    seconds = time.monotonic() - began
    return Ran(file.stem.removeprefix("test_"), targets, seconds, usage.ru_maxrss / 1024, text, process.returncode)


def _show(console: Console, machine: dict[str, Any], ran: list[Ran]) -> None:
    for key in ("date", "git_commit", "git_changed_files", "cpu", "cores", "memory_gb", "system", "python"):
        console.print(f"{key}: {machine[key]}", highlight=False)
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    console.print(f"packages: {packages}", highlight=False)
    table = Table(title="fuzz tests", title_justify="left")
    table.add_column("file")
    table.add_column("target")
    for heading in ("examples", "seconds", "peak memory"):
        table.add_column(heading, justify="right")
    table.add_column("well")
    for one in ran:
        for number, (target, examples) in enumerate(sorted(one.targets.items()) or [("-", 0)]):
            of_file = (f"{one.seconds:,.0f}", f"{one.peak_mb:,.0f} MB", "no" if one.code else "yes")
            table.add_row("" if number else one.name, target, f"{examples:,}", *(("", "", "") if number else of_file))
    table.add_section()
    examples = sum(count for one in ran for count in one.targets.values())
    table.add_row("all", "", f"{examples:,}", f"{sum(one.seconds for one in ran):,.0f}", "", "")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
