"""The programs that are measured, and how each is started and ended.

Every program gets a working directory of its own, the same topic, a results topic of its own, and is a process of its
own; its output goes to a file that is shown when it fails.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.broker import ROOT
from benchmarks.sampler import Sampler, Usage
from benchmarks.workload import Workload

_KILL_AFTER_S = 20.0
_CHILDREN_END_S = 3.0
_POLL_S = 0.05
_OUTPUT_TAIL = 3_000


@dataclass(frozen=True)
class Job:
    """What a program has to do.

    Attributes:
        workload: the files on the topic.
        bootstrap_servers: the broker.
        source: the topic with the files.
        results: the topic for the results.
        group: consumer group, new for each run.
        directory: working directory of the program, empty.
        overrides: more arguments for this project's program, as `key=value`.
    """

    workload: Workload
    bootstrap_servers: str
    source: str
    results: str
    group: str
    directory: Path
    overrides: Sequence[str] = ()

    def arguments(self) -> list[str]:
        """Arguments that `raw_loop` and `peer_program` have in common."""
        return [
            f"--bootstrap-servers={self.bootstrap_servers}",
            f"--source={self.source}",
            f"--results={self.results}",
            f"--group={self.group}",
            f"--function={self.workload.function}",
        ]


@dataclass(frozen=True)
class Program:
    """A program to measure.

    Attributes:
        name: what it is called on the command line.
        title: what it is called in tables.
        whole: whether it goes through the whole workload.
        command: from a job, the command to start, with the job's directory prepared.
    """

    name: str
    title: str
    whole: bool
    command: Callable[[Job], list[str]]


@dataclass
class Run:
    """One run of a program.

    Attributes:
        started: when, in seconds since the epoch.
        seconds: until the process had ended.
        exit_code: of the process; None: it was ended after its deadline.
        usage: memory and processor time.
        machine_cpu_s: processor time of the whole machine meanwhile: the broker's, and of whoever else disturbed.
        output: the end of what it printed.
    """

    started: float
    seconds: float = 0.0
    exit_code: int | None = None
    usage: Usage = field(default_factory=Usage)
    machine_cpu_s: float = 0.0
    output: str = ""


def _ours(job: Job) -> list[str]:
    extractors = job.directory / "conf" / "extractor"
    extractors.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("extraction.py"), job.directory / "bench_extraction.py")
    target = f"_target_: bench_extraction.{job.workload.function}\n"
    (extractors / "bench.yaml").write_text(target, encoding="utf-8")
    return [
        sys.executable,
        "-m",
        "ray_reproducer",
        "+extractor=bench",
        f"kafka.bootstrap.servers={job.bootstrap_servers}",
        f"topics.source={job.source}",
        f"topics.results={job.results}",
        f"group_id={job.group}",
        "run=drain",
        *job.overrides,
    ]


def _raw(job: Job) -> list[str]:
    return [sys.executable, "-m", "benchmarks.raw_loop", *job.arguments()]


def peer_python() -> str | None:
    """The Python of an environment that has OpenMSIStream: `OPENMSISTREAM_PYTHON`, or that of `.peer-venv`."""
    given = os.environ.get("OPENMSISTREAM_PYTHON", "")
    if given:
        return given
    own = ROOT / ".peer-venv" / "bin" / "python"
    return str(own) if own.exists() else None


def _openmsistream(job: Job) -> list[str]:
    python = peer_python() or "python3"
    return [python, "-m", "benchmarks.peer_program", *job.arguments(), f"--enough={job.workload.peer_results}"]


PROGRAMS = {
    program.name: program
    for program in (
        Program("ours", "ray_reproducer", whole=True, command=_ours),
        Program("raw", "raw loop", whole=True, command=_raw),
        Program("openmsistream", "OpenMSIStream", whole=False, command=_openmsistream),
    )
}


def run(
    program: Program,
    job: Job,
    deadline_s: float,
    *,
    on_new_role: Callable[[int, str], None] | None = None,
) -> Run:
    """Start a program, watch it, wait for its end, and leave nothing of it behind.

    Args:
        program: what to start.
        job: what it has to do.
        deadline_s: after so many seconds it is ended.
        on_new_role: passed on to the sampler.
    """
    command = program.command(job)
    given = os.environ.get("PYTHONPATH", "")
    paths = [str(ROOT), str(ROOT / "scripts"), *([given] if given else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    output = job.directory / "output.txt"
    with output.open("wb") as stream:
        result = Run(started=time.time())
        begin, machine_before = time.monotonic(), _machine_cpu_s()
        # A session of its own: signals of this terminal go to the benchmark, which then ends the program.
        process = subprocess.Popen(
            command, cwd=job.directory, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
        sampler = Sampler(process.pid, on_new_role=on_new_role)
        try:
            result.exit_code = _wait(process, begin + deadline_s)
            result.seconds = round(time.monotonic() - begin, 2)
            result.machine_cpu_s = round(_machine_cpu_s() - machine_before, 2)
        finally:
            result.usage = sampler.stop()
            _end(process, list(sampler.seen.values()))
    result.output = output.read_text(encoding="utf-8", errors="replace")[-_OUTPUT_TAIL:]
    return result


def _wait(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    while time.monotonic() < deadline:
        exit_code = process.poll()
        if exit_code is not None:
            return exit_code
        time.sleep(_POLL_S)
    return None


def _machine_cpu_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def _end(process: subprocess.Popen[bytes], tree: list[psutil.Process]) -> None:
    """End a program that goes on, with all that it started; its own way first."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_AFTER_S)
    _, alive = psutil.wait_procs(tree, timeout=_CHILDREN_END_S)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
