"""``python -m ray_reproducer.upload``: files of a directory onto a topic, with progress and a summary on stderr.

Rules:

1. Exit code 0: all files are on the broker; 1: some are not, and each is named with its reason, or an error of broker
   or topic; 2: wrong settings; 130: stopped by Ctrl-C (or 143 by SIGTERM). The help names them all.
2. The first Ctrl-C or SIGTERM ends the upload after what is on its way has arrived; the second ends it at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, TypeAlias

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from ray_reproducer.command_help import upload_help
from ray_reproducer.config import EMBEDDED_UPLOAD, UploadCommand, upload_command
from ray_reproducer.config_schema import UPLOAD_CONFIG, UploadAppConfig
from ray_reproducer.hydra_command import Command, run_command
from ray_reproducer.kafka import admin
from ray_reproducer.kafka.upload import UploadSummary, measure, upload_directory
from ray_reproducer.observability.quantities import count, data_size, duration
from ray_reproducer.observability.terminal_text import printable, printable_lines

LINE_INTERVAL_S: Final = 5.0
"""Seconds between two lines of progress where stderr is no terminal."""
_SHOWN_FAILURES: Final = 20
"""How many failures are named at the end: a screen of them."""
_SIGNAL_EXIT: Final = 128
"""A shell gives 128 plus the number of the signal."""
_ONLY_SENDS: Final = ("An upload only sends files: it has no extractor, no run and no Ray.", "Leave it out.")
_WITHOUT: Final = {
    **dict.fromkeys(("extractor", "ray", "run"), _ONLY_SENDS),
    "kafka=embedded": EMBEDDED_UPLOAD,
}
"""What the main program can be told and an upload can't."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of ``python -m ray_reproducer.upload``; returns the exit code of the process.

    Args:
        arguments: what stands after the program's name; None: ``sys.argv``.
    """
    command = Command(
        config_name=UPLOAD_CONFIG, schema=UploadAppConfig, job=run_job, help_text=upload_help, without=_WITHOUT
    )
    return run_command(command, sys.argv[1:] if arguments is None else arguments)


def run_job(config: DictConfig) -> int:
    """Send the files that a composed configuration names.

    Raises:
        ReproducerError: settings or broker don't allow it.
    """
    command = upload_command(config)
    command.clients.check()
    if command.create_topic:
        admin.ensure_topic(command.clients, command.topic)
    else:
        admin.describe_topic(command.clients, command.topic)
    console = Console(file=sys.stderr)
    with _Stop() as stop:
        summary = _send(command, console, stop)
    console.print(Text(printable_lines(_report(summary, command))), soft_wrap=True)
    if stop.signal:
        return _SIGNAL_EXIT + stop.signal
    return 1 if summary.failures else 0


class _Stop:
    """Whether a signal has asked to stop; the second of its kind does what it does by default."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Stop:
        # Signals can be handled in the main thread only; elsewhere somebody else handles them.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._asked) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal.signal itself returned

    def is_asked(self) -> bool:
        """Whether to stop."""
        return self.signal != 0

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        # Not by sys.stderr: the signal may have come in the middle of a write to it, which can't be entered twice.
        os.write(2, b"\nfinishing what is on its way. Once more: leave now.\n")


def _send(command: UploadCommand, console: Console, stop: _Stop) -> UploadSummary:
    files, size_bytes = measure(command.path, command.filepath_regex)
    shown = _bar if console.is_terminal else _lines
    with shown(console, files, size_bytes) as (on_progress, on_trouble):
        return upload_directory(
            command.clients,
            command.topic,
            command.path,
            chunk_size_bytes=command.chunk_size_bytes,
            filepath_regex=command.filepath_regex,
            on_progress=on_progress,
            on_trouble=on_trouble,
            should_stop=stop.is_asked,
        )


_Callbacks: TypeAlias = tuple[Callable[[UploadSummary], None], Callable[[str], None]]


@contextmanager
def _bar(console: Console, files: int, size_bytes: int) -> Iterator[_Callbacks]:
    """Show a progress bar over the bytes, with the number of files in front; troubles above it."""
    files_column = TextColumn("{task.fields[files]:,} of {task.fields[total_files]:,} files")
    columns = (files_column, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=size_bytes, files=0, total_files=files)

        def on_progress(summary: UploadSummary) -> None:
            progress.update(task, completed=summary.acknowledged_bytes, files=summary.files)

        yield on_progress, _TroubleLines(console)


@contextmanager
def _lines(console: Console, files: int, size_bytes: int) -> Iterator[_Callbacks]:
    """Print a line every few seconds, for logs."""
    console.print(Text(f"{count(files, 'file')} to send, {data_size(size_bytes)}"))
    last_s = time.monotonic()

    def on_progress(summary: UploadSummary) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= LINE_INTERVAL_S:
            last_s = time.monotonic()
            done = f"{summary.files:,} of {count(files, 'file')}, {data_size(summary.acknowledged_bytes)}"
            line = printable(f"{done}, {data_size(_speed(summary))}/s; now {summary.current}")
            console.print(Text(line), soft_wrap=True)

    yield on_progress, _TroubleLines(console)


class _TroubleLines:
    """Says when the broker gets into trouble, and when it is well again."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, trouble: str) -> None:
        """Print one line."""
        self._console.print(Text(f"broker: {trouble}" if trouble else "broker: well again"), soft_wrap=True)


def _speed(summary: UploadSummary) -> float:
    return summary.acknowledged_bytes / summary.seconds if summary.seconds else 0.0


def _report(summary: UploadSummary, command: UploadCommand) -> str:
    sent = f"{count(summary.files, 'file')} sent to the topic {command.topic}: {data_size(summary.size_bytes)}"
    lines = [
        f"{sent}, {count(summary.messages, 'message')}, {duration(summary.seconds)}, {data_size(_speed(summary))}/s"
    ]
    if summary.files_empty:
        lines.append(f"{count(summary.files_empty, 'empty file')} left out: the format can't say that")
    if summary.files_filtered:
        lines.append(f"{count(summary.files_filtered, 'file')} left out by upload.filepath_regex")
    if summary.links:
        lines.append(f"{count(summary.links, 'link or special file', 'links or special files')} not followed")
    lines.extend(f"FAILED {failure}" for failure in summary.failures[:_SHOWN_FAILURES])
    if len(summary.failures) > _SHOWN_FAILURES:
        lines.append(f"FAILED ... and {len(summary.failures) - _SHOWN_FAILURES:,} more")
    if summary.failures:
        lines.append("What failed is not complete on the topic. Send the directory again when it is mended: files that")
        lines.append("are there already do no harm, they are recognised by their content.")
    if summary.stopped:
        left = f", {count(summary.files_unfinished, 'file')} begun but not complete" if summary.files_unfinished else ""
        lines.append(f"Stopped before the end: {count(summary.files, 'file')} complete{left}.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
