"""Which events can't happen in the present state of the machine: looked at before anything changes."""

from __future__ import annotations

from ray_reproducer.core.errors import IllegalEventError
from ray_reproducer.core.events import (
    Delivered,
    DrainTo,
    Event,
    PartitionsAdded,
    TaskCrashed,
    TaskFinished,
    TransactionAborted,
    TransactionCommitted,
)
from ray_reproducer.core.ledger import CommitPlan, Ledger
from ray_reproducer.core.pool import ExtractionPool


def check(event: Event, ledger: Ledger, pool: ExtractionPool, plan: CommitPlan | None) -> None:
    """Refuse an event that can't happen.

    Args:
        event: what is said to have happened.
        ledger: which offsets were delivered.
        pool: which tasks run.
        plan: what the open transaction carries; None if there is none.

    Raises:
        IllegalEventError: it can't have.
    """
    if isinstance(event, Delivered):
        for partition, start, stop in event.delivery.ranges:
            known = ledger.partitions.get(partition)
            if known is None or start != known.delivered_to:
                raise IllegalEventError(f"partition {partition}: {start} to {stop} was delivered out of turn")
    elif isinstance(event, (TaskFinished, TaskCrashed)):
        versions = pool.versions_of(event.task)
        if versions is None:
            raise IllegalEventError(f"task {event.task} is not running")
        if isinstance(event, TaskFinished) and len(event.answers) != len(versions):
            raise IllegalEventError(f"task {event.task}: {len(event.answers)} answers for {len(versions)} files")
    elif isinstance(event, (TransactionCommitted, TransactionAborted)):
        refused = event.too_large if isinstance(event, TransactionAborted) else -1
        if plan is None or refused >= len(plan.carried):
            raise IllegalEventError(f"nobody asked for the transaction that ended ({event})")
    elif isinstance(event, (DrainTo, PartitionsAdded)):
        _check_partitions(event, ledger)


def _check_partitions(event: DrainTo | PartitionsAdded, ledger: Ledger) -> None:
    read = ledger.partitions.keys()
    if isinstance(event, DrainTo) and not event.ends.keys() <= read:
        raise IllegalEventError(f"some of the partitions {sorted(event.ends)} are not read")
    if isinstance(event, PartitionsAdded) and event.starts.keys() & read:
        raise IllegalEventError(f"some of the partitions {sorted(event.starts)} are read already")
