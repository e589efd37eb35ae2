"""One run of the program, from the driver: makes the actors, watches them, ends them.

Rules:

1. Nothing that a restart needs lives here. If an actor is lost, all of them are made again from what Kafka has
   committed; a part that is lost again and again ends the run.
2. Errors that a new start can't mend (fenced, refused by the broker, extractor that can't be loaded) end it at once.
3. The first request to stop lets what is in flight finish, for a limited time; the second ends everything now.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ray.exceptions import RayActorError

from ray_reproducer.actors import ray_cluster
from ray_reproducer.actors.fleet import Fleet
from ray_reproducer.actors.settings import PipelineSettings
from ray_reproducer.actors.uploading import Uploading
from ray_reproducer.core.errors import BrokerError, PipelineError
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.core.progress import Progress

LOOK_INTERVAL_S: Final = 0.2
"""How often the actors are asked for news: often enough for a display that seems alive."""
SLOTS_INTERVAL_S: Final = 5.0
"""How often the size of the cluster is looked at: nodes come and go in minutes."""
MAX_RESTARTS: Final = 5
"""How often the actors are made anew within ``RESTART_WINDOW_S`` before the run is given up."""
RESTART_WINDOW_S: Final = 600.0
"""Restarts that lie further back than this are forgiven."""
EXIT_DEAD_LETTERS: Final = 3
"""Exit code of a drain that left dead letters."""


class Observer(Protocol):
    """Who watches a run; called in the thread that called :func:`run`."""

    def progress(self, progress: Progress) -> None:
        """Take a snapshot of the counters; called a few times a second."""
        ...

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Take committed outcomes, in the order of their commit; only if they are collected."""
        ...

    def message(self, level: int, text: str) -> None:
        """Take something that is worth a line in the log; ``level`` as in :mod:`logging`."""
        ...


