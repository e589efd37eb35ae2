"""The broker inside the process, and what ``kafka/embedded.py`` says of its limits."""

from __future__ import annotations

import subprocess
import sys

import pytest
from confluent_kafka import Producer

from ray_reproducer.core.errors import BrokerError
from ray_reproducer.kafka import admin
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.embedded import PARTITION_BYTES, PARTITIONS, EmbeddedCluster
from tests.kafka.reading import WAIT_S, values


def test_rule_1_it_answers_other_processes(embedded: ClientConfigs) -> None:
    program = f"""
from confluent_kafka import Producer
producer = Producer({{"bootstrap.servers": "{embedded.servers}"}})
producer.produce("raw", "from elsewhere")
assert producer.flush(30) == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=WAIT_S)
    assert values(embedded, "raw") == ["from elsewhere"]


def test_rule_1_it_is_gone_with_its_owner() -> None:
    cluster = EmbeddedCluster()
    clients = ClientConfigs.from_settings({"bootstrap.servers": cluster.start()})
    assert len(admin.ensure_topic(clients, "raw").partitions) == PARTITIONS
    cluster.close()
    with pytest.raises(BrokerError):
        admin.describe_topic(clients, "raw", 0.5)


def test_rule_2_a_partition_keeps_so_much_and_no_more(embedded: ClientConfigs) -> None:
    producer = Producer(embedded.for_producer())
    sent, size = 12, PARTITION_BYTES // 10
    for _ in range(sent):
        producer.produce("raw", bytes(size), partition=0)
        assert producer.flush(WAIT_S) == 0
    low, high = admin.watermarks(embedded, "raw", (0,))[0]
    assert high == sent
    assert 1 < low < sent
    assert (high - low) * size <= PARTITION_BYTES


def test_two_clusters_do_not_know_each_other(embedded: ClientConfigs) -> None:
    other = EmbeddedCluster()
    clients = ClientConfigs.from_settings({"bootstrap.servers": other.start()})
    with pytest.raises(BrokerError, match="raw does not exist"):
        admin.describe_topic(clients, "raw")
    other.close()
    assert admin.describe_topic(embedded, "raw").name == "raw"
