"""All views of a run that are not on the screen, together: begun, told what happens, and ended in the right order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from ray_reproducer.core.open_files import OpenFile
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.core.progress import Progress
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.observability.heartbeats import Heartbeats
from ray_reproducer.observability.log_lines import LogFile
from ray_reproducer.observability.log_topic import LogTopic
from ray_reproducer.observability.registries import Registries, RegistryNames
from ray_reproducer.observability.side_channel import FLUSH_S, SideChannel
from ray_reproducer.observability.view_settings import ViewSettings
from ray_reproducer.observability.view_thread import View, ViewThread

FILES_INTERVAL_S: Final = 1.0
"""How often files are written: often enough to look at, too seldom to cost anything."""
MESSAGES_INTERVAL_S: Final = 0.2
"""How often it is looked whether a heartbeat or a log message is due."""
END_S: Final = FLUSH_S + 7.0
"""How long the views may take to end: what is left then is left as it is."""
FILES_END_S: Final = 3.0
"""How long the log file may take after the others: a disk needs milliseconds, unless it hangs."""


class Views:
    """What a run is told to besides the display; a context manager.

    A failure of any of it is said once, as a warning, and reaches nobody else.

    Args:
        settings: which views there are.
        program_name: name of the program where the settings have none.
        clients: settings of the run's own Kafka clients, for views without a broker of their own.
        names: what the registries are of.
        show: shows a message on the display: its level and its text.
    """

    def __init__(
        self,
        settings: ViewSettings,
        program_name: str,
        clients: ClientConfigs,
        names: RegistryNames,
        show: Callable[[int, str], None],
    ) -> None:
        self._settings = settings
        self._name = settings.program_name or program_name
        self._show = show
        self._log_file = self._make_log_file()
        self._registries = Registries(Path(settings.logs_dir), names) if settings.logs_dir else None
        self._heartbeats = self._make_heartbeats(clients)
        self._log_topic = self._make_log_topic(clients)
        # The log file last: what the others say at their end is to be in it.
        self._threads = [
            self._thread("heartbeats", [self._heartbeats], MESSAGES_INTERVAL_S),
            self._thread("log topic", [self._log_topic], MESSAGES_INTERVAL_S),
            self._thread("registries", [self._registries], FILES_INTERVAL_S),
            self._thread("log file", [self._log_file], FILES_INTERVAL_S),
        ]

    def __enter__(self) -> Views:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them; the error that ends the run, if there is one, is logged."""
        if error is not None:
            self._log(logging.ERROR, f"{type(error).__name__}: {error}")
        *others, log_file = self._threads
        for thread in others:
            thread.end()
        by_s = time.monotonic() + END_S
        for thread in others:
            thread.join(by_s)
        log_file.end()
        log_file.join(time.monotonic() + FILES_END_S)

    @property
    def log_handlers(self) -> list[logging.Handler]:
        """Handlers for log records that are to be in the log file and on the log topic."""
        return [view.buffer for view in (self._log_file, self._log_topic) if view]

    def message(self, level: int, text: str) -> None:
        """Show a message, and log it."""
        self._show(level, text)
        self._log(level, text)

    def progress(self, progress: Progress) -> None:
        """Take the counters of this moment."""
        if self._heartbeats:
            self._heartbeats.progress(progress)

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes that have been committed."""
        if self._registries:
            self._registries.outcomes(outcomes)

    def open_files(self, files: Sequence[OpenFile]) -> None:
        """Take the list of files on their way."""
        if self._registries:
            self._registries.open_files(files)

    def restarted(self) -> None:
        """Take note that outcomes of the last moment were perhaps not told."""
        if self._registries:
            self._registries.restarted()

    def left_out(self, since_ms: int) -> None:
        """Take note that outcomes since then, in milliseconds since the epoch, were not told."""
        if self._registries:
            self._registries.left_out(since_ms)

    def _log(self, level: int, text: str) -> None:
        for view in (self._log_file, self._log_topic):
            if view:
                view.buffer.add(self._name, level, text)

    def _warn(self, text: str) -> None:
        self.message(logging.WARNING, text)

    def _thread(self, name: str, views: Sequence[View | None], interval_s: float) -> ViewThread:
        return ViewThread(name, [view for view in views if view], interval_s, self._warn)

    def _make_log_file(self) -> LogFile | None:
        settings = self._settings
        path = settings.log_file_path
        if path is None and settings.logs_dir is not None:
            path = str(Path(settings.logs_dir) / f"{self._name.replace('/', '_')}.log")
        return LogFile(Path(path), settings.log_file_level, self._name) if path else None

    def _make_heartbeats(self, clients: ClientConfigs) -> Heartbeats | None:
        settings = self._settings
        if settings.heartbeat_topic is None:
            return None
        channel = SideChannel(settings.heartbeat_clients or clients, settings.heartbeat_topic, "Heartbeats", self._warn)
        return Heartbeats(channel, settings.heartbeat_program_id or self._name, settings.heartbeat_interval_s)

    def _make_log_topic(self, clients: ClientConfigs) -> LogTopic | None:
        settings = self._settings
        if settings.log_topic is None:
            return None
        # What is said of the log topic itself goes to it, too, and does no harm: it is said once.
        channel = SideChannel(settings.log_clients or clients, settings.log_topic, "Log lines", self._warn)
        program_id = settings.log_program_id or self._name
        return LogTopic(channel, program_id, settings.log_file_level, settings.log_interval_s)