class StopFlag:
    """How a signal handler, or another thread, asks a run to end."""

    def __init__(self) -> None:
        """Begin with nothing asked."""
        self._requests = 0
        self._asked = threading.Event()

    def request(self) -> None:
        """Ask; the first time for an orderly end, then for an immediate one."""
        self._requests += 1
        self._asked.set()

    @property
    def graceful(self) -> bool:
        """Whether the run is to end."""
        return self._requests >= 1

    @property
    def now(self) -> bool:
        """Whether it is to end at once."""
        return self._requests >= 2

    def wait(self, timeout_s: float) -> None:
        """Wait until something is asked, at most ``timeout_s`` seconds; not at all if it was asked already once."""
        if self._requests == 0:
            self._asked.wait(timeout_s)
        else:
            time.sleep(min(timeout_s, LOOK_INTERVAL_S))


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did.

    Attributes:
        progress: its last counters.
        seconds: how long it took, from the first actor to the last.
        exit_code: what the process should end with.
        stopped: whether it ended because it was asked to.
        upload_failures: files that could not be put on the source topic.
    """

    progress: Progress
    seconds: float
    exit_code: int
    stopped: bool
    upload_failures: int = 0


def run(settings: PipelineSettings, observer: Observer, stop: StopFlag) -> Summary:
    """Run the program until it is done or asked to stop. The process must be connected to Ray.

    Args:
        settings: what to do.
        observer: who is told.
        stop: how to end it.

    Raises:
        ReproducerError: it can't go on.
    """
    began = time.monotonic()
    with Uploading(settings, observer.message) as uploading:
        supervision = _Supervision(uploading.settings, observer, stop, uploading)
        progress = supervision.run()
    failed = progress.dead_letters > 0
    return Summary(
        progress=progress,
        seconds=time.monotonic() - began,
        exit_code=EXIT_DEAD_LETTERS if settings.run_mode == "drain" and failed else 1 if uploading.failures else 0,
        stopped=stop.graceful,
        upload_failures=uploading.failures,
    )


class _Supervision:
    def __init__(self, settings: PipelineSettings, observer: Observer, stop: StopFlag, uploading: Uploading) -> None:
        self._settings = settings
        self._observer = observer
        self._stop = stop
        self._uploading = uploading
        self._restarts: deque[float] = deque()
        self._earlier = Progress()
        self._progress = Progress()

    def run(self) -> Progress:
        """Make the actors, again and again if need be, until the run is over; return the counters of all of it."""
        while True:
            fleet = Fleet(self._settings)
            try:
                self._watch(fleet)
            except (RayActorError, PipelineError) as error:
                self._note_loss(error)
                self._earlier = self._progress
            else:
                return self._progress
            finally:
                fleet.end()

    def _note_loss(self, error: Exception) -> None:
        """Rule 1: decide whether to begin again after a part of the program was lost."""
        now = time.monotonic()
        while self._restarts and now - self._restarts[0] > RESTART_WINDOW_S:
            self._restarts.popleft()
        self._restarts.append(now)
        text = str(error).strip().split("\n")[0]
        if self._settings.embedded or self._stop.graceful or len(self._restarts) > MAX_RESTARTS:
            raise PipelineError(
                f"a part of the program was lost: {text}",
                hint="What is committed is safe. Start again to go on from there.",
            ) from error
        self._observer.message(
            logging.WARNING, f"A part of the program was lost ({text}); it goes on from what is committed."
        )

    def _watch(self, fleet: Fleet) -> None:
        fleet.start()
        self._uploading.begin()
        drains, draining = self._settings.run_mode == "drain", False
        next_look_at_slots = 0.0
        stop_by: float | None = None
        while not self._stop.now:
            now = time.monotonic()
            if now >= next_look_at_slots:
                next_look_at_slots = now + SLOTS_INTERVAL_S
                fleet.set_slots(ray_cluster.slots(self._settings.extraction.num_cpus))
            if not self._stop.graceful and self._uploading.ended() and drains and not draining:
                draining = self._drain(fleet)
            if self._take_news(fleet):
                return
            if self._stop.graceful and stop_by is None:
                stop_by = now + self._settings.shutdown_timeout_s
                self._uploading.cancel()
                fleet.stop()
            if stop_by is not None and now > stop_by:
                limit = f"shutdown_timeout={self._settings.shutdown_timeout_s:g}"
                self._warn(f"What was in flight did not finish within {limit} seconds; the next start will do it.")
                return
            self._stop.wait(LOOK_INTERVAL_S)
        self._warn("Stopped at once. What was in flight will be done by the next start.")

    def _drain(self, fleet: Fleet) -> bool:
        """Let the run end with what is on the topic now; False if the broker is away, and it is to be asked again."""
        try:
            fleet.drain()
        except BrokerError as error:
            self._warn(f"{error.message}; it is asked again where the topic ends.")
            return False
        return True

    def _take_news(self, fleet: Fleet) -> bool:
        """Fetch what has happened, and pass it on; return whether the run is over."""
        news = fleet.news()
        self._progress = news.progress.after(self._earlier)
        self._uploading.delivered(self._progress.messages_read)
        for text in news.messages:
            self._warn(text)
        for level, text in news.said:
            self._observer.message(level, text)
        for outcome in news.outcomes:
            if outcome.kind == "dead_letter":
                self._observer.message(logging.ERROR, _failure_text(outcome, self._settings.source_topic))
        if self._settings.collect_outcomes and news.outcomes:
            self._observer.outcomes(news.outcomes)
        self._observer.progress(self._progress)
        return news.finished

    def _warn(self, text: str) -> None:
        self._observer.message(logging.WARNING, text)


def _failure_text(outcome: Outcome, topic: str) -> str:
    where = outcome.path or f"{topic} [{outcome.partition}] offset {outcome.offset}"
    text = f"{where}: {outcome.error} ({outcome.reason})"
    return f"{text}\n{outcome.traceback.rstrip()}" if outcome.traceback else text
