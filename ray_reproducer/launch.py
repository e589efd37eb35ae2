"""Start a run and stay with it: what is shown of it, and how it is stopped.

Rules:

1. Everything for people goes to stderr; stdout has the results, if they were asked for, and nothing else.
2. The first Ctrl-C or SIGTERM: finish what is in flight, commit, leave. The second: leave now. The third: whatever
   Python does. Each says what it does. Whenever the program leaves, nothing is lost and nothing is done twice.
3. A person who stopped one job of a multirun meant them all.
4. A line ``q`` on stdin does what Ctrl-C does, ``c`` prints the counts, if there is anybody who types.
5. In a program that is not ours (a companion with a display of its own) stdout, stderr and the root logger stay as
   they are.
"""

from __future__ import annotations

import io
import logging
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from rich.console import Console

from ray_reproducer.actors.settings import PipelineSettings, RaySettings
from ray_reproducer.companion import Companion, Shown
from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.core.open_files import OpenFile
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.core.progress import Progress
from ray_reproducer.observability.console import ConsoleCommands
from ray_reproducer.observability.display import Display
from ray_reproducer.observability.registries import RegistryNames
from ray_reproducer.observability.results import ResultsWriter
from ray_reproducer.observability.summary import RunNames, summary
from ray_reproducer.observability.view_settings import ViewSettings
from ray_reproducer.observability.views import Views

if TYPE_CHECKING:
    from ray_reproducer.actors.fleet import FleetMaker
    from ray_reproducer.actors.stopping import StopFlag
    from ray_reproducer.actors.supervisor import Summary

_LOG: Final = logging.getLogger("ray_reproducer.ray")
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_ANSWERS: Final = {
    1: "finishing what is in flight, then leaving. Once more: leave now.",
    2: "leaving now; what is not committed is done again by the next start.",
}
_MOST_REQUESTS: Final = len(_ANSWERS)


class _Stopped:
    """Whether this process was asked to stop. A plain attribute: signal handlers must not take locks."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True


_stopped = _Stopped()


@dataclass(frozen=True, slots=True)
class SpecialRun:
    """What is different about a run that does not simply read the source topic.

    Attributes:
        title: what to call it while it runs.
        make_fleet: makes its actors.
        report: turns what it did into its last words and the exit code.
    """

    title: str
    make_fleet: FleetMaker
    report: Callable[[Summary], tuple[str, int]]


def launch(
    settings: PipelineSettings,
    ray_settings: RaySettings,
    views: ViewSettings | None = None,
    *,
    print_results: bool | None = None,
    companion: Companion | None = None,
    special: SpecialRun | None = None,
) -> int:
    """Run the pipeline until it is drained or stopped, and return the exit code.

    Args:
        settings: what to do.
        ray_settings: which Ray to use; a Ray that this process is connected to already is used again.
        views: what is shown of it, and where; None: on stderr only.
        print_results: show outcomes on stdout; None: if the settings collect them.
        companion: who is told about the run, and may end it; None: nobody.
        special: what is different about this run; None: nothing.

    Raises:
        ReproducerError: broker, Ray or output directory don't allow it.
    """
    from ray_reproducer.actors import preflight, ray_cluster, supervisor
    from ray_reproducer.actors.fleet import Fleet
    from ray_reproducer.actors.stopping import StopFlag

    view_settings = views or ViewSettings()
    if view_settings.logs_dir is not None:
        settings = replace(settings, registries=True)
    stop = StopFlag()
    printing = settings.collect_outcomes if print_results is None else print_results
    results = ResultsWriter(_stdout_bytes(), on_closed=stop.request) if printing else None
    title = special.title if special else _title(settings)
    guest = companion.display(title) if companion is not None else None
    screen = _screen(title, results, view_settings)
    display: Shown = guest or screen
    names = _registry_names(settings, view_settings)
    seen = Views(view_settings, settings.extractor_name, settings.clients, names, display.message)
    check = companion.check if companion is not None else screen.say_counts
    surroundings = guest.records_to if guest else partial(_own_process, display, view_settings)
    with display, seen, surroundings(seen.log_handlers):
        preflight.look(settings)
        # Connecting replaces the handler of SIGTERM, so ours come after it.
        ray_cluster.connect(ray_settings)
        if companion is not None:
            companion.begin(stop)
        with _Requests(stop, seen.message) as requests, _console(view_settings, requests, seen.message, check):
            observer = _Observer(display, results, seen, companion)
            done = supervisor.run(settings, observer, stop, special.make_fleet if special else Fleet)
        seen.progress(done.progress)
    said, code = special.report(done) if special else (_last_words(settings, done), done.exit_code)
    if guest:
        guest.message(logging.INFO, said)
    else:
        sys.stderr.write(f"{said}\n")
    return code


def _stdout_bytes() -> BinaryIO:
    stream: BinaryIO | None = getattr(sys.stdout, "buffer", None)
    if stream is None:
        raise ConfigurationError(
            "run.print_results=true needs a stdout that takes bytes, and this program's is none (a notebook's, for "
            "instance).",
            hint="Leave it out; a class may write _on_result_produced(self, relative_filepath, metadata).",
        )
    return stream


def _screen(title: str, results: ResultsWriter | None, views: ViewSettings) -> Display:
    console = Console(file=sys.stderr)
    live = console.is_terminal and not (results and sys.stdout.isatty())
    interval_s = math.inf if views.update_s is None else views.update_s
    return Display(title, console, live=live, line_interval_s=interval_s)


@contextmanager
def _own_process(display: Shown, views: ViewSettings, others: Sequence[logging.Handler]) -> Iterator[None]:
    with _log_records_shown(display, views, others), redirect_stdout(_RayTalk()):
        yield


def was_stopped() -> bool:
    """Tell whether a person or the system has asked this process to stop."""
    return _stopped.is_set


class _Observer:
    """Hands what the supervisor says to the display, to stdout, and to the other views."""

    def __init__(
        self, display: Shown, results: ResultsWriter | None, views: Views, companion: Companion | None
    ) -> None:
        self.message: Callable[[int, str], None] = views.message
        self.open_files: Callable[[Sequence[OpenFile]], None] = views.open_files
        self.restarted: Callable[[], None] = views.restarted
        self.left_out: Callable[[int], None] = views.left_out
        self._display = display
        self._results = results
        self._views = views
        self._companion = companion

    def progress(self, progress: Progress) -> None:
        """Show the counters."""
        self._display.progress(progress)
        self._views.progress(progress)
        if self._companion is not None:
            self._companion.progress(progress)

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Print committed outcomes, if that was asked for, and register them."""
        if self._results is not None:
            self._results.write(outcomes)
        self._views.outcomes(outcomes)
        if self._companion is not None:
            self._companion.outcomes(outcomes)


