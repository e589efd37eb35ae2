"""A thread for what may be slow or fail without anybody waiting for it: writing files, talking to another broker.

Rules:

1. A view's failure is said once, and tried again at the next turn; it reaches nobody else.
2. The end waits for the last turn of each view, for a limited time: a disk that hangs keeps no run from ending.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol


class View(Protocol):
    """Something that is brought up to date now and then, in one thread."""

    @property
    def what(self) -> str:
        """What it is, for the warning that it failed."""
        ...

    def update(self, *, last: bool) -> None:
        """Bring it up to date; ``last``: it will not be called again. Whatever it raises is said once."""
        ...


class ViewThread:
    """Brings views up to date, one after the other, every so often.

    Args:
        name: of the thread.
        views: what it looks after.
        interval_s: time between two turns, in seconds.
        warn: is told, once for each view, that it failed.
    """

    def __init__(self, name: str, views: Sequence[View], interval_s: float, warn: Callable[[str], None]) -> None:
        self._views = views
        self._interval_s = interval_s
        self._warn = warn
        self._failed: set[str] = set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; nothing happens if there are no views."""
        if self._views:
            self._thread.start()

    def end(self) -> None:
        """Let each view have its last turn; ``join`` waits for that."""
        self._ending.set()

    def join(self, by_s: float) -> None:
        """Wait for the end.

        Args:
            by_s: until when (``time.monotonic()``).
        """
        if not self._views:
            return
        self._thread.join(max(0.0, by_s - time.monotonic()))
        if self._thread.is_alive():
            self._warn(f"{' and '.join(view.what for view in self._views)}: not finished in time, and left as is.")

    def _run(self) -> None:
        while not self._ending.wait(self._interval_s):
            self._turn(last=False)
        self._turn(last=True)

    def _turn(self, *, last: bool) -> None:
        for view in self._views:
            try:
                view.update(last=last)
            # Rule 1: whatever it is, a view is not worth a run.
            except Exception as error:  # noqa: BLE001
                if view.what not in self._failed:
                    self._failed.add(view.what)
                    said = " ".join(str(error).split()).removesuffix(".")
                    self._warn(f"{view.what}: {said}. The run goes on without; it is tried again, and said no more.")
