"""Looks whether Ray's head is still there, from the driver.

Rules:

1. Nothing is asked of a head that does not listen: Ray would wait for it, a minute long, and Ctrl-C with it; then it
   ends the process. Work that is under way needs no head.
2. The head of a Ray of our own does not come back: it is gone when nobody listens in two looks, one after the other.
3. The head of a cluster may come back; it is gone when nobody has listened for a time, over all lives of the program.
4. A head that comes back without knowing us is another one, and ours is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ray_reproducer.actors import ray_cluster
from ray_reproducer.core.errors import PipelineError

LONGEST_S: Final = 40.0
"""The most that a head is waited for, in seconds: after 60 Ray ends the process by itself, and says less about it."""


class HeadGoneError(PipelineError):
    """Ray's head is gone."""


class HeadWatch:
    """Remembers since when Ray's head has been away.

    Args:
        patience_s: how long the head of a cluster may be away, in seconds.
        tell: called with a line of text when it goes away and when it is there again.
    """

    def __init__(self, patience_s: float, tell: Callable[[str], None]) -> None:
        self._patience_s = min(patience_s, LONGEST_S)
        self._tell = tell
        self._away_since_s: float | None = None

    def look(self) -> bool:
        """Return whether it is there now.

        Raises:
            HeadGoneError: it is gone.
            PipelineError: somebody has shut Ray down in this process.
        """
        address = ray_cluster.head_address()
        if not ray_cluster.head_listens():
            self._is_away(address)
            return False
        if not ray_cluster.is_same_head():
            raise _gone(f"Ray's head at {address} was started anew, and is another one now")
        if self._away_since_s is not None and not ray_cluster.is_local():  # else nothing was said of it
            self._tell("Ray's head is there again.")
        self._away_since_s = None
        return True

    def _is_away(self, address: str) -> None:
        now_s, since_s = time.monotonic(), self._away_since_s
        if since_s is None:
            self._away_since_s = now_s
            if not ray_cluster.is_local():
                self._tell(f"Ray's head at {address} does not answer; it is waited for, for {self._patience_s:g} s.")
        elif ray_cluster.is_local():
            self._away_since_s = None
            raise HeadGoneError("Ray's head process has died")
        elif now_s - since_s >= self._patience_s:
            raise _gone(f"Ray's head at {address} has not answered for {self._patience_s:g} s")


def _gone(text: str) -> HeadGoneError:
    return HeadGoneError(
        text, hint="What is committed is safe. Start the cluster, and then this program again to go on from there."
    )
