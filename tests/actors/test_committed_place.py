"""Where a group stands, read back into a start."""

from __future__ import annotations

import pytest

from ray_reproducer.actors.committed_place import PlacePolicy, partition_start
from ray_reproducer.core import commit_metadata
from ray_reproducer.core.errors import CommitMetadataError, TopicReplacedError
from ray_reproducer.core.ledger import PartitionStart
from ray_reproducer.kafka.group_offsets import CommittedOffset

TOPIC_ID, ANOTHER = bytes(range(16)), bytes(16)
WHERE = "group g, raw [3]"
OURS = CommittedOffset(10, commit_metadata.encode(TOPIC_ID, 10, {b"v" * 12: [10, 12]}, 13))


def start(committed: CommittedOffset | None, topic_id: bytes = TOPIC_ID, **policy: bool) -> PartitionStart:
    return partition_start(committed, 5, topic_id, WHERE, PlacePolicy(**policy))


def test_without_a_place_it_begins_where_it_is_said() -> None:
    assert start(None) == PartitionStart(5)


def test_a_place_without_metadata_is_only_a_position() -> None:
    assert start(CommittedOffset(7, "")) == PartitionStart(7)


def test_our_own_words_are_understood() -> None:
    begun = start(OURS)
    assert begun.position == 10
    assert begun.restored is not None
    assert begun.restored.is_done(11, b"w" * 12)
    assert not begun.restored.is_done(12, b"v" * 12)


@pytest.mark.parametrize("text", ["somebody else's", OURS.metadata[:-2]], ids=["foreign", "damaged"])
def test_what_cannot_be_read_is_refused_with_the_place_and_the_way_out(text: str) -> None:
    committed = CommittedOffset(10, text)
    with pytest.raises(CommitMetadataError) as refused:
        start(committed)
    assert refused.value.message.startswith(WHERE)
    assert "commit_metadata=ignore" in refused.value.hint
    assert start(committed, ignore_unreadable=True) == PartitionStart(10)


def test_a_topic_that_was_made_anew_is_known_by_its_id() -> None:
    with pytest.raises(TopicReplacedError) as refused:
        start(OURS, ANOTHER)
    assert refused.value.message.startswith(WHERE)
    assert "topic_recreated=start_anew" in refused.value.hint
    assert start(OURS, ANOTHER, start_anew=True) == PartitionStart(5)
