"""Takes back positions that were committed before their records were complete (rule 9 of ``delivery``)."""

from __future__ import annotations

from collections.abc import Mapping

from ray_reproducer.core.errors import BrokerError, PipelineError
from ray_reproducer.kafka.group_offsets import CommittedOffset, GroupOffsets


def put_back(
    group: GroupOffsets,
    known: Mapping[int, CommittedOffset],
    sent: Mapping[int, CommittedOffset],
) -> None:
    """Commit what was there before, and let all begin anew.

    Args:
        group: whose positions.
        known: what was committed before.
        sent: what was committed unasked.

    Raises:
        PipelineError: it is done; the ids beside the records that are visible tell the next life which these are.
        BrokerError: some of them are a partition's first: there is nothing to go back to.
    """
    if back := {partition: known[partition] for partition in sent if partition in known}:
        group.commit(back)
    if new := sorted(sent.keys() - known.keys()):
        upto = ", ".join(f"[{partition}] to {sent[partition].offset}" for partition in new)
        raise BrokerError(
            f"group {group.group_id}: the first positions of some partitions of {group.topic} were committed before "
            f"all their results were written: {upto}",
            hint="Results of files below these may be missing. Set the positions of these partitions back to where the "
            "group began (kafka-consumer-groups.sh --reset-offsets), and start again.",
        )
    raise PipelineError("a transaction was committed before its records were complete")
