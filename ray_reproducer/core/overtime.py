"""What is done about tasks that take long: they are named to the user, or ended (rules 4 and 5 of :mod:`pool`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ray_reproducer.core.assembly import Assembly
from ray_reproducer.core.events import CancelTask, Instruction, Warn
from ray_reproducer.core.pool import ExtractionPool, SlowTask

NAMED_A_MINUTE: Final = 5
"""Tasks that are named: with hundreds of workers and files that all take long, more say no more."""
_MINUTE_S: Final = 60.0


class Overtime:
    """Looks for such tasks.

    Args:
        pool: all tasks.
        assembly: knows the paths of their files.
    """

    def __init__(self, pool: ExtractionPool, assembly: Assembly) -> None:
        self._pool, self._assembly = pool, assembly
        self._minute_s = 0.0
        self._named = 0
        self._others = 0

    def look(self, now_s: float) -> Iterator[Instruction]:
        """Yield what is to be done now (the monotonic time, in seconds)."""
        yield from map(CancelTask, self._pool.late(now_s))
        if now_s >= self._minute_s + _MINUTE_S:
            if self._others:
                yield Warn(f"The extractor has been at the files of {self._others} other tasks for as long.")
            self._minute_s, self._named, self._others = now_s, 0, 0
        for slow in self._pool.slow(now_s):
            if self._named < NAMED_A_MINUTE:
                self._named += 1
                yield Warn(_text(slow, self._assembly.get(slow.versions[0]).version.relative_path))
            else:
                self._others += 1


def _text(slow: SlowTask, path: str) -> str:
    others = len(slow.versions) - 1
    which = path if not others else f"{path}, or one of {others} more in the same task"
    where = f" ({slow.worker})" if slow.worker else ""
    if slow.timeout_s is None:
        end = "Without extraction.timeout=SECONDS it may take for ever."
    else:
        end = f"It is ended after extraction.timeout={slow.timeout_s:g} s."
    return f"{which}: the extractor has been at it for {slow.seconds:.0f} s{where}. {end}"
