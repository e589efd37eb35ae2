"""Where a group stands: the committed offset of a partition and the metadata beside it, read back into a start."""

from __future__ import annotations

from ray_reproducer.core import commit_metadata
from ray_reproducer.core.errors import BrokerError, CommitMetadataError
from ray_reproducer.core.ledger import PartitionStart
from ray_reproducer.kafka.delivery import CommittedOffset


def partition_start(committed: CommittedOffset | None, fallback: int, topic_id: bytes, where: str) -> PartitionStart:
    """Say where a partition begins, and what is done above that.

    Args:
        committed: what the group has committed there; None if nothing.
        fallback: offset at which a group without a place begins.
        topic_id: 16-byte id of the topic as it is now.
        where: group, topic and partition, for errors.

    Raises:
        CommitMetadataError: the metadata can't be read.
        BrokerError: it belongs to a topic of this name that no longer exists.
    """
    if committed is None:
        return PartitionStart(fallback)
    if not committed.metadata:
        return PartitionStart(committed.offset)
    try:
        restored = commit_metadata.decode(committed.metadata, committed.offset)
    except CommitMetadataError as error:
        raise CommitMetadataError(f"{where}: {error.message}", hint=error.hint) from None
    if restored.topic_id != topic_id:
        raise BrokerError(
            f"{where}: the committed offset {committed.offset} belongs to a topic of this name that no longer exists; "
            "it was deleted and made anew",
            hint="Use another group_id to read the new topic from its beginning.",
        )
    return PartitionStart(committed.offset, restored)
