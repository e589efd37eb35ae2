"""Start a run and stay with it: what is shown of it, and how it is stopped.

Rules:

1. Everything for people goes to stderr; stdout has the results, if they were asked for, and nothing else.
2. The first Ctrl-C or SIGTERM: finish what is in flight, commit, leave. The second: leave now. The third: whatever
   Python does. Each says what it does. Whenever the program leaves, nothing is lost and nothing is done twice.
3. A person who stopped one job of a multirun meant them all.
4. In a program that is not ours (a companion with a display of its own) stdout, stderr and the root logger stay as
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
from contextlib import contextmanager, nullcontext, redirect_stdout
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from rich.console import Console

from ray_reproducer.actors.settings import PipelineSettings, RaySettings
from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.core.progress import Progress
from ray_reproducer.observability.display import Display
from ray_reproducer.observability.results import ResultsWriter
from ray_reproducer.observability.summary import RunNames, summary
from ray_reproducer.observability.view_settings import ViewSettings

if TYPE_CHECKING:
    from ray_reproducer.actors.supervisor import StopFlag

_LOG: Final = logging.getLogger("ray_reproducer.ray")
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_ANSWERS: Final = {
    1: "finishing what is in flight, then leaving. Once more: leave now.",
    2: "leaving now; what is not committed is done again by the next start.",
}
_MOST_REQUESTS: Final = len(_ANSWERS)


class Shown(Protocol):
    """What shows a run: a ``Display``, or something in its place."""

    def __enter__(self) -> object:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End."""
        ...

    def progress(self, progress: Progress) -> None:
        """Show where the run is."""
        ...

    def message(self, level: int, text: str) -> None:
        """Show a message; ``level`` as in :mod:`logging`."""
        ...


class Companion(Protocol):
    """Who is told about a run beside the screen, and may end it; called in the thread that called :func:`launch`."""

    def display(self, title: str) -> Shown | None:
        """Return what takes the place of the screen (rule 4); None: this process is ours."""
        ...

    def begin(self, stop: StopFlag) -> None:
        """Take note that the run begins now, and how to end it."""
        ...

    def progress(self, progress: Progress) -> None:
        """Take a snapshot of the counters."""
        ...

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Take committed outcomes; only if the settings say that they are collected."""
        ...


class _Stopped:
    """Whether this process was asked to stop. A plain attribute: signal handlers must not take locks."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True


_stopped = _Stopped()


def launch(
    settings: PipelineSettings,
    ray_settings: RaySettings,
    views: ViewSettings | None = None,
    *,
    print_results: bool | None = None,
    companion: Companion | None = None,
) -> int:
    """Run the pipeline until it is drained or stopped, and return the exit code.

    Args:
        settings: what to do.
        ray_settings: which Ray to use; a Ray that this process is connected to already is used again.
        views: what is shown of it, and where; None: on stderr only.
        print_results: show outcomes on stdout; None: if the settings collect them.
        companion: who is told about the run, and may end it; None: nobody.

    Raises:
        ReproducerError: broker, Ray or output directory don't allow it.
    """
    from ray_reproducer.actors import preflight, ray_cluster, supervisor

    stop = supervisor.StopFlag()
    printing = settings.collect_outcomes if print_results is None else print_results
    results = ResultsWriter(_stdout_bytes(), on_closed=stop.request) if printing else None
    view_settings = views or ViewSettings()
    guest = companion.display(_title(settings)) if companion is not None else None
    display = guest or _display(settings, results, view_settings)
    surroundings = nullcontext() if guest else _own_process(display, view_settings)
    with display, surroundings:
        preflight.look(settings)
        # Connecting replaces the handler of SIGTERM, so ours come after it.
        ray_cluster.connect(ray_settings)
        if companion is not None:
            companion.begin(stop)
        with _Signals(stop, display):
            done = supervisor.run(settings, _Observer(display, results, companion), stop)
    said = summary(
        done.progress, done.seconds, _names(settings), stopped=done.stopped, upload_failures=done.upload_failures
    )
    if guest:
        guest.message(logging.INFO, said)
    else:
        sys.stderr.write(f"{said}\n")
    return done.exit_code


def _stdout_bytes() -> BinaryIO:
    stream: BinaryIO | None = getattr(sys.stdout, "buffer", None)
    if stream is None:
        raise ConfigurationError(
            "run.print_results=true needs a stdout that takes bytes, and this program's is none (a notebook's, for "
            "instance).",
            hint="Leave it out; a class may write _on_result_produced(self, relative_filepath, metadata).",
        )
    return stream


def _display(settings: PipelineSettings, results: ResultsWriter | None, views: ViewSettings) -> Display:
    console = Console(file=sys.stderr)
    live = console.is_terminal and not (results and sys.stdout.isatty())
    interval_s = math.inf if views.update_s is None else views.update_s
    return Display(_title(settings), console, live=live, line_interval_s=interval_s)


@contextmanager
def _own_process(display: Shown, views: ViewSettings) -> Iterator[None]:
    with _log_records_shown(display, views.log_stream_level), redirect_stdout(_RayTalk()):
        yield


def was_stopped() -> bool:
    """Tell whether a person or the system has asked this process to stop."""
    return _stopped.is_set


class _Observer:
    """Hands what the supervisor says to the display and to stdout."""

    def __init__(self, display: Shown, results: ResultsWriter | None, companion: Companion | None) -> None:
        self.message: Callable[[int, str], None] = display.message
        self._display = display
        self._results = results
        self._companion = companion

    def progress(self, progress: Progress) -> None:
        """Show where the run is."""
        self._display.progress(progress)
        if self._companion is not None:
            self._companion.progress(progress)

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Print committed outcomes, if that was asked for."""
        if self._results is not None:
            self._results.write(outcomes)
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
def _log_records_shown(display: Shown, level: int) -> Iterator[None]:
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

    def __init__(self, stop: StopFlag, display: Shown) -> None:
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
