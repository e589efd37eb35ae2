"""Commands on stdin while a program runs, each a line: ``q`` stops it, ``c`` prints its counts.

Rules:

1. A terminal is listened to only while this program is in its foreground: reading from the background would stop it.
2. A pipe is listened to if that was asked for. Its end ends the listening, never the program: ``</dev/null``, ``nohup``
   and pipelines of others mean nothing by it. Files and devices are not listened to.
3. Listening keeps nothing from ending, and reads no more than what is there.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final

from ray_reproducer.observability.view_settings import ConsoleMode

QUIT: Final = frozenset({"q", "quit"})
CHECK: Final = frozenset({"c", "check"})
READ_BYTES: Final = 4096
MAX_LINE_BYTES: Final = 1024
"""More than any command has: what is longer is none, and is not kept."""
BACKGROUND_LOOK_S: Final = 1.0
"""How often to look whether the program is in the foreground again."""
JOIN_TIMEOUT_S: Final = 1.0
"""How long the end waits for the listener, which may be carrying out a command."""


class ConsoleCommands:
    """Listens as long as the context lasts, in a thread of its own.

    Args:
        mode: what is listened to.
        on_quit: called for each ``q`` or ``quit``.
        on_check: called for each ``c`` or ``check``.
        on_other: called with a line that is no command, the first time only.
        descriptor: what is read; None: stdin of the process.
    """

    def __init__(
        self,
        mode: ConsoleMode,
        on_quit: Callable[[], None],
        on_check: Callable[[], None],
        on_other: Callable[[str], None],
        descriptor: int | None = None,
    ) -> None:
        self._on_quit = on_quit
        self._on_check = on_check
        self._on_other = on_other
        self._other_is_said = False
        self._descriptor = _listened_to(mode, _stdin() if descriptor is None else descriptor)
        self._thread: threading.Thread | None = None
        self._wake: tuple[int, int] | None = None

    @property
    def listens(self) -> bool:
        """Whether there is anything to listen to."""
        return self._descriptor is not None

    def __enter__(self) -> ConsoleCommands:
        """Begin to listen."""
        if self._descriptor is not None:
            self._wake = os.pipe()
            self._thread = threading.Thread(
                target=self._run, args=(self._descriptor, self._wake[0]), name="console", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more."""
        if self._thread is None or self._wake is None:
            return
        reading, writing = self._wake
        os.close(writing)
        self._thread.join(JOIN_TIMEOUT_S)
        if not self._thread.is_alive():  # else it still needs it, and the process is about to end
            os.close(reading)

    def _run(self, descriptor: int, wake: int) -> None:
        line = b""
        while True:
            foreground = _in_foreground(descriptor)
            watched = [descriptor, wake] if foreground else [wake]
            ready, _, _ = select.select(watched, [], [], BACKGROUND_LOOK_S)
            if wake in ready:
                return
            if descriptor not in ready or not _in_foreground(descriptor):
                continue
            data = _read(descriptor)
            *lines, line = (line + data).split(b"\n")
            for whole in lines:
                self._obey(whole)
            if not data:
                self._obey(line)
                return
            line = line[: MAX_LINE_BYTES + 1]

    def _obey(self, line: bytes) -> None:
        command = line.decode("utf-8", "replace").strip()
        if command.lower() in QUIT:
            self._on_quit()
        elif command.lower() in CHECK:
            self._on_check()
        elif command and not self._other_is_said:
            self._other_is_said = True
            self._on_other(command[:MAX_LINE_BYTES])


def _stdin() -> int | None:
    try:
        return sys.stdin.fileno()
    # None, closed, or replaced by something without a descriptor (a notebook's, a test's).
    except (AttributeError, OSError, ValueError):
        return None


def _listened_to(mode: ConsoleMode, descriptor: int | None) -> int | None:
    if mode == "off" or descriptor is None:
        return None
    try:
        pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        wanted = os.isatty(descriptor) or (pipe and mode == "terminal_or_pipe")
    except OSError:
        return None
    return descriptor if wanted else None


def _in_foreground(descriptor: int) -> bool:
    try:
        return not os.isatty(descriptor) or os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False  # it is not this process's terminal any more


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, READ_BYTES)
    except OSError:  # the terminal is gone
        return b""
