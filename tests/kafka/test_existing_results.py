"""Which results are on a topic of another program."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.kafka import faults, finished_lately
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.existing_results import existing_results
from tests.kafka.reading import WAIT_S, ignore

pytestmark = pytest.mark.slow
OURS = b"ours...."


def test_keys_of_others_count_with_their_newest_time(clients: ClientConfigs, unique_topic: Callable[..., str]) -> None:
    topic = unique_topic("results", 3)
    names = ("a", "b", "ours", "theirs", "deleted")
    a, b, ours, theirs, deleted = (FileVersion("dir", name, "", bytes(64), 1) for name in names)
    producer = Producer(clients.for_producer())
    for milliseconds in (2_000, 1_000):
        producer.produce(topic, b"{}", a.result_key, timestamp=milliseconds)
    producer.produce(topic, b"{}", b.result_key, timestamp=3_000)
    for tag, version in ((OURS, ours), (b"theirs..", theirs)):
        header = finished_lately.headers(tag, version.id)
        producer.produce(topic, b"{}", version.result_key, timestamp=3_000, headers=list(header))
    producer.produce(topic, b"{}", timestamp=3_000)
    producer.produce(topic, b"{}", deleted.result_key, timestamp=3_000)
    producer.produce(topic, None, deleted.result_key, timestamp=3_000)
    assert producer.flush(WAIT_S) == 0
    found = existing_results(clients, topic, OURS, faults.Health(ignore), lambda _: None)
    assert len(found) == 3
    assert found.cover(a, 2_000)
    assert found.cover(a, 2_000), "it has two results"
    assert not found.cover(a, 2_000)
    assert not found.cover(b, 3_001)
    assert found.cover(b, 3_000)
    assert not found.cover(deleted, 1)
    assert found.cover(theirs, 1)
    assert not found.cover(ours, 1), "our own are told by their ids"


def test_an_empty_topic_has_none(clients: ClientConfigs, unique_topic: Callable[..., str]) -> None:
    assert len(existing_results(clients, unique_topic("results", 2), OURS, faults.Health(ignore), lambda _: None)) == 0
