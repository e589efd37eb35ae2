"""Where a group stands: the committed offset of a partition and the metadata beside it, read back into a start."""

from __future__ import annotations

from dataclasses import dataclass

from ray_reproducer.core import commit_metadata
from ray_reproducer.core.errors import CommitMetadataError, TopicReplacedError
from ray_reproducer.core.ledger import PartitionStart
from ray_reproducer.kafka.delivery import CommittedOffset


@dataclass(frozen=True, slots=True)
class PlacePolicy:
    """What to do about a place that can't be used as it is.

    Attributes:
        ignore_unreadable: begin at the committed offset although the metadata beside it can't be read: what it says to
            be done above that is done again.
        start_anew: if the topic was deleted and made anew, begin with the new one.
    """

    ignore_unreadable: bool = False
    start_anew: bool = False


def partition_start(
    committed: CommittedOffset | None, fallback: int, topic_id: bytes, where: str, policy: PlacePolicy
) -> PartitionStart:
    """Say where a partition begins, and what is done above that.

    Args:
        committed: what the group has committed there; None if nothing.
        fallback: offset at which a group without a place begins.
        topic_id: 16-byte id of the topic as it is now.
        where: group, topic and partition, for errors.
        policy: what to do if it can't be used as it is.

    Raises:
        CommitMetadataError: the metadata can't be read.
        TopicReplacedError: it belongs to a topic of this name that no longer exists.
    """
    if committed is None:
        return PartitionStart(fallback)
    if not committed.metadata:
        return PartitionStart(committed.offset)
    try:
        restored = commit_metadata.decode(committed.metadata, committed.offset)
    except CommitMetadataError as error:
        if policy.ignore_unreadable:
            return PartitionStart(committed.offset)
        raise CommitMetadataError(
            f"{where}: {error.message}",
            hint=f"{error.hint} commit_metadata=ignore begins at the committed offset {committed.offset} all the same; "
            "files above it that are done already get a second outcome then.",
        ) from None
    if restored.topic_id != topic_id:
        if policy.start_anew:
            return PartitionStart(fallback)
        raise TopicReplacedError(
            f"{where}: the committed offset {committed.offset} belongs to a topic of this name that no longer exists; "
            "it was deleted and made anew",
            hint="Use another group_id to read the new topic from its beginning, or topic_recreated=start_anew.",
        )
    return PartitionStart(committed.offset, restored)
