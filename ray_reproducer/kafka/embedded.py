"""A broker inside this process, for trials on local files and for fast tests: librdkafka's mock cluster.

Rules (its limits, measured):

1. It answers other processes on this machine, is ready in milliseconds, and is gone with its owner.
2. A partition keeps at most 5 MiB; what is older is dropped, read or not: nobody may write further ahead of the readers
   than that (``upload_directory`` asks its ``window`` before each message).
3. It has no API for administration (topics come into being when they are first asked for), forgets positions that are
   committed in transactions, and fences nobody: deliver at least once.
"""

from __future__ import annotations

from typing import Final

from confluent_kafka import Producer

from ray_reproducer.core.errors import BrokerError

PARTITIONS: Final = 4
"""How many partitions a topic has."""
PARTITION_BYTES: Final = 5 * 1024 * 1024
"""How much a partition keeps."""
_START_S: Final = 10.0


class EmbeddedCluster:
    """A Kafka cluster of one broker in this process."""

    def __init__(self) -> None:
        self._owner: Producer | None = None

    def start(self) -> str:
        """Start it and return its address, as for ``bootstrap.servers``.

        Raises:
            BrokerError: it does not come up.
        """
        # The mock cluster belongs to a client: this one exists for nothing else.
        self._owner = Producer({"bootstrap.servers": "embedded", "test.mock.num.brokers": 1, "log_level": 0})
        brokers = self._owner.list_topics(timeout=_START_S).brokers.values()
        if not brokers:
            raise BrokerError("the embedded broker did not start")
        return ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def close(self) -> None:
        """Stop it; all that it held is gone."""
        self._owner = None
