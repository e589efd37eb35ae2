"""Command line of `scripts/bench`."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path

from rich.console import Console

from benchmarks import core, machine, report
from benchmarks.broker import ROOT, broker, fetch_only, topics
from benchmarks.profiling import Profiler
from benchmarks.programs import PROGRAMS, Job, Program, peer_python, run
from benchmarks.results import measure
from benchmarks.workload import DISK, MEMORY, PARTITIONS, WORKLOADS, Workload, produce

_HEAP_LIMIT_MB = 400.0
_TIMES_DISK = 3
"""Free disk asked for: a topic, what Ray spills of it, and room."""


def main() -> int:
    """Run what the command line asks for.

    Returns:
        Exit code: 0 all right, 1 a result was wrong or (not with --quick) a floor not reached, 2 it can't be measured
        here.
    """
    args = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 190)
    if args.what == "core":
        fine = core.run(console, args.output / f"{args.name}.json", machine.describe(None), quick=args.quick)
        return 0 if fine else 1
    about_memory = {"memory": MEMORY, "disk": DISK}
    workloads = [about_memory[args.what]] if args.what in about_memory else [WORKLOADS[n] for n in args.workloads]
    if args.quick:
        workloads = [workload.quick() for workload in workloads]
    programs = [PROGRAMS[name] for name in args.programs]
    if any(program.name == "openmsistream" for program in programs) and peer_python() is None:
        console.print("No OpenMSIStream: set OPENMSISTREAM_PYTHON to the python of an environment that has it, or")
        console.print("make one: python3 -m venv .peer-venv && .peer-venv/bin/pip install openmsistream==1.8.8")
        console.print("To measure without it: --programs ours,raw")
        return 2
    sections: list[report.Section] = []
    directory = args.dir or Path(tempfile.gettempdir())
    with broker(args.dir) as server:
        described = machine.describe(server)
        settings = {"quick": args.quick, "repeat": args.repeat, "overrides": args.set, "partitions": PARTITIONS}
        for number, workload in enumerate(workloads):
            need = _TIMES_DISK * workload.total_bytes
            if shutil.disk_usage(directory).free < need:
                console.print(f"{workload.name}: needs {need / 1e9:.0f} GB of free disk in {directory}")
                return 2
            turned = programs[number % len(programs) :] + programs[: number % len(programs)]
            section = _measure(console, args, server.bootstrap_servers, workload, turned)
            sections.append(section)
            report.show(console, section)
            # Written after each workload: an interrupted run keeps what it has.
            report.save(args.output / f"{args.name}.json", described, settings, sections)
    console.print(f"written: {args.output / args.name}.json")
    return 0 if all(_fine(console, args, section) for section in sections) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure this program, a raw loop and OpenMSIStream side by side on a real broker "
        "(KAFKA_BOOTSTRAP_SERVERS, or one that is started for this run).",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("speed", "memory", "disk", "core"),
        default="speed",
        help="speed: the four workloads; memory: 10 GB of files that are all open at once; disk: 2 GB files that "
        "a worker reads from disk; core: the committer's time a file without Ray and broker, up to a million files",
    )
    parser.add_argument("--workloads", type=_names(WORKLOADS), default=list(WORKLOADS), help=",".join(WORKLOADS))
    parser.add_argument("--programs", type=_names(PROGRAMS), help=",".join(PROGRAMS))
    parser.add_argument("--quick", action="store_true", help="few files: to see that all works, not to measure")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each program; the median counts")
    parser.add_argument("--name", help="name of the JSON file (default: speed, memory, with -quick)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks", help="where the JSON goes")
    parser.add_argument("--dir", type=Path, help="directory with room for the topics (default: the system's)")
    parser.add_argument("--deadline", type=float, default=600.0, help="seconds after which a program is ended")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for this program; repeatable")
    parser.add_argument(
        "--profile",
        nargs="?",
        const="ConsumerActor|CommitterActor|raw_loop",
        metavar="REGEX",
        help="record processes with py-spy into OUTPUT/profiles (slows them down)",
    )
    args = parser.parse_args()
    args.programs = args.programs or (list(PROGRAMS) if args.what == "speed" else ["ours"])
    if args.what == "disk":
        args.set = ["extraction.datafile=disk", *args.set]
    args.name = args.name or args.what + ("-quick" if args.quick else "")
    return args


class _names:  # noqa: N801 - reads as a function where it is used
    """An argparse type: names from a list, with commas."""

    def __init__(self, known: dict[str, Program] | dict[str, Workload]) -> None:
        self._known = known

    def __call__(self, text: str) -> list[str]:
        """Split and check."""
        names = text.split(",")
        for name in names:
            if name not in self._known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(self._known)}")
        return names


def _measure(
    console: Console, args: argparse.Namespace, bootstrap_servers: str, workload: Workload, programs: list[Program]
) -> report.Section:
    """Put one workload on a topic, run every program on it, and delete it."""
    name = f"bench-{workload.name}-{uuid.uuid4().hex[:8]}"
    with topics(bootstrap_servers, PARTITIONS, source=name):
        console.print(f"{workload.name}: producing {workload.total_bytes / 1e9:.2f} GB ...")
        begin = time.monotonic()
        messages = produce(workload, bootstrap_servers, name)
        produced_s = time.monotonic() - begin
        # One pass before the first program: the topic is in the page cache (as far as it fits) for all alike.
        section = report.Section(workload, messages, produced_s, fetch_only(bootstrap_servers, name))
        for turn in range(args.repeat):
            # Nobody is always first: the order turns.
            for program in programs[turn % len(programs) :] + programs[: turn % len(programs)]:
                row = _run(args, bootstrap_servers, workload, program, name)
                section.rows.append(row)
                console.print(f"  {program.title}: {row.measured.steady:,.1f} {workload.unit}")
                if row.faults:
                    console.print(f"  {'; '.join(row.faults)}\n{row.run.output}", markup=False, highlight=False)
                if args.what in {"memory", "disk"}:
                    report.show_processes(console, row)
    return section


def _run(
    args: argparse.Namespace, bootstrap_servers: str, workload: Workload, program: Program, source: str
) -> report.Row:
    """Run one program once."""
    results = f"{source}-{program.name}-{uuid.uuid4().hex[:4]}"
    created = [results, f"{results}.dead_letters"]
    with topics(bootstrap_servers, PARTITIONS, results=created), tempfile.TemporaryDirectory(prefix="bench-") as home:
        job = Job(workload, bootstrap_servers, source, results, results, Path(home), args.set)
        profiler = None
        if args.profile:
            prefix = f"{args.name}-{workload.name}-{program.name}"
            profiler = Profiler(args.profile, args.output / "profiles", prefix)
        watch = profiler.new_role if profiler else None
        done = run(program, job, args.deadline, on_new_role=watch)
        if profiler:
            profiler.finish()
        measured = measure(workload, bootstrap_servers, results, done.started, whole=program.whole)
    return report.Row(program.name, done, measured)


def _fine(console: Console, args: argparse.Namespace, section: report.Section) -> bool:
    # With few files the start of the workers is most of what is measured: no verdict on that.
    fast = args.quick or section.floor_reached() is not False
    fine = fast and not any(row.faults for row in section.rows)
    if args.what in {"memory", "disk"}:
        for row in section.rows:
            for actor, heap in report.largest_actor_heaps(row).items():
                said = "under" if heap < _HEAP_LIMIT_MB else "[bold red]NOT under[/]"
                console.print(f"{actor}: {heap:.0f} MB, {said} {_HEAP_LIMIT_MB:.0f} MB")
                fine = fine and heap < _HEAP_LIMIT_MB
    return fine


if __name__ == "__main__":
    # As an exception, so that programs are ended, topics deleted and the broker stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if "KAFKA_BOOTSTRAP_SERVERS" not in os.environ and not (ROOT / "scripts" / "kafka").exists():
        sys.exit("no broker: scripts/kafka is missing; set KAFKA_BOOTSTRAP_SERVERS")
    sys.exit(main())
