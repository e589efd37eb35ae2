"""The Ray task around :func:`extraction.extract`: the only place that knows how Ray calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from ray_reproducer.actors.extraction import ExtractionJob, StoredSegment, TaskAnswer, extract, load_job
from ray_reproducer.core.events import FileWork


def _run(
    job: Sequence[ray.ObjectRef[ExtractionJob]],
    key: str,
    task: int,
    files: Sequence[FileWork],
    numbers: Sequence[int],
    committer: Any,
    *segments: StoredSegment,
) -> TaskAnswer:
    if committer is not None:
        committer.task_began.remote(task)
    return extract(load_job(job[0], key), files, dict(zip(numbers, segments, strict=True)))


def extraction_task(num_cpus: float) -> Any:
    """Make the remote function.

    It is never retried by Ray: what runs again, and how often, the machine decides.

    Args:
        num_cpus: processor cores that a task reserves.
    """
    return ray.remote(_run).options(num_cpus=num_cpus, max_retries=0, name="extract")
