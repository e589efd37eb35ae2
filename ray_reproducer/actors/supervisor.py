"""One run of the program, from the driver: makes the actors, watches them, ends them.

Rules:

1. Nothing that a restart needs lives here. If an actor is lost, or silent for too long, all of them are made again from
   what Kafka has committed. Lives of the program that end, one after the other, without having finished a file end
   the run.
2. Errors that a new start can't mend (fenced, refused by the broker, extractor that can't be loaded) end it at once.
   A broker that is away is none of these, once the run has begun: it is waited for.
3. Ray's head, when it is away, is waited for (:mod:`head_watch`); a Ray of our own whose head has died is made anew.
4. The first request to stop lets what is in flight finish, for a limited time; the second ends everything now.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from ray.exceptions import RayActorError

from ray_reproducer.actors import ray_cluster
from ray_reproducer.actors.fleet import Fleet, FleetMaker
from ray_reproducer.actors.head_watch import HeadGoneError, HeadWatch
from ray_reproducer.actors.loss import in_words
from ray_reproducer.actors.settings import PipelineSettings
from ray_reproducer.actors.stopping import StopFlag, StoppedError
from ray_reproducer.actors.uploading import Uploading
from ray_reproducer.core.errors import (
    BrokerAwayError,
    BrokerError,
    PipelineError,
    TopicMissingError,
    TopicReplacedError,
)
from ray_reproducer.core.open_files import OpenFile
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.core.progress import Progress
from ray_reproducer.kafka import instance
from ray_reproducer.observability.quantities import done

LOOK_INTERVAL_S: Final = 0.2
"""How often the actors are asked for news: often enough for a display that seems alive."""
CLUSTER_INTERVAL_S: Final = 5.0
"""How often Ray's head and the size of the cluster are looked at: nodes come and go in minutes."""
OPEN_FILES_INTERVAL_S: Final = 2.0
"""How often the files on their way are listed, if the registries are on: often enough to be looked at."""
MAX_FRUITLESS_LIVES: Final = 5
"""How many lives in a row may end without having finished a file before the run is given up."""
LONG_LIFE_S: Final = 60.0
"""A life that lasted this long counts as none of these: perhaps there was nothing to do."""
LONGEST_PAUSE_S: Final = 10.0
"""The longest pause before the next life, after 1, 2, 4 ... seconds."""
EXIT_DEAD_LETTERS: Final = 3
"""Exit code of a drain that left dead letters, held files, or files for the next start, or found that data was lost."""
EXIT_NOT_DRAINED: Final = 5
"""Exit code of a drain that was stopped before its end: who waits for all files must not take that for the end."""


