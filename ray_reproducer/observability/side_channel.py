"""A producer beside the run's own, for what may get lost: heartbeats and log lines.

Rules:

1. Giving it a message never waits. What it can't deliver in the end is given up, and said once.
2. Its memory is bounded: some messages wait while the broker is away, and no more.
3. Its broker may be another one than the run's, may be away, and may refuse us: the run does not notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from ray_reproducer.core.errors import ReproducerError
from ray_reproducer.kafka import admin, faults
from ray_reproducer.kafka.client_config import ClientConfigs, Value, open_producer

TOPIC_TIMEOUT_S: Final = 5.0
"""How long the broker may take to say whether the topic is there."""
FLUSH_S: Final = 3.0
"""How long the last messages of a run may take to their broker."""
_TUNING: Final[dict[str, Value]] = {
    "queue.buffering.max.messages": 1_000,
    "queue.buffering.max.kbytes": 16 * 1024,
    # A heartbeat that is older says nothing any more; the library's own limit is 300 s.
    "message.timeout.ms": 120_000,
}


class SideChannel:
    """Sends messages to one topic. Used by one thread.

    Args:
        clients: settings of the Kafka client.
        topic: where to; made if it is missing and the broker lets us.
        what: what is sent, in the plural, for the warning.
        warn: is told, once, that something did not arrive.
    """

    def __init__(self, clients: ClientConfigs, topic: str, what: str, warn: Callable[[str], None]) -> None:
        self._clients = clients
        self._topic = topic
        self._what = what
        self._warn = warn
        self._producer: Producer | None = None
        self._said = False
        self._last_error = ""

    def send(self, key: str, value: bytes, on_lost: Callable[[], None]) -> None:
        """Send a message, sooner or later.

        Args:
            key: of the message.
            value: of the message.
            on_lost: called if it is given up, from this or a later call.

        Raises:
            ConfigurationError: the client library refuses a setting.
        """
        producer = self._open()

        def delivered(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                self._lost(faults.text(error))
                on_lost()

        try:
            producer.produce(self._topic, value, key, on_delivery=delivered)
        except BufferError:
            self._lost("too many wait for the broker")
            on_lost()
        except KafkaException as exception:
            self._lost(faults.text(faults.of(exception)))
            on_lost()

    def poll(self) -> None:
        """Look what has become of earlier messages."""
        if self._producer is not None:
            self._producer.poll(0)

    def flush(self, by_s: float) -> None:
        """Wait until all are delivered, or until a time (``time.monotonic()``); then give up what is left."""
        if self._producer is None:
            return
        self._producer.flush(max(0.0, by_s - time.monotonic()))
        self._producer.purge()
        self._producer.poll(0)

    def _open(self) -> Producer:
        if self._producer is None:
            self._producer = open_producer(self._clients.for_producer(**_TUNING), self._on_error)
            try:
                admin.ensure_topic(self._clients, self._topic, timeout_s=TOPIC_TIMEOUT_S)
            # It is no reason not to try: the topic may be there, and we may not look; or the broker comes back.
            except ReproducerError as error:
                self._last_error = error.message
        return self._producer

    def _on_error(self, error: KafkaError) -> None:
        # "All brokers are down" says less than why.
        if not self._last_error or not faults.is_vague(error):
            self._last_error = faults.text(error)

    def _lost(self, reason: str) -> None:
        if not self._said:
            self._said = True
            why = self._last_error or reason
            self._warn(f"{self._what} don't reach the topic {self._topic} ({why}). The run goes on without; said once.")
