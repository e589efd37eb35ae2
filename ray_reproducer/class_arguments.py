"""What the constructor of a ``MetadataJSONReproducer`` was told beside the topics: plain values, checked.

Rules:

1. Every keyword of OpenMSIStream's is known here. One that means nothing to this program is accepted, and a note says
   why it isn't used; the note is logged when the run begins.
2. A value that is not possible is refused at once, by its name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.data_file import DataFile

MODES: Final = ("memory", "disk", "both")
DEFAULT_HEARTBEAT_INTERVAL_S: Final = 900.0
"""Seconds between two heartbeats."""
DEFAULT_LOG_INTERVAL_S: Final = 60.0
"""Seconds between two messages on the log topic."""
DEFAULT_DECRYPT_WAIT_S: Final = 5.0
"""OpenMSIStream's ``max_wait_per_decrypt``, in seconds."""
DEFAULT_FIRST_DECRYPT_WAIT_S: Final = 60.0
"""OpenMSIStream's ``max_initial_wait_per_decrypt``, in seconds."""
_PRODUCER_THREADS: Final = frozenset({1, 2})
"""OpenMSIStream's defaults, of the constructor and of the command line: nobody has asked for anything."""
_THEIR_DATAFILE: Final = "DownloadDataFile"


@dataclass(frozen=True)
class ClassArguments:
    """What one instance was told.

    Attributes:
        config_file: OpenMSIStream configuration file; None: overrides name the broker.
        stream_level: log records below it are not shown.
        file_level: log records below it are not written to the log file.
        log_file: the log file, or a directory for it; None: in the directory of logs.
        heartbeat_topic: topic for heartbeats; None: none are sent.
        heartbeat_program_id: what they call this program.
        heartbeat_interval_s: seconds between two of them.
        log_topic: topic for log messages; None: none are sent.
        log_program_id: what they call this program.
        log_interval_s: seconds between two of them.
        overrides: settings of this program, ``key=value``.
        ray_address: address of a Ray cluster; None: a Ray of its own, or the one that the process has.
        notes: what is not used, and why.
    """

    config_file: Path | None
    stream_level: int
    file_level: int
    log_file: Path | None
    heartbeat_topic: str | None
    heartbeat_program_id: str | None
    heartbeat_interval_s: float
    log_topic: str | None
    log_program_id: str | None
    log_interval_s: float
    overrides: tuple[str, ...]
    ray_address: str | None
    notes: tuple[str, ...]

    @property
    def views_wanted(self) -> tuple[str, ...]:
        """Which of the configuration file's sections "heartbeat" and "log" are needed."""
        wanted = {"heartbeat": self.heartbeat_topic, "log": self.log_topic}
        return tuple(name for name, topic in wanted.items() if topic)


def log_file(path: str | Path | None, class_name: str) -> Path | None:
    """Return the log file that a user means, who names the file or a directory for it."""
    if path is None:
        return None
    named = Path(path).absolute()
    return named if named.suffix and not named.is_dir() else named / f"{class_name}.log"


def interval(name: str, seconds: float) -> float:
    """Check a number of seconds.

    Raises:
        ConfigurationError: it is not above 0.
    """
    if not seconds > 0:
        raise ConfigurationError(f"{name}={seconds} is not possible: it is a number of seconds above 0.")
    return float(seconds)


def regular_expression(pattern: str | re.Pattern[str] | None) -> re.Pattern[str] | None:
    """Compile an expression, if there is one.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(f"filepath_regex={pattern!r} is no regular expression: {error}.") from error


def check_mode(mode: str) -> None:
    """Refuse a mode that there isn't.

    Raises:
        ConfigurationError: with those that there are.
    """
    if mode not in MODES:
        raise ConfigurationError(f"mode={mode!r} is not possible.", hint=f"One of: {', '.join(MODES)}.")


def unused(
    *, datafile_type: type | None, n_producer_threads: int, treat_as_plaintext: bool, decrypt_waits: Sequence[float]
) -> tuple[str, ...]:
    """Say which arguments are not used, and why.

    Args:
        datafile_type: the class of datafiles that was asked for.
        n_producer_threads: the number of producers that was asked for.
        treat_as_plaintext: whether ``treat_undecryptable_as_plaintext`` was given.
        decrypt_waits: ``max_wait_per_decrypt`` and ``max_initial_wait_per_decrypt``.

    Raises:
        ConfigurationError: datafiles of a class that this program can't give.
    """
    notes = []
    if datafile_type not in (None, DataFile):
        name = getattr(datafile_type, "__name__", repr(datafile_type))
        if not name.startswith(_THEIR_DATAFILE):
            raise ConfigurationError(
                f"datafile_type={name} is not possible: datafiles are made in the workers, by this program.",
                hint="Leave it out: a DataFile is given. mode says whether it is in memory, on disk, or both.",
            )
        notes.append(f"datafile_type={name} is not used: a DataFile is given, with the same attributes; mode decides.")
    if n_producer_threads not in _PRODUCER_THREADS:
        notes.append(f"n_producer_threads={n_producer_threads} is not used: one transaction holds all results.")
    if treat_as_plaintext or tuple(decrypt_waits) != (DEFAULT_DECRYPT_WAIT_S, DEFAULT_FIRST_DECRYPT_WAIT_S):
        notes.append("The arguments about decrypting are not used: messages are read as they are.")
    return tuple(notes)


def texts(values: Sequence[Any] | None) -> tuple[str, ...]:
    """Return overrides as a tuple of texts."""
    return tuple(str(value) for value in values or ())
