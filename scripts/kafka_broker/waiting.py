"""Waiting that can be interrupted, and commands that are waited for."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import ClassVar

_POLL_S = 0.1
LOG_TAIL_LINES = 30


class KafkaScriptError(Exception):
    """What went wrong and what to do, for the person at the terminal."""


def say(text: str) -> None:
    """Tell the person what goes on; standard output is kept for the answer."""
    print(f"scripts/kafka: {text}", file=sys.stderr, flush=True)


class Interruption:
    """Ctrl-C, SIGTERM and SIGHUP become an exception, but only where :meth:`check` is called.

    An exception out of a signal handler could come between the birth of a process and the line that remembers it.
    """

    signal_number: ClassVar[int | None] = None

    @classmethod
    def install(cls) -> None:
        """Take the signals over."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, cls._remember)

    @classmethod
    def _remember(cls, number: int, _frame: FrameType | None) -> None:
        cls.signal_number = number

    @classmethod
    def check(cls) -> None:
        """Raise if a signal has come.

        Raises:
            SystemExit: with 128 + the signal's number, as shells do.
        """
        if cls.signal_number is not None:
            raise SystemExit(128 + cls.signal_number)


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Ask until it is so, at most so long; ends at an interruption."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        Interruption.check()
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def run(command: list[str], *, what: str, timeout_s: float, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        KafkaScriptError: it failed, or took too long; with the end of what it printed.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env and dict(env)
        )
        try:
            ended = wait_for(lambda: process.poll() is not None, timeout_s)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    if not ended or process.returncode != 0:
        reason = f"exit code {process.returncode}" if ended else f"no end after {timeout_s:.0f} s"
        tail = "\n".join(text.splitlines()[-LOG_TAIL_LINES:])
        raise KafkaScriptError(f"{what} failed ({reason}): {' '.join(command)}\n{tail}")
    return text
