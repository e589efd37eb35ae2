"""Clients for the embedded cluster and for the real broker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from ray_reproducer.kafka import admin
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.embedded import EmbeddedCluster


@pytest.fixture
def embedded() -> Iterator[ClientConfigs]:
    """Client settings for an embedded cluster with the topics raw and metadata that lives as long as the test."""
    cluster = EmbeddedCluster()
    clients = ClientConfigs.from_settings({"bootstrap.servers": cluster.start()})
    for topic in ("raw", "metadata"):
        admin.ensure_topic(clients, topic)
    yield clients
    cluster.close()


@pytest.fixture
def clients(bootstrap_servers: str) -> ClientConfigs:
    """Client settings for the real broker."""
    return ClientConfigs.from_settings({"bootstrap.servers": bootstrap_servers})


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"test.{uuid.uuid4().hex[:12]}"
