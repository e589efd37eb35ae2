"""What is logged while an extractor works on a file, on its way from the worker to the program's log.

Rules:

1. Whatever reaches the worker's root logger during a file is kept: ``self.logger``, ``datafile.logger``, and the
   loggers of the user's own modules, each by its own level. Ray's own talk is not.
2. It is bounded: so many records of a file, so many characters of a record. What is left out is counted.
3. It travels with the answer of its task. What a process said that did not live to answer is in Ray's logs of that
   worker.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

MAX_RECORDS_PER_FILE: Final = 20
"""Records of one file that are passed on: a screen of them says what is wrong with it."""
MAX_TEXT_CHARS: Final = 4_000
"""Longest text of one record, a traceback included."""
MAX_RECORDS_PER_TASK: Final = 500
"""Records of one task that are passed on: a batch may have as many files as this, and its answer stays small."""
_NOT_THE_USERS: Final = frozenset({"ray"})


class Said(NamedTuple):
    """One record: its level as in ``logging``, and its text, which begins with the file's path."""

    level: int
    text: str


class FileLog(logging.Handler):
    """Collects what is logged while it listens: as long as the context lasts; one for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[Said] = []
        self._path = ""
        self._of_file = 0
        self._left_out = 0
        self.setFormatter(logging.Formatter("%(message)s"))

    def __enter__(self) -> FileLog:
        """Begin to listen."""
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        logging.getLogger().removeHandler(self)
        self._end()

    def begin(self, path: str) -> None:
        """Take what is said from now on for something about a file.

        Args:
            path: of the file, relative to the root.
        """
        self._end()
        self._path, self._of_file, self._left_out = path, 0, 0
        root = logging.getLogger()
        if self not in root.handlers:  # user code of the file before has set logging up anew
            root.addHandler(self)

    def _end(self) -> None:
        if self._left_out:
            text = f"{self._path}: {self._left_out:,} more log messages were left out"
            self.said.append(Said(logging.WARNING, text))
            self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, or count it."""
        if record.name.partition(".")[0] in _NOT_THE_USERS:
            return
        if self._of_file >= MAX_RECORDS_PER_FILE or len(self.said) >= MAX_RECORDS_PER_TASK:
            self._left_out += 1
            return
        self._of_file += 1
        self.said.append(Said(record.levelno, f"{self._path}: {self._text(record)}"))

    def _text(self, record: logging.LogRecord) -> str:
        try:
            text = self.format(record)
        # What is logged is the user's, and may not fit its placeholders, nor have a text.
        except Exception as error:  # noqa: BLE001
            text = f"(a log message that can't be formatted: {type(error).__name__})"
        return text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]}... ({len(text):,} characters)"
