"""The log topic: log lines of some seconds in one message, for those who collect logs from Kafka.

Rules:

1. A message is ``{"timestamp": seconds since the epoch, "messages": [lines]}``, the lines as in the log file.
2. Nothing is sent while nothing is logged. What waits at the end of the run is sent.
3. A message stays far below what a broker takes: more lines go into several messages, a long line is cut.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import orjson

from ray_reproducer.core.outcome import cut
from ray_reproducer.observability.log_lines import LineBuffer, log_line
from ray_reproducer.observability.side_channel import FLUSH_S, SideChannel

Clock = Callable[[], float]
"""Seconds, never going back."""
MAX_LINES_WAITING: Final = 65_536
"""Lines that may wait for their message; of more, the newest are kept."""
MAX_MESSAGE_CHARS: Final = 200_000
"""Lines in one message: even in four bytes a character less than the megabyte that brokers take."""


class LogTopic:
    """Sends what a buffer holds to a topic.

    Args:
        channel: how it is sent.
        program_id: how the messages' key begins.
        level: what is below it is not sent.
        interval_s: for how long lines are collected, in seconds.
        clock: the time; for tests.
    """

    def __init__(
        self, channel: SideChannel, program_id: str, level: int, interval_s: float, clock: Clock = time.monotonic
    ) -> None:
        self.buffer = LineBuffer(level, MAX_LINES_WAITING)
        self._channel = channel
        self._program_id = program_id
        self._interval_s = interval_s
        self._clock = clock
        self._next_s = clock() + interval_s

    @property
    def what(self) -> str:
        """What it is, for a warning."""
        return "the log topic"

    def update(self, *, last: bool) -> None:
        """Send the lines that wait, if it is time.

        Raises:
            ConfigurationError: the client library refuses a setting.
        """
        if last or self._clock() >= self._next_s:
            self._next_s = self._clock() + self._interval_s
            self._send()
        self._channel.poll()
        if last:
            self._channel.flush(time.monotonic() + FLUSH_S)

    def _send(self) -> None:
        lines, left_out = self.buffer.take()
        if left_out:
            said = f"({left_out:,} lines were left out here)"
            lines.insert(0, log_line(self._program_id, logging.WARNING, said, time.time()))
        for part in _parts(lines):
            message = {"timestamp": time.time(), "messages": part}
            # What is lost is in the log file, and on stderr.
            self._channel.send(f"{self._program_id}_log", orjson.dumps(message), lambda: None)


def _parts(lines: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for line in lines:
        # UTF-8 can't carry a lone surrogate of a file name.
        text = cut(line.encode("utf-8", "backslashreplace").decode(), MAX_MESSAGE_CHARS)
        if part and size + len(text) > MAX_MESSAGE_CHARS:
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield part
