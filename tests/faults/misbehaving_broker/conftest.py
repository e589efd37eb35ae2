"""The private broker, and what tests need to talk to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_reproducer.kafka.client_config import ClientConfigs
from tests.faults.broker import PrivateBroker


@pytest.fixture(scope="session")
def one_private_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateBroker]:
    """A broker that these tests alone use; started once, because that takes longer than most of them."""
    with PrivateBroker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def private_broker(one_private_broker: PrivateBroker) -> PrivateBroker:
    """The private broker, up and well, whatever the last test has done to it."""
    one_private_broker.recover()
    return one_private_broker


@pytest.fixture
def truth(private_broker: PrivateBroker) -> ClientConfigs:
    """Client settings to look at the private broker, past the proxies."""
    return ClientConfigs.from_settings({"bootstrap.servers": private_broker.direct_servers})
