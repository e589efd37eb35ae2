"""What happened lately, in order, to each file and offset: for a person who has to find out why."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Happening(NamedTuple):
    """One thing that happened to one file version or message.

    Attributes:
        number: which event of the machine it belongs to; the same number means the same moment.
        now: the time that the event came with, in seconds.
        version_id: id of the file version, or of the message that is no chunk.
        path: relative path, or "" for a message that is no chunk.
        what: what happened.
        detail: what else is to be said (offsets as ``partition:offset``, task number, cause).
    """

    number: int
    now: float
    version_id: bytes
    path: str
    what: str
    detail: tuple[object, ...]


class Story:
    """The last happenings, up to a limit."""

    def __init__(self, limit: int) -> None:
        """Begin with nothing.

        Args:
            limit: how many happenings are kept.
        """
        self._happenings: deque[Happening] = deque(maxlen=limit)

    def add(self, happening: Happening) -> None:
        """Take note of a happening; the oldest one is forgotten when there are too many."""
        self._happenings.append(happening)

    def of_version(self, version_id: bytes) -> list[Happening]:
        """Return what happened to a file version, or to a message that is no chunk, oldest first."""
        return [h for h in self._happenings if h.version_id == version_id]

    def of_path(self, path: str) -> list[Happening]:
        """Return what happened to all versions of a file, oldest first."""
        ids = {h.version_id for h in self._happenings if h.path == path}
        return [h for h in self._happenings if h.version_id in ids]

    def of_offset(self, partition: int, offset: int) -> list[Happening]:
        """Return what happened to the file version or message that an offset holds, oldest first."""
        label = (partition, offset)
        ids = {h.version_id for h in self._happenings if label in h.detail}
        return [h for h in self._happenings if h.version_id in ids]
