"""A broker inside this process, for trials on local files and for fast tests: librdkafka's mock cluster.

Rules (its limits, measured):

1. It answers other processes on this machine, is ready in milliseconds, and is gone with its owner.
2. A partition keeps at most 5 MiB; what is older is dropped, read or not. ``FlowControl`` keeps a writer from sending
   more than that ahead of the readers.
3. It has no API for administration (topics come into being when they are first asked for), forgets positions that are
   committed in transactions, and fences nobody: deliver at least once.
"""

from __future__ import annotations

import threading
from typing import Final

from confluent_kafka import Producer

from ray_reproducer.core.errors import BrokerError, ConfigurationError

PARTITIONS: Final = 4
"""How many partitions a topic has."""
PARTITION_BYTES: Final = 5 * 1024 * 1024
"""How much a partition keeps."""
MAX_CHUNK_BYTES: Final = 900_000
"""The largest chunk: its message must fit into the client library's limit of 1,000,000 bytes."""
WINDOW_BYTES: Final = PARTITION_BYTES - 1024 * 1024
"""How much may be sent ahead of the readers: all of it could meet in one partition, and headers count too."""
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


def check_chunk_size(chunk_size_bytes: int) -> None:
    """Refuse chunks that the embedded broker can't hold.

    Raises:
        ConfigurationError: they are too large.
    """
    if chunk_size_bytes > MAX_CHUNK_BYTES:
        raise ConfigurationError(
            f"chunks of {chunk_size_bytes:,} bytes are too large for the embedded broker",
            hint=f"Set upload.chunk_size to {MAX_CHUNK_BYTES} or less, or use a real broker (kafka.bootstrap.servers).",
        )


class FlowControl:
    """Lets a writer be only so many bytes ahead of the readers.

    Its ``window`` is what ``upload_directory`` asks before each message.

    Args:
        window_bytes: how far ahead.
    """

    def __init__(self, window_bytes: int = WINDOW_BYTES) -> None:
        self._window_bytes = window_bytes
        self._read_bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def window(self, sent_bytes: int) -> None:
        """Wait until sending up to ``sent_bytes`` in all is no more than the window ahead of what has been read."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or sent_bytes - self._read_bytes <= self._window_bytes)

    def read(self, read_bytes: int) -> None:
        """Say how many bytes of messages have been read in all, over all partitions."""
        with self._changed:
            self._read_bytes = max(self._read_bytes, read_bytes)
            self._changed.notify_all()

    def close(self) -> None:
        """Let a waiting writer go on, because nobody reads any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
