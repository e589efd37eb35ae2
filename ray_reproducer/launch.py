"""Start a run and stay with it: what is shown of it, and how it is stopped.

Rules:

1. Everything for people goes to stderr; stdout has the results, if they were asked for, and nothing else.
2. The first Ctrl-C or SIGTERM: finish what is in flight, commit, leave. The second: leave now. The third: whatever
   Python does. Each says what it does. Whenever the program leaves, nothing is lost and nothing is done twice.
3. A person who stopped one job of a multirun meant them all.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from ray_reproducer.actors.settings import PipelineSettings, RaySettings
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.core.progress import Progress
from ray_reproducer.observability.display import LINE_INTERVAL_S, Display
from ray_reproducer.observability.results import ResultsWriter
from ray_reproducer.observability.summary import RunNames, summary

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
    *,
    line_interval_s: float = LINE_INTERVAL_S,
    log_level: int = logging.WARNING,
    special: SpecialRun | None = None,
) -> int:
    """Run the pipeline until it is drained or stopped, and return the exit code.

    Args:
        settings: what to do.
        ray_settings: which Ray to use; a Ray that this process is connected to already is used again.
        line_interval_s: seconds between two lines of progress where stderr is no terminal.
        log_level: log records below it are not shown.
        special: what is different about this run; None: nothing.

    Raises:
        ReproducerError: broker, Ray or output directory don't allow it.
    """
    from ray_reproducer.actors import preflight, ray_cluster, supervisor
    from ray_reproducer.actors.fleet import Fleet
    from ray_reproducer.actors.stopping import StopFlag

    stop = StopFlag()
    stdout = sys.stdout
    console = Console(file=sys.stderr)
    results = ResultsWriter(stdout.buffer, on_closed=stop.request) if settings.collect_outcomes else None
    live = console.is_terminal and not (results and stdout.isatty())
    title = special.title if special else _title(settings)
    display = Display(title, console, live=live, line_interval_s=line_interval_s)
    with display, _log_records_shown(display, log_level), redirect_stdout(_RayTalk()):
        preflight.look(settings)
        # Connecting replaces the handler of SIGTERM, so ours come after it.
        ray_cluster.connect(ray_settings)
        with _Signals(stop, display):
            observer = _Observer(display, results)
            done = supervisor.run(settings, observer, stop, special.make_fleet if special else Fleet)
    said, code = special.report(done) if special else (_last_words(settings, done), done.exit_code)
    sys.stderr.write(f"{said}\n")
    return code


def was_stopped() -> bool:
    """Tell whether a person or the system has asked this process to stop."""
    return _stopped.is_set


class _Observer:
    """Hands what the supervisor says to the display and to stdout."""

    def __init__(self, display: Display, results: ResultsWriter | None) -> None:
        self.progress: Callable[[Progress], None] = display.progress
        self.message: Callable[[int, str], None] = display.message
        self._results = results

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Print committed outcomes, if that was asked for."""
        if self._results is not None:
            self._results.write(outcomes)


class _ShowRecords(logging.Handler):
    """Shows what this program and the libraries log, above the panel instead of across it."""

    def __init__(self, display: Display, level: int) -> None:
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
def _log_records_shown(display: Display, level: int) -> Iterator[None]:
    """Let the display alone show log records as long as this lasts."""
    root = logging.getLogger()
    before = root.handlers
    root.handlers = [_ShowRecords(display, level)]
    try:
        yield
    finally:
        root.handlers = before


class _Signals:
    """Turns signals into requests to stop, as long as the context lasts."""

    def __init__(self, stop: StopFlag, display: Display) -> None:
        self._stop = stop
        self._display = display
        self._received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        # Only a process's main thread may; a program that runs us in another thread has signals of its own.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._received += 1
        _stopped.set()
        if self._received > _MOST_REQUESTS:
            raise KeyboardInterrupt
        # Not here: this runs between two instructions of the main thread, which may hold the locks that these need.
        threading.Thread(target=self._request, args=(number, self._received), daemon=True).start()

    def _request(self, number: int, received: int) -> None:
        self._stop.request()
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._display.message(logging.WARNING, f"{name}: {_ANSWERS[received]}")


def _title(settings: PipelineSettings) -> str:
    return (
        f"{settings.extractor_name}: {settings.source_topic} → {settings.results_topic} "
        f"({settings.run_mode}, group {settings.group_id})"
    )


def _last_words(settings: PipelineSettings, done: Summary) -> str:
    return summary(
        done.progress, done.seconds, _names(settings), stopped=done.stopped, upload_failures=done.upload_failures
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
