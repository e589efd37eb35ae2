"""What is wrong with the cluster is one clear message. The rules are those at the head of ``kafka/admin.py``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from ray_reproducer.core.errors import BrokerAwayError, BrokerError, ConfigurationError
from ray_reproducer.kafka import admin
from ray_reproducer.kafka.client_config import ClientConfigs
from tests.kafka.reading import WAIT_S
from tests.waiting import wait_until

MakeTopic = Callable[..., str]
GENEROUS_S = 20.0
"""A time limit that is not waited for."""


def test_no_broker(name: str) -> None:
    nobody = ClientConfigs.from_settings({"bootstrap.servers": "127.0.0.1:1"})
    began_s = time.monotonic()
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1 in 0\.5 s.*Connection refused") as error:
        admin.describe_topic(nobody, name, 0.5)
    assert time.monotonic() - began_s < 5
    assert "bootstrap.servers" in error.value.hint
    assert error.value.exit_code == 1


def test_rule_2_credentials_that_are_refused_are_told_at_once(embedded: ClientConfigs) -> None:
    password = {"sasl.mechanism": "PLAIN", "sasl.username": "me", "sasl.password": "x"}
    servers = {"bootstrap.servers": embedded.servers, "security.protocol": "SASL_PLAINTEXT"}
    began_s = time.monotonic()
    with pytest.raises(BrokerError, match="does not let us in") as error:
        admin.describe_topic(ClientConfigs.from_settings({**servers, **password}), "raw", GENEROUS_S)
    assert time.monotonic() - began_s < GENEROUS_S / 4
    assert "kafka.sasl.mechanism" in error.value.hint
    assert not isinstance(error.value, BrokerAwayError), "it would be waited for"


@pytest.mark.parametrize("code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED])
def test_rule_2_so_is_a_right_that_is_denied(embedded: ClientConfigs, code: int) -> None:
    connection, tries = admin._Connection(embedded, GENEROUS_S), Counter[str]()

    def denied(_seconds: float) -> NoReturn:
        tries["call"] += 1
        raise KafkaException(KafkaError(code))

    with pytest.raises(KafkaException):
        connection.call(denied)
    assert tries["call"] == 1


def test_no_such_host(name: str) -> None:
    nowhere = ClientConfigs.from_settings({"bootstrap.servers": "nowhere.invalid:9092"})
    with pytest.raises(BrokerError, match=r"nowhere\.invalid"):
        admin.describe_topic(nowhere, name, 0.5)


def test_the_embedded_cluster_makes_topics_when_asked_to(embedded: ClientConfigs) -> None:
    with pytest.raises(BrokerError, match="new does not exist"):
        admin.describe_topic(embedded, "new")
    made = admin.ensure_topic(embedded, "new", 7)
    assert made == admin.TopicDescription("new", admin.NO_TOPIC_ID, (0, 1, 2, 3))
    assert admin.describe_topic(embedded, "new") == made


def test_limits_of_partitions(embedded: ClientConfigs) -> None:
    producer = Producer(embedded.for_producer())
    for _ in range(3):
        producer.produce("raw", b"x", partition=1)
    assert producer.flush(WAIT_S) == 0
    assert admin.watermarks(embedded, "raw", (0, 1)) == {0: (0, 0), 1: (0, 3)}


def test_limits_that_may_not_be_seen_are_said_in_our_words(
    embedded: ClientConfigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forbidden:
        def get_watermark_offsets(self, *_: object, **__: object) -> None:
            raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))

        def close(self) -> None:
            pass

    monkeypatch.setattr(admin, "open_consumer", lambda *_: Forbidden())
    with pytest.raises(BrokerError, match=r"can't see where raw \[0\] begins and ends") as error:
        admin.watermarks(embedded, "raw", (0,))
    assert error.value.hint == "Grant DESCRIBE on the topic raw."


def test_the_embedded_cluster_has_no_group_members(embedded: ClientConfigs) -> None:
    admin.refuse_group_with_members(embedded, "anyone")


def test_a_topic_is_described_with_its_id_and_partitions(clients: ClientConfigs, unique_topic: MakeTopic) -> None:
    topic = unique_topic("source", 3)
    found = admin.describe_topic(clients, topic)
    assert found.partitions == (0, 1, 2)
    assert len(found.topic_id) == 16
    assert found.topic_id != admin.NO_TOPIC_ID
    assert admin.describe_topic(clients, topic).topic_id == found.topic_id
    assert admin.ensure_topic(clients, topic, 9) == found


def test_an_unknown_topic_is_not_created_and_similar_names_are_shown(
    clients: ClientConfigs, unique_topic: MakeTopic
) -> None:
    topic = unique_topic("source", 1)
    mistyped = topic.replace("source", "suorce")
    for _ in range(2):
        with pytest.raises(BrokerError, match=f"{mistyped} does not exist") as error:
            admin.describe_topic(clients, mistyped)
        assert f"Did you mean {topic}" in error.value.hint
        assert "kafka-topics.sh" in error.value.hint


def test_a_missing_topic_is_created(clients: ClientConfigs, unique_topic: MakeTopic) -> None:
    topic = unique_topic("made", 0)
    made = admin.ensure_topic(clients, topic, 3)
    assert made.partitions == (0, 1, 2)
    assert admin.describe_topic(clients, topic) == made
    assert len(admin.ensure_topic(clients, unique_topic("made", 0)).partitions) >= 1


@pytest.mark.parametrize("bad", ["with space", "x" * 250])
def test_a_name_that_no_topic_can_have(clients: ClientConfigs, bad: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be the name of a topic"):
        admin.ensure_topic(clients, bad)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"security.protocol": "SSL"}, "SSL"),
        (
            {
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "me",
                "sasl.password": "x",
            },
            "does not let us in",
        ),
    ],
)
def test_wrong_protocol_or_credentials(bootstrap_servers: str, name: str, settings: dict[str, str], said: str) -> None:
    wrong = ClientConfigs.from_settings({"bootstrap.servers": bootstrap_servers, **settings})
    with pytest.raises(BrokerError, match=said) as error:
        admin.describe_topic(wrong, name, 2.0)
    assert "security.protocol" in error.value.hint


def test_a_group_with_members_is_refused(clients: ClientConfigs, unique_topic: MakeTopic, name: str) -> None:
    admin.refuse_group_with_members(clients, name)
    consumer = Consumer(clients.for_consumer(**{"group.id": name, "client.id": "stranger"}))
    consumer.subscribe([unique_topic("source", 1)])
    wait_until(lambda: consumer.poll(0.1) or consumer.assignment(), WAIT_S, "the stranger's assignment")
    with pytest.raises(BrokerError, match=f"{name} is in use.*stranger") as error:
        admin.refuse_group_with_members(clients, name)
    assert f"--group {name}" in error.value.hint
    consumer.close()
    admin.refuse_group_with_members(clients, name)


def test_a_group_is_forgotten_and_one_that_is_not_there_is_fine(
    clients: ClientConfigs, unique_topic: MakeTopic, name: str
) -> None:
    topic = unique_topic("source")
    consumer = Consumer(clients.for_consumer(**{"group.id": name}))
    position = TopicPartition(topic, 0, 5)
    consumer.commit(offsets=[position], asynchronous=False)
    admin.forget_group(clients, name)
    assert consumer.committed([position], timeout=WAIT_S)[0].offset < 0
    admin.forget_group(clients, name)
    consumer.close()


def test_the_end_of_all_and_of_what_is_committed(clients: ClientConfigs, unique_topic: MakeTopic, name: str) -> None:
    topic = unique_topic("source")
    producer = Producer(clients.for_producer(**{"transactional.id": name}))
    producer.init_transactions(WAIT_S)
    producer.begin_transaction()
    producer.produce(topic, "a")
    assert producer.flush(WAIT_S) == 0
    assert admin.watermarks(clients, topic, (0,)) == {0: (0, 0)}
    assert admin.watermarks(clients, topic, (0,), committed=False) == {0: (0, 1)}
    producer.abort_transaction(WAIT_S)
