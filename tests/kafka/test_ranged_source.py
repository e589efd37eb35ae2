"""Reading ranges of the source topic. The rules are those at the head of ``kafka/ranged_source.py``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from ray_reproducer.core.replay_plan import Ranges
from ray_reproducer.kafka import ranged_source
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.ranged_source import RangedSource
from ray_reproducer.kafka.source import OffsetLost, PartitionEnd, Source
from tests.kafka.reading import WAIT_S, ignore
from tests.waiting import wait_until

MakeTopic = Callable[..., str]


def produce(clients: ClientConfigs, topic: str, numbers: range, partition: int = 0, size_bytes: int = 5) -> None:
    producer = Producer(clients.for_producer())
    for number in numbers:
        producer.produce(topic, str(number).zfill(size_bytes), partition=partition)
    assert producer.flush(WAIT_S) == 0


@pytest.fixture
def jumps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where the source jumped to."""
    seen: list[int] = []
    jump = Source.jump

    def noted(source: Source, partition: int, offset: int) -> None:
        seen.append(offset)
        jump(source, partition, offset)

    monkeypatch.setattr(Source, "jump", noted)
    return seen


def read(
    clients: ClientConfigs, topic: str, ranges: Mapping[int, Ranges]
) -> tuple[list[tuple[int, int]], dict[int, int], list[OffsetLost]]:
    """Read until all ranges are read: (partition, offset) of the messages, ends that were told, losses."""
    source = RangedSource(clients, "g", topic, ranges, ignore)
    seen: list[tuple[int, int]] = []
    ends: dict[int, int] = {}
    losses: list[OffsetLost] = []
    deadline = time.monotonic() + WAIT_S

    def reached(partition: int) -> int:
        of_partition = [offset + 1 for p, offset in seen if p == partition]
        lost = [loss.resumes_at or 0 for loss in losses if loss.partition == partition]
        return max([*of_partition, *lost, ends.get(partition, 0)], default=0)

    while any(reached(partition) < of_partition[-1][1] for partition, of_partition in ranges.items()):
        assert time.monotonic() < deadline, f"only saw {seen[-5:]} {ends} {losses}"
        event = source.poll(0.2)
        if isinstance(event, PartitionEnd):
            ends[event.partition] = event.offset
        elif isinstance(event, OffsetLost):
            losses.append(event)
        elif event is not None:
            seen.append((event.partition() or 0, event.offset() or 0))
    assert source.poll(0.3) is None, "behind the last range nothing comes"
    assert source.high_watermarks() == {partition: of_partition[-1][1] for partition, of_partition in ranges.items()}
    source.close()
    return seen, ends, losses


def test_rule_1_only_the_ranges_are_returned(embedded: ClientConfigs) -> None:
    produce(embedded, "raw", range(100))
    produce(embedded, "raw", range(50), partition=2)
    seen, ends, losses = read(embedded, "raw", {0: ((10, 13), (20, 21), (98, 100)), 2: ((0, 1),)})
    assert sorted(seen) == [*((0, offset) for offset in (10, 11, 12, 20, 98, 99)), (2, 0)]
    assert (ends, losses) == ({}, [])


def test_rule_2_small_gaps_are_read_over_and_large_ones_jumped_over(
    embedded: ClientConfigs, jumps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranged_source, "JUMP_BYTES", 10_000)
    produce(embedded, "raw", range(300), size_bytes=100)
    seen, _, _ = read(embedded, "raw", {0: ((0, 2), (20, 21), (250, 252), (299, 300))})
    assert [offset for _, offset in seen] == [0, 1, 20, 250, 251, 299]
    assert jumps == [250], "18 and 47 messages are less than 10,000 bytes, 229 are more"


def test_rule_2_gaps_of_many_messages_are_jumped_over_however_small_these_are(
    embedded: ClientConfigs, jumps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranged_source, "JUMP_MESSAGES", 100)
    produce(embedded, "raw", range(300))
    seen, _, _ = read(embedded, "raw", {0: ((3, 4), (200, 201))})
    assert [offset for _, offset in seen] == [3, 200]
    assert jumps == [200]


def test_rule_3_where_the_last_offset_is_no_message_the_end_is_told(
    clients: ClientConfigs, unique_topic: MakeTopic, name: str
) -> None:
    topic = unique_topic("source", 2)
    for partition in range(2):
        producer = Producer(clients.for_producer(**{"transactional.id": f"{name}.{partition}"}))
        producer.init_transactions(WAIT_S)
        producer.begin_transaction()
        producer.produce(topic, "a", partition=partition)
        producer.commit_transaction(WAIT_S)  # offset 1 is a marker
    produce(clients, topic, range(3), partition=0)
    seen, ends, _ = read(clients, topic, {0: ((0, 2),), 1: ((0, 2),)})
    assert sorted(seen) == [(0, 0), (1, 0)]
    assert ends == {0: 2, 1: 2}


def test_offsets_that_are_gone_meanwhile_are_told_and_the_rest_is_read(
    clients: ClientConfigs, unique_topic: MakeTopic
) -> None:
    topic = unique_topic("source", 2)
    for partition in range(2):
        produce(clients, topic, range(20), partition=partition)
    admin = AdminClient(clients.for_admin())  # its futures end only while it lives
    gone = [TopicPartition(topic, 0, 7), TopicPartition(topic, 1, 15)]
    for future in admin.delete_records(gone).values():
        future.result(WAIT_S)
    seen, _, losses = read(clients, topic, {0: ((2, 4), (6, 9), (18, 19)), 1: ((1, 3),)})
    assert sorted(seen) == [(0, 7), (0, 8), (0, 18)]
    assert sorted((loss.partition, loss.offset_wanted, loss.resumes_at) for loss in losses) == [(0, 2, 7), (1, 1, 15)]


def test_a_partition_cut_behind_our_back_is_told(embedded: ClientConfigs) -> None:
    produce(embedded, "raw", range(5))
    source = RangedSource(embedded, "g", "raw", {0: ((50, 60),)}, ignore)
    assert wait_until(lambda: source.poll(0.1), WAIT_S, "the report") == OffsetLost(0, 50, None)
    source.close()
