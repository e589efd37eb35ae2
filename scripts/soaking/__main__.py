"""Command line of `scripts/soak`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.broker import Broker, broker
from soaking import report
from soaking.run import Soak
from tests.faults.catalogue import STAGES

_PLAIN_WIDTH = 120


def main() -> int:
    """Run what the command line asks for.

    Returns:
        Exit code: 0 all well, 1 something was lost, there twice, wrong, or not recovered.
    """
    args = _arguments()
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    kept = args.keep or Path(tempfile.mkdtemp(prefix="soak-failures-"))
    described = machine.describe(Broker("", own="KAFKA_BOOTSTRAP_SERVERS" not in os.environ))
    began = time.monotonic()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-", dir=args.dir))

        @cache
        def server() -> Broker:
            return stack.enter_context(broker(args.dir))

        def say(text: str) -> None:
            minutes = (time.monotonic() - began) / 60
            console.print(f"{minutes:5.1f} min {text}", highlight=False, markup=False, soft_wrap=True)

        soak = Soak(lambda: server().bootstrap_servers, Path(directory), kept, args.seed, say, args.faults)
        try:
            soak.run(args.minutes, [STAGES[name] for name in args.stages])
        finally:
            minutes = (time.monotonic() - began) / 60
            report.show(console, soak.tally, described, args.seed, minutes)
            if args.output:
                with args.output.open("w", encoding="utf-8") as file:
                    plain = Console(file=file, width=_PLAIN_WIDTH, no_color=True)
                    report.show(plain, soak.tally, described, args.seed, minutes)
    if not soak.tally.is_clean:
        console.print(f"logs of the failures: {kept}", highlight=False, markup=False)
    return 0 if soak.tally.is_clean else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Disturb the program in every known way, one fault after the other, on a real broker "
        "(KAFKA_BOOTSTRAP_SERVERS, or one that is started for this run), and count what is lost or there twice.",
    )
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="how long faults strike; the end takes a little more"
    )
    parser.add_argument("--seed", type=int, default=1, help="what happens follows from it")
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES), help="what the program runs on")
    parser.add_argument("--faults", nargs="*", default=[], metavar="TEXT", help="only faults with this in their names")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table as plain text, too")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where logs go after a failure")
    parser.add_argument("--dir", type=Path, help="directory with room for the broker (default: the system's)")
    return parser.parse_args()


if __name__ == "__main__":
    # As an exception, so that programs are ended, topics deleted and the broker stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
