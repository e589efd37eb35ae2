"""Run a ``MetadataJSONReproducer`` as OpenMSIStream's users do: as a program of its own, or inside one of theirs.

Rules:

1. As a program: arguments and a configuration file; progress and messages on stderr; an exit code.
2. Inside another program: no signal, stream, handler or Ray of that program is changed, with one exception: in the
   main thread Ctrl-C and SIGTERM end the run in order. Errors are raised.
3. Counters and lists of the instance change in the thread that runs it, a few times a second. Its commands are looked
   at in a thread of their own; ``_on_check`` runs there.
4. A Ray that was started for such runs ends when the last instance that used it is closed.
"""

from __future__ import annotations

import logging
import math
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import orjson

from ray_reproducer.class_settings import ClassRun, class_run, tells_results
from ray_reproducer.core.errors import ConfigurationError, ExtractorError
from ray_reproducer.core.events import CrashCause
from ray_reproducer.error_report import guarded, ours
from ray_reproducer.launch import launch
from ray_reproducer.observability.logged_progress import LoggedProgress

if TYPE_CHECKING:
    from ray_reproducer.actors.stopping import StopFlag
    from ray_reproducer.companion import Guest
    from ray_reproducer.core.outcome import Outcome
    from ray_reproducer.core.progress import Progress
    from ray_reproducer.reproducer import MetadataJSONReproducer

_TOPIC_KEYWORDS = ("consumer_topic_name", "producer_topic_name")
_QUIT: Final = frozenset({"q", "quit"})
_CHECK: Final = frozenset({"c", "check"})
_EXTRACTED: Final = frozenset(
    {"", "extractor_raised", "not_a_dict", "not_json", "result_too_large", "timeout"} | {*get_args(CrashCause)}
)
"""Reasons ("" for a result) of the outcomes of files that were put together and given to the extractor."""
COMMANDS_END_S: Final = 5.0
"""How long the answer to a command (``_on_check`` is the user's) may go on after the run's end."""
SHUTDOWN_HOOK_S: Final = 10.0
"""How long ``close()`` waits for the user's ``_on_shutdown`` to end, in seconds."""
COMMAND_LOOK_S: Final = 0.1
"""How soon a run's end is noticed by the thread that waits for commands, in seconds."""
_ray_users: Final[set[int]] = set()
_ray_lock: Final = threading.Lock()


def run_command_line(cls: type[MetadataJSONReproducer], args: Sequence[str] | None) -> int:
    """Run a class's command line and return the exit code; errors are on stderr by then."""

    def run() -> int:
        parsed = cls.get_argument_parser().parse_args(args)
        reproducer = construct(cls, *cls.get_init_args_kwargs(parsed))
        _log_to_stderr()
        return _Run(reproducer, own_process=True).run()

    return guarded(run, ours)


def run_here(reproducer: MetadataJSONReproducer) -> None:
    """Run an instance inside this program, until it is told to end.

    Raises:
        ReproducerError: settings, broker or Ray don't allow it.
    """
    with _records_seen(reproducer), _handlers_as_before():
        _Run(reproducer, own_process=False).run()


def close(reproducer: MetadataJSONReproducer) -> None:
    """End the run of an instance, if there is one, and let go of Ray (rule 4)."""
    running: _Run | None = reproducer._run  # noqa: SLF001 - this module's own place there
    if running is not None:
        running.end()
    with _ray_lock:
        if id(reproducer) not in _ray_users:
            return
        _ray_users.discard(id(reproducer))
        if not _ray_users:
            from ray_reproducer.actors import ray_cluster

            ray_cluster.disconnect()


