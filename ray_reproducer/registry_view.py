"""What a class can see of the files of its run: a view that is read, and that nothing depends on."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

KEPT: Final = 500
"""Files of which the view remembers what became of them, in each of its two lists."""


class FileRegistryView:
    """In OpenMSIStream the registry is the state that a restart needs. Here that state is in Kafka, and this is a view.

    It has the files of this run, in the driver; in a worker it is empty.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._produced: deque[Path] = deque(maxlen=KEPT)
        self._failed: dict[Path, str] = {}
        self._open = 0

    @property
    def n_files_in_progress(self) -> int:
        """Files that have begun to arrive and have no outcome yet."""
        return self._open

    @property
    def results_produced(self) -> tuple[Path, ...]:
        """Relative paths of the latest files whose metadata is on the topic, oldest first."""
        return tuple(self._produced)

    @property
    def failed(self) -> Mapping[Path, str]:
        """Relative paths of the latest files that became dead letters, and the reason."""
        return dict(self._failed)

    def note_progress(self, n_files_in_progress: int) -> None:
        """Take the number of files in progress; for the program that runs the class."""
        self._open = n_files_in_progress

    def note_outcome(self, path: Path, reason: str) -> None:
        """Take what became of a file, "" for its metadata; for the program that runs the class."""
        if not reason:
            self._failed.pop(path, None)
            self._produced.append(path)
            return
        self._failed[path] = reason
        if len(self._failed) > KEPT:
            del self._failed[next(iter(self._failed))]

    def __getattr__(self, name: str) -> object:
        """Say what there is, to somebody who looks for OpenMSIStream's own."""
        raise AttributeError(
            f"file_registry has no {name}: it is a view of this run, because the state is in Kafka. It has "
            "n_files_in_progress, results_produced, failed; the files in LOGS are written as in OpenMSIStream."
        )
