"""What is done about tasks that take long: they are named to the user, or ended (rules 4 and 5 of :mod:`pool`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ray_reproducer.core.assembly import Assembly
from ray_reproducer.core.events import CancelTask, Instruction, Warn
from ray_reproducer.core.pool import ExtractionPool, SlowTask

NAMED_AT_ONCE: Final = 5
"""Tasks that are named in the same moment: with hundreds of workers and files that all take long, more say no more."""


def overtime(pool: ExtractionPool, assembly: Assembly, now_s: float) -> Iterator[Instruction]:
    """Look for such tasks.

    Args:
        pool: all tasks.
        assembly: knows the paths of their files.
        now_s: the monotonic time.

    Yields:
        what is to be done.
    """
    yield from map(CancelTask, pool.late(now_s))
    slow = pool.slow(now_s)
    for task in slow[:NAMED_AT_ONCE]:
        yield Warn(_text(task, assembly.get(task.versions[0]).version.relative_path))
    if (others := len(slow) - NAMED_AT_ONCE) > 0:
        yield Warn(f"The extractor has been at the files of {others} other tasks for as long.")


def _text(slow: SlowTask, path: str) -> str:
    others = len(slow.versions) - 1
    which = path if not others else f"{path}, or one of {others} more in the same task"
    where = f" ({slow.worker})" if slow.worker else ""
    if slow.timeout_s is None:
        end = "Without extraction.timeout=SECONDS it may take for ever."
    else:
        end = f"It is ended after extraction.timeout={slow.timeout_s:g} s."
    return f"{which}: the extractor has been at it for {slow.seconds:.0f} s{where}. {end}"
