"""The source topic changes while the program reads it: more partitions, and another topic of the same name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin._metadata import TopicMetadata
from confluent_kafka.cimpl import NewPartitions

from tests.faults.broker import PrivateBroker
from tests.faults.broker_process import ANSWER_S
from tests.faults.misbehaving_broker.lab import Lab
from tests.program import Program
from tests.waiting import wait_until
from tests.workload import cut, messages_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

DEADLINE_S = 150.0
"""How long a busy machine may take for a start of Ray, and for what the test waits for then."""
QUICKLY = "topic_check_interval=1"


@pytest.fixture
def lab(private_broker: PrivateBroker, tmp_path: Path) -> Iterator[Lab]:
    """Topics and a program on the private broker."""
    lab = Lab(private_broker, tmp_path)
    yield lab
    lab.close()


def _results(lab: Lab, program: Program, due: Callable[[], int]) -> None:
    """Wait until there are so many results."""
    wait_until(
        lambda: program.process.poll() is not None or len(lab.results_seen()) == due(), DEADLINE_S, "the results"
    )
    assert program.process.poll() is None, program.err()


def _add_partition(lab: Lab, partitions: int) -> None:
    admin = lab.broker.admin
    admin.create_partitions([NewPartitions(lab.source, partitions)])[lab.source].result(ANSWER_S)

    def known() -> bool:
        found: TopicMetadata | None = admin.list_topics(timeout=ANSWER_S).topics.get(lab.source)
        return found is not None and len(found.partitions) == partitions

    wait_until(known, ANSWER_S, "the new partition")
    lab.make_source(partitions)


def test_added_partitions_are_read_and_a_topic_made_anew_ends_the_run_unless_it_is_to_begin_anew(lab: Lab) -> None:
    program = lab.start(QUICKLY)
    lab.put(3)
    _results(lab, program, lambda: 3)
    _add_partition(lab, 3)
    split = cut("over old and new.bin", bytes(1500))
    lab.topic.put_in_order((*messages_of(split, [index])[0], partition) for index, partition in ((1, 2), (2, 0)))
    _results(lab, program, lambda: 4)

    lab.broker.delete_topic(lab.source)
    lab.make_source(2)
    code, _, err = program.wait(DEADLINE_S)
    assert code == 1, err
    # Whoever is first says it: the watch, by the topic's id, or a consumer whose next offset is beyond the new end.
    assert lab.source in err
    assert "was deleted and made anew" in err or f"the topic {lab.source} was deleted" in err
    assert "topic_recreated=start_anew" in err

    lab.put(2)
    program = lab.start(QUICKLY, "topic_recreated=start_anew")
    _results(lab, program, lambda: 6)
    lab.broker.delete_topic(lab.source)
    lab.make_source(2)
    lab.put(2)
    _results(lab, program, lambda: 8)


def test_metadata_that_is_not_ours_can_be_ignored(lab: Lab) -> None:
    lab.put(4)
    lab.commit_position(0, 0, "a note of somebody else")
    code, err = lab.drain("commit_metadata=ignore")
    assert code == 0, err
    assert lab.has_results()
