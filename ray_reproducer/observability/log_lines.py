"""The program's log lines, as OpenMSIStream writes them, and where they go besides stderr.

Rules:

1. A line is ``[Name YYYY-MM-DD HH:MM:SS] LEVEL: text``, in local time; a text of several lines stays so.
2. Who logs never waits: lines are kept until a thread fetches them, up to a limit, and how many were left out is said.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

from ray_reproducer.observability import files

MAX_LINES_WAITING: Final = 10_000
"""Lines that may wait for the log file: a second of a flood."""


def log_line(name: str, level: int, text: str, epoch_s: float) -> str:
    """Write a line, without a newline at its end."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch_s))
    return f"[{name} {when}] {logging.getLevelName(level)}: {text}"


class LineBuffer(logging.Handler):
    """Keeps lines until they are fetched, the newest ones if there are too many.

    Args:
        level: what is below it is not kept.
        limit: how many lines are kept.
    """

    def __init__(self, level: int, limit: int) -> None:
        super().__init__(level)
        self._lines: deque[str] = deque(maxlen=limit)
        self._left_out = 0
        self._kept = threading.Lock()

    def add(self, name: str, level: int, text: str) -> None:
        """Keep a line, if its level is high enough."""
        if level >= self.level:
            self._keep(log_line(name, level, text, time.time()))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line of a log record; one that can't be formatted is shown on stderr, as logging does it."""
        try:
            self._keep(log_line(record.name, record.levelno, self.format(record), record.created))
        except Exception:  # noqa: BLE001 - its arguments are anybody's
            self.handleError(record)

    def take(self) -> tuple[list[str], int]:
        """Hand over the lines that are kept, and tell how many were left out before them."""
        with self._kept:
            lines, left_out = list(self._lines), self._left_out
            self._lines.clear()
            self._left_out = 0
        return lines, left_out

    def put_back(self, lines: list[str], left_out: int) -> None:
        """Take back what was handed over and could not be written, as far as there is room."""
        with self._kept:
            room = (self._lines.maxlen or 0) - len(self._lines)
            fitting = lines[len(lines) - min(room, len(lines)) :]
            self._lines.extendleft(reversed(fitting))
            self._left_out += left_out + len(lines) - len(fitting)

    def _keep(self, line: str) -> None:
        with self._kept:
            if len(self._lines) == self._lines.maxlen:
                self._left_out += 1
            self._lines.append(line)


class LogFile:
    """The log file: what a buffer holds is added to it. It may be moved or deleted at any time.

    Args:
        path: where it is; its directory is made.
        level: what is below it is not written.
        name: of the program, for what is said about the log itself.
    """

    def __init__(self, path: Path, level: int, name: str) -> None:
        self.buffer = LineBuffer(level, MAX_LINES_WAITING)
        self._path = path
        self._name = name

    @property
    def what(self) -> str:
        """What it is, for a warning."""
        return f"the log file {self._path}"

    def update(self, *, last: bool) -> None:
        """Write the lines that wait.

        Raises:
            OSError: that is not possible; they wait on.
        """
        lines, left_out = self.buffer.take()
        if not lines:
            return
        text = lines
        if left_out:
            said = f"({left_out:,} lines were left out here)"
            text = [log_line(self._name, logging.WARNING, said, time.time()), *lines]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.append(self._path, "".join(f"{line}\n" for line in text))
        except OSError:
            self.buffer.put_back(lines, left_out)
            raise
