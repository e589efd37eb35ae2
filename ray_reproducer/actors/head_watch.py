"""Looks whether Ray's head is still there, from the driver.

Rules:

1. Nothing is asked of a head that does not listen: Ray would wait for it, a minute long, and Ctrl-C with it; then it
   ends the process. Work that is under way needs no head.
2. The head of a Ray of our own does not come back: as soon as nobody listens it is gone.
3. The head of a cluster may come back; it is gone when nobody has listened for ``patience_s``, over all lives of the
   program.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ray_reproducer.actors import ray_cluster
from ray_reproducer.core.errors import PipelineError


class HeadGoneError(PipelineError):
    """Ray's head is gone."""


class HeadWatch:
    """Remembers since when Ray's head has been away.

    Args:
        patience_s: how long the head of a cluster may be away, in seconds.
        tell: called with a line of text when it goes away and when it is there again.
    """

    def __init__(self, patience_s: float, tell: Callable[[str], None]) -> None:
        self._patience_s = patience_s
        self._tell = tell
        self._away_since_s: float | None = None

    def look(self) -> bool:
        """Return whether it is there now.

        Raises:
            HeadGoneError: it is gone.
        """
        if ray_cluster.head_listens():
            if self._away_since_s is not None:
                self._away_since_s = None
                self._tell("Ray's head is there again.")
            return True
        address, now_s = ray_cluster.head_address(), time.monotonic()
        if ray_cluster.is_local():
            raise HeadGoneError("Ray's head process has died")
        if self._away_since_s is None:
            self._away_since_s = now_s
            self._tell(f"Ray's head at {address} does not answer; it is waited for, for {self._patience_s:g} s.")
        if now_s - self._away_since_s >= self._patience_s:
            raise HeadGoneError(
                f"Ray's head at {address} has not answered for actor_timeout={self._patience_s:g} s",
                hint="What is committed is safe. Start the cluster, and then this program again to go on from there.",
            )
        return False
