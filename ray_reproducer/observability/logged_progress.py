"""What a run looks like inside somebody else's program: records of a logger instead of a screen.

Rules:

1. The program's own logging decides where they go; nothing is printed, and neither stdout nor the root logger changes.
2. A line of progress is a record of level INFO every so many seconds; messages have their own levels.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final

from ray_reproducer.core.progress import Progress
from ray_reproducer.observability.display import Clock, line
from ray_reproducer.observability.quantities import RateMeter

_METHODS: Final = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, "info"))


class LoggedProgress:
    """Takes the place of a ``Display``.

    Args:
        title: what runs, and between which topics.
        logger: where it is told.
        line_interval_s: seconds between two lines of progress; infinite: none.
        clock: the time; for tests.
    """

    def __init__(
        self, title: str, logger: Any, *, line_interval_s: float = math.inf, clock: Clock = time.monotonic
    ) -> None:
        self._title = title
        self._logger = logger
        self._line_interval_s = line_interval_s
        self._clock = clock
        self._started_s = self._last_line_s = clock()
        self._meter = RateMeter()
        self._trouble = ""
        self._one_at_a_time = threading.RLock()
        self._telling: int | None = None

    def __enter__(self) -> LoggedProgress:
        """Say what begins."""
        self.message(logging.INFO, self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is to be taken away."""

    def progress(self, progress: Progress) -> None:
        """Say where the run is, if it is time for it."""
        now_s = self._clock()
        rates = self._meter.add(progress, now_s)
        if progress.broker_trouble and not self._trouble:
            self.message(logging.WARNING, f"broker: {progress.broker_trouble} (trying again until it answers)")
        elif self._trouble and not progress.broker_trouble:
            self.message(logging.INFO, "broker: answers again")
        self._trouble = progress.broker_trouble
        if now_s - self._last_line_s >= self._line_interval_s:
            self._last_line_s = now_s
            self.message(logging.INFO, line(progress, rates, now_s - self._started_s))

    def message(self, level: int, text: str) -> None:
        """Log a message.

        Args:
            level: one of ``logging``'s levels.
            text: the message; it may have several lines.
        """
        # By the methods that any logger has, also one that is no logging.Logger.
        name = next((name for least, name in _METHODS if level >= least), "debug")
        with self._one_at_a_time:
            self._telling = threading.get_ident()
            try:
                getattr(self._logger, name)(text)
            finally:
                self._telling = None

    @contextmanager
    def records_to(self, handlers: Sequence[logging.Handler]) -> Iterator[None]:
        """Let handlers have what the class and this program log, but not what is told here: they have that already.

        Args:
            handlers: they get the records as long as the context lasts.
        """
        name = getattr(self._logger, "name", "")
        loggers = [logging.getLogger("ray_reproducer"), *([logging.getLogger(name)] if name else [])]
        for handler in handlers:
            handler.addFilter(self._is_not_told_here)
            for logger in loggers:
                logger.addHandler(handler)
        try:
            yield
        finally:
            for handler in handlers:
                for logger in loggers:
                    logger.removeHandler(handler)
                handler.removeFilter(self._is_not_told_here)

    def _is_not_told_here(self, _record: logging.LogRecord) -> bool:
        return self._telling != threading.get_ident()
