"""Heartbeats: now and then a message that says that the program lives, and what it did since the last one.

Rules:

1. One at the start, one every so often, one at the end.
2. The counts of all heartbeats that arrived add up to those of the run: what one would have said that is given up, the
   next one says besides.
3. Read and processed are messages of the source topic and the file content in them; processed are those whose file,
   or which themselves, have a committed outcome. Produced are metadata records and the bytes of their values.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import NamedTuple

import orjson

from ray_reproducer.core.progress import Progress
from ray_reproducer.observability.side_channel import FLUSH_S, SideChannel

Clock = Callable[[], float]
"""Seconds, never going back."""


class Counts(NamedTuple):
    """What heartbeats count, by the names that their readers know."""

    n_messages_read: int = 0
    n_messages_processed: int = 0
    n_messages_produced: int = 0
    n_bytes_read: int = 0
    n_bytes_processed: int = 0
    n_bytes_produced: int = 0

    @classmethod
    def of(cls, progress: Progress) -> Counts:
        """Take the counters of a run."""
        return cls(
            n_messages_read=progress.messages_read,
            n_messages_processed=progress.messages_processed,
            n_messages_produced=progress.results,
            n_bytes_read=progress.bytes_read,
            n_bytes_processed=progress.bytes_processed,
            n_bytes_produced=progress.bytes_produced,
        )

    def since(self, earlier: Counts) -> Counts:
        """Return what has been added since earlier."""
        return Counts(*(now - before for now, before in zip(self, earlier, strict=True)))


class Heartbeats:
    """Sends heartbeats to a topic.

    Args:
        channel: how they are sent.
        program_id: how their key begins.
        interval_s: time between two, in seconds.
        clock: the time; for tests.
    """

    def __init__(self, channel: SideChannel, program_id: str, interval_s: float, clock: Clock = time.monotonic) -> None:
        self._channel = channel
        self._key = f"{program_id}_heartbeat"
        self._interval_s = interval_s
        self._clock = clock
        self._now = Counts()
        self._said = Counts()
        self._next_s: float | None = None
        self._lock = threading.Lock()

    @property
    def what(self) -> str:
        """What they are, for a warning."""
        return "the heartbeats"

    def progress(self, progress: Progress) -> None:
        """Take the run's counters of this moment."""
        with self._lock:
            self._now = Counts.of(progress)

    def update(self, *, last: bool) -> None:
        """Send one, if it is time for one.

        Raises:
            ConfigurationError: the client library refuses a setting.
        """
        now_s = self._clock()
        if last or self._next_s is None or now_s >= self._next_s:
            self._next_s = now_s + self._interval_s
            self._send()
        self._channel.poll()
        if last:
            self._channel.flush(time.monotonic() + FLUSH_S)

    def _send(self) -> None:
        with self._lock:
            counts, self._said = self._now.since(self._said), self._now

        def lost() -> None:
            with self._lock:
                self._said = self._said.since(counts)

        message = {"timestamp": datetime.now(timezone.utc).isoformat(), **counts._asdict()}
        self._channel.send(self._key, orjson.dumps(message), lost)