def construct(
    cls: type[MetadataJSONReproducer], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> MetadataJSONReproducer:
    """Call a class's constructor with what its ``get_init_args_kwargs`` returned.

    Two forms are in use: ``[config, consumer topic, producer topic]``, and ``[config, producer topic]`` with both
    topics in the keywords as well.

    Raises:
        ExtractorError: the constructor doesn't take these arguments.
    """
    positional, keywords = list(args), dict(kwargs)
    named = {name: keywords.pop(name) for name in _TOPIC_KEYWORDS if name in keywords}
    if len(positional) == 1:
        keywords.update(named)
    elif "consumer_topic_name" in named and len(positional) == 2:
        positional = [positional[0], named["consumer_topic_name"], named.get("producer_topic_name", positional[1])]
    elif "producer_topic_name" in named and len(positional) == 2:
        positional.append(named["producer_topic_name"])
    try:
        return cls(*positional, **keywords)
    except TypeError as error:
        raise ExtractorError(
            f"{cls.__name__} can't be constructed: {error}.",
            hint="Its constructor is called with what get_init_args_kwargs returns: let the two agree.",
        ) from error


class _Run:
    """One run of an instance: the companion that ``launch`` tells about it."""

    def __init__(self, reproducer: MetadataJSONReproducer, *, own_process: bool) -> None:
        self._reproducer = reproducer
        self._own_process = own_process
        self._settings: ClassRun | None = None
        self._stop: StopFlag | None = None
        self._tells_results = tells_results(reproducer)
        self._asking = threading.Lock()
        self._wanted_end = threading.Event()
        self._commands: threading.Thread | None = None
        self._launched = threading.Event()
        self._over = threading.Event()
        self._thread = threading.get_ident()

    def run(self) -> int:
        """Run to the end; return the exit code.

        Raises:
            ConfigurationError: the instance runs already, or a setting is wrong.
            ReproducerError: broker or Ray don't allow it.
        """
        reproducer = self._reproducer
        with reproducer.lock:
            if reproducer._run is not None:  # noqa: SLF001
                raise ConfigurationError(
                    f"This {type(reproducer).__name__} is running already.",
                    hint="End that run first (control_command_queue.put('q')), or make another instance.",
                )
            reproducer._run = self  # noqa: SLF001
        commands = self._commands = threading.Thread(target=self._obey, name="commands", daemon=True)
        try:
            settings = self._settings = class_run(reproducer)
            commands.start()
            try:
                return self._launch(settings)
            finally:
                self._launched.set()
                commands.join(COMMANDS_END_S)
                self._guarded("_on_shutdown")
        finally:
            self._launched.set()
            with reproducer.lock:
                reproducer._run = None  # noqa: SLF001
            # Last of all: who waits for the end may take Ray away, or begin the next run.
            self._over.set()

    def end(self) -> None:
        """End the run in order, and wait for that, unless it is one of its own threads that calls.

        ``_on_shutdown``, which is the user's, is waited for only so long: it may itself wait for who calls.
        """
        self._wanted_end.set()
        self._request_end()
        if threading.get_ident() != self._thread and threading.current_thread() is not self._commands:
            self._launched.wait()
            self._over.wait(SHUTDOWN_HOOK_S)

    def _launch(self, settings: ClassRun) -> int:
        if not self._own_process:
            with _ray_lock:
                _ray_users.add(id(self._reproducer))
        return launch(
            settings.pipeline,
            settings.ray,
            settings.views if self._own_process else replace(settings.views, console="off"),
            print_results=settings.print_results,
            companion=self,
        )

    # ------------------------------------------------------------ what launch tells

    def display(self, title: str) -> Guest | None:
        """Let a run inside another program be told by the instance's logger."""
        if self._own_process or self._settings is None:
            return None
        interval_s = self._settings.views.update_s or math.inf
        return LoggedProgress(title, self._reproducer.logger, line_interval_s=interval_s)

    def begin(self, stop: StopFlag) -> None:
        """Take note of how to end the run."""
        self._stop = stop
        for note in self._settings.notes if self._settings is not None else ():
            self._reproducer.logger.warning(note)
        if self._wanted_end.is_set():
            self._request_end()

    def progress(self, progress: Progress) -> None:
        """Count on the instance."""
        reproducer = self._reproducer
        reproducer.n_msgs_read = progress.messages_read
        reproducer.n_msgs_processed = progress.messages_read - progress.filtered
        reproducer.n_results_produced_files = progress.results
        failed = sum(number for reason, number in progress.dead_letters_by_reason.items() if reason in _EXTRACTED)
        reproducer.n_processed_files = progress.results + failed
        open_files = progress.files_incomplete + progress.files_waiting + progress.files_in_flight
        reproducer.file_registry.note_progress(open_files + progress.outcomes_pending)

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Note on the instance which files were done last."""
        reproducer, most = self._reproducer, self._reproducer.N_RECENT_FILES
        for outcome in outcomes:
            if not outcome.path:
                continue
            path = Path(outcome.path)
            reproducer.file_registry.note_outcome(path, outcome.reason)
            if outcome.reason in _EXTRACTED:
                reproducer.recent_processed_filepaths.append(path)
            if not outcome.reason:
                reproducer.recent_results_produced.append(path)
                if self._tells_results:
                    self._guarded("_on_result_produced", path, orjson.loads(outcome.value))
        del reproducer.recent_processed_filepaths[:-most]
        del reproducer.recent_results_produced[:-most]

    # ------------------------------------------------------------ commands

    def command(self, text: str) -> None:
        """Do what a command of the instance's queue says."""
        word = text.strip().lower()
        if word in _QUIT:
            self._reproducer.logger.info("Told to end: finishing what is in flight.")
            self._wanted_end.set()
            self._request_end()
        elif word in _CHECK:
            self.check()
        elif word:
            self._reproducer.logger.warning("%r is no command: q (quit), c (check).", text)

    def check(self) -> None:
        """Say how far the run is."""
        self._guarded("_on_check")

    def _obey(self) -> None:
        commands = self._reproducer.control_command_queue
        while not self._launched.is_set():
            try:
                text = commands.get(timeout=COMMAND_LOOK_S)
            except queue.Empty:
                continue
            self.command(str(text))

    def _request_end(self) -> None:
        """Ask once, whoever asks how often: to be asked twice means to leave what is in flight."""
        with self._asking:
            if self._stop is not None and not self._stop.graceful:
                self._stop.request()

    def _guarded(self, hook: str, *arguments: object) -> None:
        try:
            getattr(self._reproducer, hook)(*arguments)
        # A hook is the user's; the run goes on.
        except Exception as error:
            # By the method that any logger has.
            self._reproducer.logger.error("%s raised %s", hook, error, exc_info=error)  # noqa: TRY400


@contextmanager
def _handlers_as_before() -> Iterator[None]:
    """Put the handlers of signals back that Ray replaces when it is started."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # None: it was not installed by Python
                    signal.signal(number, handler)


@contextmanager
def _records_seen(reproducer: MetadataJSONReproducer) -> Iterator[None]:
    """Show what the instance logs on stderr as long as this lasts, if the program has arranged nothing for it."""
    logger = logging.getLogger(type(reproducer).__name__)
    if logger.hasHandlers() or getattr(reproducer.logger, "name", "") != logger.name:
        yield
        return
    handler = _stderr_handler()
    handler.setLevel(reproducer._settings.stream_level)  # noqa: SLF001
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _stderr_handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("[%(name)s %(asctime)s] %(levelname)s: %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    )
    return handler


def _log_to_stderr() -> None:
    """Show what the class logs, unless the program has arranged that by itself."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(_stderr_handler())
