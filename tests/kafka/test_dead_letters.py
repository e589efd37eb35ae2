"""Reading the dead-letter topic. The rules are those at the head of ``kafka/dead_letters.py``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.errors import BrokerError, TransactionOpenError
from ray_reproducer.core.live_letters import LiveLetters, Place, clears_header
from ray_reproducer.core.outcome import Failure, Origin, dead_letter
from ray_reproducer.kafka import admin, dead_letters, faults
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.dead_letters import DeadLetterReader
from ray_reproducer.kafka.group_offsets import GroupOffsets
from ray_reproducer.kafka.source import Event, Source
from tests.kafka.reading import WAIT_S, ignore
from tests.waiting import wait_until

MakeTopic = Callable[..., str]
BUSY_S = 20.0
"""How long a topic is written to: many times the standstill of the test that reads it."""


def value(name: str) -> bytes:
    version = FileVersion("", name, "", bytes(64), 1)
    origin = Origin("raw", bytes(16), "mine", "test")
    return dead_letter(version, Failure("timeout", "slow"), {0: [1]}, origin, "2026-01-02T03:04:05Z").value


def transactional(clients: ClientConfigs, name: str) -> Producer:
    producer = Producer(clients.for_producer(**{"transactional.id": name}))
    producer.init_transactions(WAIT_S)
    producer.begin_transaction()
    return producer


def reader(clients: ClientConfigs, topic: str) -> tuple[DeadLetterReader, list[str]]:
    told: list[str] = []
    return DeadLetterReader(clients, topic, LiveLetters(), told.append), told


def live(reading: DeadLetterReader) -> list[str]:
    return sorted(letter.letter.path for letter in reading.letters)


def test_rule_2_letters_are_read_to_the_end_and_later_only_what_came_since(embedded: ClientConfigs) -> None:
    producer = Producer(embedded.for_producer())
    for number in range(20):
        producer.produce("metadata", value(f"f{number}"), f"k{number}", partition=number % 4)
    assert producer.flush(WAIT_S) == 0
    reading, told = reader(embedded, "metadata")
    reading.refresh()
    assert (len(live(reading)), reading.letters.records, told) == (20, 20, [])
    name, text = clears_header([Place(0, 0)])
    producer.produce("metadata", None, "k0", partition=0, headers=[(name, text)])
    producer.produce("metadata", None, "k1", partition=1)
    producer.produce("metadata", b"junk", None, partition=1)
    assert producer.flush(WAIT_S) == 0
    reading.refresh()
    assert live(reading) == sorted(f"f{number}" for number in range(2, 20))
    assert (reading.letters.records, reading.letters.foreign) == (23, 1)
    reading.refresh()
    assert reading.letters.records == 23


def test_rule_1_what_is_behind_an_open_transaction_is_waited_for(
    clients: ClientConfigs, unique_topic: MakeTopic, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "_SAY_AFTER_S", 0.0)
    topic = unique_topic("letters")
    first = transactional(clients, f"{name}.first")
    first.produce(topic, value("a"), "k")
    first.commit_transaction(WAIT_S)
    open_one = transactional(clients, f"{name}.open")
    open_one.produce(topic, value("b"), "k")
    assert open_one.flush(WAIT_S) == 0
    # A replay clears the first letter, while that transaction of another program is open before it.
    replay = transactional(clients, f"{name}.replay")
    replay.produce(topic, None, "k", headers=[clears_header([Place(0, 0)])])
    replay.commit_transaction(WAIT_S)

    reading, told = reader(clients, topic)
    with pytest.raises(BrokerError, match="can't be read to its end"):
        reading.refresh(standstill_s=1.0)
    assert live(reading) == ["a"], "it is not known yet that it was cleared"
    assert told == [f"waiting for {topic}: a transaction is open there, or the broker is slow"]
    open_one.abort_transaction(WAIT_S)
    reading.refresh(standstill_s=WAIT_S)
    assert live(reading) == []


def test_rule_3_nothing_is_committed(clients: ClientConfigs, unique_topic: MakeTopic) -> None:
    topic = unique_topic("letters", 2)
    producer = Producer(clients.for_producer())
    for partition in (0, 1):
        producer.produce(topic, value("a"), "k", partition=partition)
    assert producer.flush(WAIT_S) == 0
    reading, _ = reader(clients, topic)
    reading.refresh()
    assert reading.letters.records == 2
    admin.refuse_group_with_members(clients, dead_letters._GROUP)
    group = GroupOffsets(clients, dead_letters._GROUP, topic, faults.Health(ignore), time.sleep)
    assert group.read([0, 1]) == {}
    group.close()


class BusySource(Source):
    """A source whose topic gets another letter on partition 0 before each look."""

    producer: ClassVar[Producer]
    deadline_s: ClassVar[float]

    def poll(self, timeout_s: float) -> Event | None:
        assert time.monotonic() < self.deadline_s, "the wait has no end"
        self.producer.produce(self._topic, value("more"), "k", partition=0)
        assert self.producer.flush(WAIT_S) == 0
        return super().poll(timeout_s)


def test_rule_4_letters_that_come_on_a_partition_that_is_read_do_not_put_off_the_end_of_the_wait(
    clients: ClientConfigs, unique_topic: MakeTopic, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = unique_topic("letters", 2)
    producer = Producer(clients.for_producer())
    producer.produce(topic, value("first"), "k", partition=0)
    assert producer.flush(WAIT_S) == 0
    monkeypatch.setattr(BusySource, "producer", producer, raising=False)
    monkeypatch.setattr(BusySource, "deadline_s", time.monotonic() + BUSY_S, raising=False)
    monkeypatch.setattr(dead_letters, "Source", BusySource)
    open_one = transactional(clients, f"{name}.open")
    open_one.produce(topic, value("b"), "k", partition=1)
    assert open_one.flush(WAIT_S) == 0
    reading, _ = reader(clients, topic)
    with pytest.raises(TransactionOpenError, match=r"nothing came for 1 s \(\[1\] 0 of 1\)"):
        reading.refresh(standstill_s=1.0)
    assert set(live(reading)) == {"first", "more"}
    open_one.abort_transaction(WAIT_S)


def test_letters_that_retention_took_are_no_error(clients: ClientConfigs, unique_topic: MakeTopic) -> None:
    topic = unique_topic("letters")
    producer = Producer(clients.for_producer())
    for number in range(6):
        producer.produce(topic, value(f"f{number}"), "k")
    assert producer.flush(WAIT_S) == 0
    client = AdminClient(clients.for_admin())
    for future in client.delete_records([TopicPartition(topic, 0, 4)]).values():
        future.result(WAIT_S)
    reading, _ = reader(clients, topic)
    reading.refresh()
    assert live(reading) == ["f4", "f5"]


def test_a_topic_made_anew_meanwhile_is_told(clients: ClientConfigs, unique_topic: MakeTopic) -> None:
    topic = unique_topic("letters")
    producer = Producer(clients.for_producer())
    producer.produce(topic, value("a"), "k")
    assert producer.flush(WAIT_S) == 0
    reading, _ = reader(clients, topic)
    reading.refresh()
    client = AdminClient(clients.for_admin())
    client.delete_topics([topic])[topic].result(WAIT_S)
    wait_until(lambda: topic not in client.list_topics(timeout=WAIT_S).topics, WAIT_S, "its deletion")
    admin.ensure_topic(clients, topic, 1)
    with pytest.raises(BrokerError, match="made anew"):
        reading.refresh()


def test_a_topic_that_is_not_there_is_told(clients: ClientConfigs, name: str) -> None:
    with pytest.raises(BrokerError, match="does not exist"):
        reader(clients, name)[0].refresh()
