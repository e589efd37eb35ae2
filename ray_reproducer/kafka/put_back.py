"""Takes back positions that were committed before their records were complete (rule 9 of ``delivery``)."""

from __future__ import annotations

from collections.abc import Mapping

from ray_reproducer.core.errors import BrokerError, PipelineError
from ray_reproducer.kafka import admin
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.group_offsets import CommittedOffset, GroupOffsets


def put_back(
    clients: ClientConfigs,
    group: GroupOffsets,
    known: Mapping[int, CommittedOffset],
    sent: Mapping[int, CommittedOffset],
) -> None:
    """Commit what was there before, and let all begin anew.

    Args:
        clients: the user's client settings.
        group: whose positions.
        known: what was committed before.
        sent: what was committed unasked.

    Raises:
        PipelineError: it is done; the ids beside the records that are visible tell the next life which these are.
        BrokerError: it can't be done: there was nothing to go back to, or the broker does not let us.
    """
    if not known:  # the group has just begun: it has no positions then
        admin.forget_group(clients, group.group_id)
        raise _begin_anew()
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
    raise _begin_anew()


def _begin_anew() -> PipelineError:
    return PipelineError("a transaction was committed before its records were complete")
