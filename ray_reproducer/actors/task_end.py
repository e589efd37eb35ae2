"""What the end of an extraction task means: a lost worker, or a part that the program itself needs."""

from __future__ import annotations

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)

from ray_reproducer.core.errors import PipelineError, ReproducerError
from ray_reproducer.core.events import CrashCause


def crash_cause(error: BaseException) -> CrashCause | None:
    """Tell the loss of a worker from the loss of what the program itself needs (None)."""
    if isinstance(error, OutOfMemoryError):
        return "out_of_memory"
    if isinstance(error, NodeDiedError):
        return "node_died"
    # A worker that a forced cancel ended is told by the machine from one that ended itself.
    if isinstance(error, (WorkerCrashedError, TaskCancelledError)):
        return "worker_crashed"
    return None


def fatal(error: BaseException) -> Exception:
    """Say what ends this life of the program; a ``PipelineError`` is followed by another one."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, ReproducerError):
            return cause
    if isinstance(error, ObjectLostError):
        return PipelineError(f"data that was read is lost with the process or machine that held it: {error}")
    return PipelineError(f"an extraction task can't run: {type(error).__name__}: {error}")
