"""Which file versions a group has finished lately, read back from a real broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from confluent_kafka import Producer

from ray_reproducer.core.errors import BrokerError
from ray_reproducer.kafka import faults, finished_lately
from ray_reproducer.kafka.client_config import ClientConfigs

pytestmark = pytest.mark.slow

TOPIC_ID = bytes(range(16))
OURS = finished_lately.tag("group", TOPIC_ID)
IDS = [bytes([number]) * 12 for number in range(10)]


def put(
    servers: str,
    topic: str,
    ids: Sequence[bytes],
    of: bytes = OURS,
    *,
    commit: bool = True,
    finished: bool = True,
) -> None:
    producer = Producer({"bootstrap.servers": servers, "transactional.id": f"test.{topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for version_id in ids:
        producer.produce(topic, b"{}", "key", headers=list(finished_lately.headers(of, version_id, finished=finished)))
    producer.produce(topic, b"{}", "key")
    producer.produce(topic, b"{}", "key", headers=[(finished_lately.HEADER, b"short")])
    producer.flush(30)
    if commit:
        producer.commit_transaction(30)
    else:
        producer.abort_transaction(30)


def read_back(servers: str, topics: Sequence[str], limit: int = 100, of: bytes = OURS) -> list[bytes]:
    return told(servers, topics, limit, of).finished


def told(servers: str, topics: Sequence[str], limit: int = 100, of: bytes = OURS) -> finished_lately.Told:
    clients = ClientConfigs.from_settings({"bootstrap.servers": servers}, {}, {})
    health = faults.Health(lambda _text: None)
    return finished_lately.version_ids(clients, topics, of, limit, health, lambda _seconds: None)


def test_rule_1_ours_are_found_and_others_passed_over(bootstrap_servers: str, unique_topic: Callable[..., str]) -> None:
    results, letters = unique_topic("results", partitions=2), unique_topic("letters")
    put(bootstrap_servers, results, IDS[:3])
    put(bootstrap_servers, letters, IDS[3:4])
    put(bootstrap_servers, results, IDS[4:5], finished_lately.tag("another group", TOPIC_ID))
    put(bootstrap_servers, results, IDS[5:6], finished_lately.tag("group", bytes(16)))
    assert sorted(read_back(bootstrap_servers, [results, letters])) == IDS[:4]


def test_rule_1_files_that_may_be_sent_again_are_told_apart(
    bootstrap_servers: str, unique_topic: Callable[..., str]
) -> None:
    letters = unique_topic("letters")
    put(bootstrap_servers, letters, IDS[:1])
    put(bootstrap_servers, letters, IDS[1:3], finished=False)
    assert told(bootstrap_servers, [letters]) == finished_lately.Told(IDS[:1], set(IDS[1:3]))


def test_rule_2_only_committed_ones_count(bootstrap_servers: str, unique_topic: Callable[..., str]) -> None:
    results = unique_topic("results")
    put(bootstrap_servers, results, IDS[:1])
    put(bootstrap_servers, results, IDS[1:2], commit=False)
    assert read_back(bootstrap_servers, [results]) == IDS[:1]


def test_the_last_ones_are_found(bootstrap_servers: str, unique_topic: Callable[..., str]) -> None:
    results = unique_topic("results")
    put(bootstrap_servers, results, IDS)
    # 10 ids, two records without, and the marker of the transaction
    assert read_back(bootstrap_servers, [results], limit=6) == IDS[-3:]


def test_rule_3_it_is_given_up_when_nobody_waits_for_it(unique_topic: Callable[..., str]) -> None:
    def give_up(_seconds: float) -> None:
        raise BrokerError("closed")

    clients = ClientConfigs.from_settings({"bootstrap.servers": "127.0.0.1:9"}, {}, {})
    said: list[str] = []
    with pytest.raises(BrokerError, match="closed"):
        finished_lately.version_ids(clients, ["any"], OURS, 10, faults.Health(said.append), give_up)
    assert said