class Observer(Protocol):
    """Who watches a run; called in the thread that called :func:`run`."""

    def progress(self, progress: Progress) -> None:
        """Take a snapshot of the counters; called a few times a second."""
        ...

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Take committed outcomes, in the order of their commit; only if they are collected, or registries are on.

        Their values are empty unless outcomes are collected.
        """
        ...

    def restarted(self) -> None:
        """Take note that the actors are made anew: outcomes committed in the last moment were perhaps not told."""
        ...

    def left_out(self, since_ms: int) -> None:
        """Take note that outcomes of files were not told; only if registries are on.

        Args:
            since_ms: when the first of these was known, in milliseconds since the epoch.
        """
        ...

    def open_files(self, files: Sequence[OpenFile]) -> None:
        """Take the list of all files on their way, up to a limit; only if registries are on."""
        ...

    def message(self, level: int, text: str) -> None:
        """Take something that is worth a line in the log; ``level`` as in :mod:`logging`."""
        ...


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


def run(
    settings: PipelineSettings,
    observer: Observer,
    stop: StopFlag,
    make_fleet: FleetMaker = Fleet,
) -> Summary:
    """Run the program until it is done or asked to stop. The process must be connected to Ray.

    Args:
        settings: what to do.
        observer: who is told.
        stop: how to end it.
        make_fleet: makes the actors of one life of the program.

    Raises:
        ReproducerError: it can't go on.
    """
    began = time.monotonic()
    if not settings.embedded:  # that broker has no other instance
        settings = replace(settings, instance=instance.own_name(time.time()))
    with Uploading(settings, observer.message) as uploading:
        supervision = _Supervision(uploading.settings, observer, stop, uploading, make_fleet)
        progress = supervision.run()
    return Summary(
        progress=progress,
        seconds=time.monotonic() - began,
        exit_code=_exit_code(settings, progress, uploading.failures, stopped=stop.graceful),
        stopped=stop.graceful,
        upload_failures=uploading.failures,
    )


def _exit_code(settings: PipelineSettings, progress: Progress, upload_failures: int, *, stopped: bool) -> int:
    drains = settings.run_mode == "drain"
    if drains and stopped and not progress.drained:
        return EXIT_NOT_DRAINED
    left = progress.outcomes_pending  # for the next start: files that are incomplete leave no room to commit them
    if drains and progress.dead_letters + progress.held + progress.offsets_lost + left > 0:
        return EXIT_DEAD_LETTERS
    return 1 if upload_failures else 0


class _Supervision:
    def __init__(
        self,
        settings: PipelineSettings,
        observer: Observer,
        stop: StopFlag,
        uploading: Uploading,
        make_fleet: FleetMaker,
    ) -> None:
        self._make_fleet = make_fleet
        self._settings = settings
        self._observer = observer
        self._stop = stop
        self._uploading = uploading
        self._head = HeadWatch(settings.actor_timeout_s, self._warn)
        self._began_at: dict[int, int] = {}
        self._fruitless = 0
        self._lives = 0
        self._life_began_s = 0.0
        self._earlier = Progress()
        self._progress = Progress()
        self._open_files_at_s = 0.0

    def run(self) -> Progress:
        """Make the actors, again and again if need be, until the run is over; return the counters of all of it."""
        try:
            while not self._live():
                self._begin_anew()
        except StoppedError:
            self._warn("Stopped. What was in flight will be done by the next start.")
        return self._progress

    def _live(self) -> bool:
        """Go through one life of the program; return whether the run is over with it."""
        fleet = self._make_fleet(self._settings, self._stop, self._began_at)
        self._life_began_s = time.monotonic()
        try:
            self._watch(fleet)
        except (BrokerAwayError, TopicMissingError) as error:
            self._wait_for_broker(error)
        except (RayActorError, PipelineError, TopicReplacedError) as error:
            if isinstance(error, HeadGoneError) and not (ray_cluster.is_local() or self._settings.embedded):
                raise
            self._note_loss(error, in_words(error, fleet.names()))
        else:
            return True
        finally:
            fleet.end()
        return False

    def _wait_for_broker(self, error: BrokerError) -> None:
        """Rule 2: go on waiting, unless the run has never begun, or a topic is gone that is not to come back."""
        gone = isinstance(error, TopicMissingError) and self._settings.topic_recreated == "stop"
        if self._lives == 0 or gone:
            raise error
        self._warn(f"{error.message}; it is waited for.")
        self._stop.wait(LONGEST_PAUSE_S)

    def _note_loss(self, error: Exception, text: str) -> None:
        """Rule 1: decide whether to begin again after a part of the program was lost, as ``text`` says."""
        if isinstance(error, TopicReplacedError):
            if self._settings.topic_recreated == "stop":
                raise error
            self._began_at = {}
            # What was written to the new topic until it was noticed is to be read, wherever the old one was begun.
            self._settings = replace(self._settings, start="earliest")
        finished = done(self._progress) - done(self._earlier)
        fruitful = finished > 0 or time.monotonic() - self._life_began_s >= LONG_LIFE_S
        self._fruitless = 0 if fruitful else self._fruitless + 1
        if self._settings.embedded or self._stop.graceful or self._fruitless > MAX_FRUITLESS_LIVES:
            raise PipelineError(
                f"a part of the program was lost: {text}",
                hint="The embedded broker keeps nothing: start again from the beginning."
                if self._settings.embedded
                else "What is committed is safe. Start again to go on from there.",
            ) from error
        self._warn(f"A part of the program was lost ({text}); it goes on from what is committed.")

    def _begin_anew(self) -> None:
        """Prepare for the next life, after the last one has ended."""
        self._earlier = self._progress
        self._observer.restarted()
        if not ray_cluster.is_local():
            self._wait_for_head()
        elif ray_cluster.revive():
            self._warn("Ray itself had died on this machine; it was started again.")
        if self._fruitless:
            self._stop.wait(min(LONGEST_PAUSE_S, 2.0 ** (self._fruitless - 1)))

    def _wait_for_head(self) -> None:
        while not self._head.look():
            if self._stop.graceful:
                raise StoppedError
            self._stop.wait(LOOK_INTERVAL_S)

    def _watch(self, fleet: Fleet) -> None:
        fleet.start()
        self._began_at = fleet.began_at
        self._lives += 1
        self._uploading.begin()
        drains, draining = self._settings.run_mode == "drain", False
        next_look_at_cluster = 0.0
        stop_by: float | None = None
        while not self._stop.now:
            now = time.monotonic()
            if now >= next_look_at_cluster and not self._stop.graceful:  # what is under way needs no head
                next_look_at_cluster = now + CLUSTER_INTERVAL_S
                if self._head.look():
                    fleet.set_slots(ray_cluster.slots(self._settings.extraction.num_cpus))
            if not self._stop.graceful and self._uploading.ended() and drains and not draining:
                draining = self._drain(fleet)
            if added := fleet.take_new_partitions():
                numbers = ", ".join(map(str, added))
                self._warn(f"{self._settings.source_topic} has new partitions ({numbers}): they are read, too.")
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
            self._stop.wait_for_next(LOOK_INTERVAL_S)
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
        news = fleet.news(want_open_files=self._open_files_are_due())
        if news is None:
            return False
        self._progress = news.progress.after(self._earlier)
        self._uploading.delivered(self._progress.messages_read)
        for text in news.messages:
            self._warn(text)
        for level, text in news.said:
            self._observer.message(level, text)
        for outcome in news.outcomes:
            if outcome.kind != "result":
                self._observer.message(logging.ERROR, _failure_text(outcome, self._settings.source_topic))
        if (self._settings.collect_outcomes or self._settings.registries) and news.outcomes:
            self._observer.outcomes(news.outcomes)
        if news.left_out_since_ms is not None:
            self._observer.left_out(news.left_out_since_ms)
        if news.open_files is not None:
            self._observer.open_files(news.open_files)
        self._observer.progress(self._progress)
        return news.finished

    def _open_files_are_due(self) -> bool:
        now = time.monotonic()
        if not self._settings.registries or now - self._open_files_at_s < OPEN_FILES_INTERVAL_S:
            return False
        self._open_files_at_s = now
        return True

    def _warn(self, text: str) -> None:
        self._observer.message(logging.WARNING, text)


def _failure_text(outcome: Outcome, topic: str) -> str:
    where = outcome.path or f"{topic} [{outcome.partition}] offset {outcome.offset}"
    text = f"{where}: {outcome.error} ({outcome.reason})"
    return f"{text}\n{outcome.traceback.rstrip()}" if outcome.traceback else text
