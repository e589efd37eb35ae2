"""Who is told about a run beside the screen: a class that is run, as a program or inside one of the user's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from ray_reproducer.core.outcome import Outcome
from ray_reproducer.core.progress import Progress

if TYPE_CHECKING:
    from ray_reproducer.actors.stopping import StopFlag


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


class Guest(Shown, Protocol):
    """What shows a run in a program that is not ours."""

    def records_to(self, handlers: Sequence[logging.Handler], /) -> AbstractContextManager[None]:
        """Let handlers have what is logged, but not what is shown here, as long as the context lasts."""
        ...


class Companion(Protocol):
    """Who is told about a run beside the screen, and may end it; called in the thread that runs it."""

    def display(self, title: str) -> Guest | None:
        """Return what takes the place of the screen; None: this process is ours."""
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

    def check(self) -> None:
        """Say how far the run is, in a thread of its own: somebody has typed ``c``."""
        ...