class _ShowRecords(logging.Handler):
    """Shows what this program and the libraries log, above the panel instead of across it."""

    def __init__(self, display: Shown, level: int) -> None:
        super().__init__(level)
        self._display = display
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        self._display.message(record.levelno, self.format(record))


class _RayTalk(io.TextIOBase):
    """Takes the place of ``sys.stdout``: Ray prints there what its daemons say, for instance that a worker has ended.

    What of it matters to a person, the program says itself; the rest goes to the log with level DEBUG.
    """

    def writable(self) -> bool:
        """Return True: it can be printed to."""
        return True

    def write(self, text: str) -> int:
        """Log what is printed."""
        if text.strip():
            _LOG.debug("%s", text.strip())
        return len(text)


@contextmanager
def _log_records_shown(display: Shown, views: ViewSettings, others: Sequence[logging.Handler]) -> Iterator[None]:
    """Let the display and the other views alone have log records as long as this lasts."""
    root, ours = logging.getLogger(), logging.getLogger("ray_reproducer")
    before, level = root.handlers, ours.level
    root.handlers = [_ShowRecords(display, views.log_stream_level), *others]
    ours.setLevel(min(handler.level for handler in root.handlers))
    try:
        yield
    finally:
        root.handlers = before
        ours.setLevel(level)


def _console(
    views: ViewSettings, requests: _Requests, message: Callable[[int, str], None], check: Callable[[], None]
) -> ConsoleCommands:
    def other(line: str) -> None:
        message(
            logging.WARNING, f"{line!r} is no command: q and Enter stops the program, c and Enter prints its counts."
        )

    return ConsoleCommands(views.console, lambda: requests.stop("q"), check, other)


class _Requests:
    """Turns signals, and a person's commands, into requests to stop, as long as the context lasts."""

    def __init__(self, stop: StopFlag, message: Callable[[int, str], None]) -> None:
        self._stop = stop
        self._message = message
        self._received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Requests:
        # Only a process's main thread may; a program that runs us in another thread has signals of its own.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop(self, who: str) -> None:
        """Ask for an end, the second time for an immediate one; more often is no more than that.

        Args:
            who: what to call the request on the screen.
        """
        self._received += 1
        _stopped.set()
        if self._received <= _MOST_REQUESTS:
            self._request(who, self._received)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._received += 1
        _stopped.set()
        if self._received > _MOST_REQUESTS:
            raise KeyboardInterrupt
        # Not here: this runs between two instructions of the main thread, which may hold the locks that these need.
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        threading.Thread(target=self._request, args=(name, self._received), daemon=True).start()

    def _request(self, who: str, received: int) -> None:
        self._stop.request()
        self._message(logging.WARNING, f"{who}: {_ANSWERS[received]}")


def _title(settings: PipelineSettings) -> str:
    return (
        f"{settings.extractor_name}: {settings.source_topic} → {settings.results_topic} "
        f"({settings.run_mode}, group {settings.group_id})"
    )


def _last_words(settings: PipelineSettings, done: Summary) -> str:
    return summary(
        done.progress, done.seconds, _names(settings), stopped=done.stopped, upload_failures=done.upload_failures
    )


def _registry_names(settings: PipelineSettings, views: ViewSettings) -> RegistryNames:
    return RegistryNames(
        source_topic=settings.source_topic,
        results_topic=settings.results_topic,
        dead_letters_topic=settings.dead_letters_topic,
        group_id=settings.group_id,
        # What the embedded broker had in an earlier run ended with it.
        clients=settings.clients if views.catch_up and not settings.embedded else None,
    )


def _names(settings: PipelineSettings) -> RunNames:
    return RunNames(
        extractor=settings.extractor_name,
        source_topic=settings.source_topic,
        results_topic=settings.results_topic,
        dead_letters_topic=settings.dead_letters_topic,
        group_id=settings.group_id,
        servers="" if settings.embedded else settings.clients.servers,
        drain=settings.run_mode == "drain",
    )
