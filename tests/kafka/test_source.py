"""Reading the source topic. The rules are those at the head of ``kafka/source.py``."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from ray_reproducer.kafka import admin, faults
from ray_reproducer.kafka import source as source_module
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.embedded import EmbeddedCluster
from ray_reproducer.kafka.group_offsets import GroupOffsets
from ray_reproducer.kafka.source import OffsetLost, PartitionEnd, Source
from tests.kafka.reading import WAIT_S, events_until_ends, ignore, messages
from tests.waiting import wait_until

MakeTopic = Callable[..., str]


def _produce(clients: ClientConfigs, topic: str, values: list[str], partition: int = 0) -> None:
    producer = Producer(clients.for_producer())
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(WAIT_S) == 0


def test_messages_come_in_order_and_then_the_end(embedded: ClientConfigs) -> None:
    _produce(embedded, "raw", [str(i) for i in range(100)])
    source = Source(embedded, "g", "raw", {0: 40}, ignore)
    events = events_until_ends(source, 1)
    assert [message.value() for message in messages(events)] == [str(i).encode() for i in range(40, 100)]
    assert events[-1] == PartitionEnd(0, 100)
    assert source.high_watermarks() == {0: 100}
    source.close()


def test_nothing_is_read_of_partitions_that_are_not_ours(embedded: ClientConfigs) -> None:
    _produce(embedded, "raw", ["ours"], partition=2)
    _produce(embedded, "raw", ["theirs"], partition=1)
    source = Source(embedded, "g", "raw", {2: 0}, ignore)
    assert [message.value() for message in messages(events_until_ends(source, 1))] == [b"ours"]
    source.close()


def test_partitions_can_be_added_while_reading(embedded: ClientConfigs) -> None:
    _produce(embedded, "raw", ["a"], partition=0)
    _produce(embedded, "raw", ["b", "c"], partition=1)
    source = Source(embedded, "g", "raw", {0: 0}, ignore)
    events_until_ends(source, 1)
    source.add({1: 1})
    assert [message.value() for message in messages(events_until_ends(source, 1))] == [b"c"]
    source.close()


def test_the_end_is_told_again_after_more_has_come(embedded: ClientConfigs) -> None:
    _produce(embedded, "raw", ["a"])
    source = Source(embedded, "g", "raw", {0: 0}, ignore)
    assert events_until_ends(source, 1)[-1] == PartitionEnd(0, 1)
    _produce(embedded, "raw", ["b"])
    assert events_until_ends(source, 1)[-1] == PartitionEnd(0, 2)
    source.close()


def test_rule_2_an_offset_beyond_the_end_is_reported_and_nothing_follows(embedded: ClientConfigs) -> None:
    _produce(embedded, "raw", ["a"])
    source = Source(embedded, "g", "raw", {0: 500}, ignore)
    event = wait_until(lambda: source.poll(0.1), WAIT_S, "the report")
    assert event == OffsetLost(0, 500, None)
    assert all(source.poll(0.05) is None for _ in range(5))
    source.close()


def test_trouble_is_told_once_and_not_as_over_while_it_lasts() -> None:
    heard: list[str] = []
    cluster = EmbeddedCluster()
    clients = ClientConfigs.from_settings({"bootstrap.servers": cluster.start()})
    _produce(clients, "raw", ["a"])
    source = Source(clients, "g", "raw", {0: 0}, heard.append)
    events_until_ends(source, 1)
    assert heard == []
    cluster.close()
    wait_until(lambda: source.poll(0.1) or heard, WAIT_S, "trouble")
    assert all(heard)
    assert len(set(heard)) == len(heard)
    source.close()


def test_rule_1_reading_commits_nothing_and_joins_no_group(
    clients: ClientConfigs, unique_topic: MakeTopic, name: str
) -> None:
    topic = unique_topic("source", 2)
    for partition in (0, 1):
        _produce(clients, topic, ["a", "b"], partition)
    source = Source(clients, name, topic, {0: 0, 1: 1}, ignore)
    assert len(messages(events_until_ends(source, 2))) == 3
    admin.refuse_group_with_members(clients, name)
    source.close()
    group = GroupOffsets(clients, name, topic, faults.Health(ignore), time.sleep)
    assert group.read([0, 1]) == {}
    group.close()


def test_rule_3_ends_and_gaps_over_transaction_markers(
    clients: ClientConfigs, unique_topic: MakeTopic, name: str
) -> None:
    topic = unique_topic("source", 1)
    producer = Producer(clients.for_producer(**{"transactional.id": name}))
    producer.init_transactions(WAIT_S)
    for step, is_committed in enumerate((True, False, True, False)):
        producer.begin_transaction()
        producer.produce(topic, f"{step}a")
        producer.produce(topic, f"{step}b")
        if is_committed:
            producer.commit_transaction(WAIT_S)
        else:
            assert producer.flush(WAIT_S) == 0
            producer.abort_transaction(WAIT_S)
    source = Source(clients, "g", topic, {0: 0}, ignore)
    events = events_until_ends(source, 1)
    source.close()
    # Offsets: 0 1 (marker 2) 3 4 aborted (5) 6 7 (8) 9 10 aborted (11)
    assert [(message.offset(), message.value()) for message in messages(events)] == [
        (0, b"0a"),
        (1, b"0b"),
        (6, b"2a"),
        (7, b"2b"),
    ]
    assert events[-1] == PartitionEnd(0, 12)


def test_rule_2_offsets_that_are_gone_are_reported_and_reading_goes_on_behind_them(
    clients: ClientConfigs, unique_topic: MakeTopic
) -> None:
    topic = unique_topic("source", 2)
    _produce(clients, topic, [str(i) for i in range(10)])
    client = AdminClient(clients.for_admin())  # its futures end only while it lives
    for future in client.delete_records([TopicPartition(topic, 0, 7)]).values():
        future.result(WAIT_S)
    source = Source(clients, "g", topic, {0: 3, 1: 0}, ignore)
    events = events_until_ends(source, 2)
    source.close()
    assert OffsetLost(0, 3, 7) in events
    assert [message.offset() for message in messages(events)] == [7, 8, 9]
    assert PartitionEnd(0, 10) in events
    assert PartitionEnd(1, 0) in events


def test_a_topic_that_is_not_there_is_trouble_not_silence(bootstrap_servers: str, name: str) -> None:
    heard: list[str] = []
    # How long the library believes that a missing topic is only new; 30 s if not set.
    quick = {"bootstrap.servers": bootstrap_servers, "topic.metadata.propagation.max.ms": 500}
    source = Source(ClientConfigs.from_settings(quick), "g", name, {0: 0}, heard.append)
    wait_until(lambda: source.poll(0.2) or any(heard), WAIT_S, "trouble")
    source.close()


def test_rule_5_a_partition_that_stands_still_is_read_through_a_new_connection(
    clients: ClientConfigs, unique_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_LOOK_EVERY_S", 0.3)
    topic = unique_topic("source", 3)
    for partition in range(3):
        _produce(clients, topic, ["a", "b"], partition)
    heard: list[str] = []
    source = Source(clients, "g", topic, {0: 0, 1: 1, 2: 0}, heard.append)
    assert len(messages(events_until_ends(source, 3))) == 5
    # A partition that is paused in the library is as one that it has forgotten.
    source._consumer.pause([TopicPartition(topic, 1)])
    for partition in range(3):
        _produce(clients, topic, ["c"], partition)
    seen: list[tuple[int, str]] = []

    def all_there() -> bool:
        event = source.poll(0.1)
        if event is not None and not isinstance(event, PartitionEnd | OffsetLost):
            seen.append((event.partition() or 0, (event.value() or b"").decode()))
        return len(seen) == 3

    wait_until(all_there, WAIT_S, "the message behind which the library stood still")
    assert sorted(seen) == [(0, "c"), (1, "c"), (2, "c")]
    assert "the connection is made anew" in heard[0]
    assert heard[-1] == ""
    source.close()


def test_rule_5_markers_of_transactions_are_no_standstill(
    clients: ClientConfigs, name: str, unique_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_LOOK_EVERY_S", 0.0)
    topic = unique_topic("source", 1)
    producer = Producer(clients.for_producer(**{"transactional.id": name}))
    producer.init_transactions(WAIT_S)
    producer.begin_transaction()
    producer.produce(topic, "a")
    producer.commit_transaction(WAIT_S)
    heard: list[str] = []
    source = Source(clients, "g", topic, {0: 0}, heard.append)
    consumer = source._consumer
    assert events_until_ends(source, 1)[-1] == PartitionEnd(0, 2)
    looks = iter(range(20))
    wait_until(lambda: source.poll(0.02) is None and next(looks, None) is None, WAIT_S, "many looks")
    assert source._consumer is consumer
    assert heard == []
    source.close()
