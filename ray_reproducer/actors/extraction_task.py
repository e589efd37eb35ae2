"""The Ray tasks around :mod:`extraction`: the only place that knows how Ray calls it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

import msgpack
import ray

from ray_reproducer.actors.extraction import (
    JobReference,
    StoredSegment,
    TaskAnswer,
    extract,
    load_extractor,
    load_job,
)
from ray_reproducer.core.events import FileWork


def _run(
    job: JobReference,
    task: int,
    files: bytes,
    numbers: Sequence[int],
    committer: Any,
    *segments: StoredSegment,
) -> TaskAnswer:
    committer.task_began.remote(task, f"process {os.getpid()} on {platform.node()}")
    slices = msgpack.unpackb(files, use_list=False)
    return extract(load_job(job), slices, dict(zip(numbers, segments, strict=True)))


def _warm_up(job: JobReference) -> None:
    load_extractor(load_job(job))


def packed(files: Sequence[FileWork]) -> bytes:
    """Write for a task where the chunks of its files are: a few bytes a file, as msgpack."""
    slices: bytes = msgpack.packb([file.slices for file in files])
    return slices


def extraction_task(num_cpus: float) -> Any:
    """Make the remote function.

    It is never retried by Ray: what runs again, and how often, the machine decides.

    Args:
        num_cpus: processor cores that a task reserves.
    """
    return ray.remote(_run).options(num_cpus=num_cpus, max_retries=0, name="extract")


def warm_up(job: JobReference, num_cpus: float, slots: int) -> list[ray.ObjectRef[None]]:
    """Let Ray start worker processes that load the extractor, while the broker is still being looked at.

    Args:
        job: what all tasks have in common.
        num_cpus: processor cores that a task reserves.
        slots: how many workers.

    Returns:
        references; getting them raises what an extraction task would raise for want of the extractor.
    """
    task = ray.remote(_warm_up).options(num_cpus=num_cpus, max_retries=0, name="warm up")
    return [task.remote(job) for _ in range(slots)]
