"""One producer and what became of the records given to it.

Rules:

1. Every record's delivery report is looked at; failures are kept, success costs nothing (the library
   calls back only for failures).
2. A broker refuses a batch for its size, and all records in it: batches are made smaller until the one that
   is too large stands alone and can be named.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ray_reproducer.core.errors import RecordTooLargeError
from ray_reproducer.kafka import failpoints, faults
from ray_reproducer.kafka.client_config import CLIENT_LOG, ClientConfigs, Value, open_producer

_BATCH_BYTES: Final = 1_000_000
"""The library's own default: the largest batch that a broker with default settings takes."""
_SMALLER: Final = 8
_FLUSH_S: Final = 1.0
"""How long to wait for delivery reports before looking at the clock."""
_POLL_S: Final = 0.1
"""How long to wait for room in the library's queue before looking at the clock."""


_LOG_DEBUG: Final = 7
"""Syslog's number of the level at which the library says of each connection that it was closed."""
_BROKE_IN_DEBUG: Final = re.compile(r"error log suppressed|nodename change")
"""In a line for debugging about a connection that broke as one did shortly before; or that the library closed, because
the broker has moved."""
_ANY: Final = -1
"""The library's word for "as the key says"."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is to be written: a record of a topic. Without value: a tombstone. Without partition: as the key says."""

    topic: str
    key: str
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


class DeliveryFailedError(Exception):
    """Some records were not delivered.

    Attributes:
        error: why the first of them was not.
    """

    def __init__(self, error: KafkaError) -> None:
        super().__init__(faults.text(error))
        self.error = error


class _ConnectionLog:
    """Hands the client library's log on, and takes note of connections that broke.

    The library calls ``error_cb`` for a connection that could not be made, but not for one that the other side has
    closed: that is a line in its log only, whose facility is FAIL. If it breaks in the same way again within 30 s,
    that is a line for debugging only (``rd_kafka_broker_set_error`` in its rdkafka_broker.c). Other such lines do not
    count: those are of connections that were not made yet, or had nothing to carry for a minute.

    Args:
        health: is told of them.
        debug: whether lines for debugging are handed on.
    """

    def __init__(self, health: faults.Health, *, debug: bool) -> None:
        self._health = health
        self._least = logging.DEBUG if debug else logging.INFO

    def log(self, level: int, msg: str, /, *details: object) -> None:
        """See ``client_config.LogSink``."""
        said = str(details[-1]) if details[:1] == ("FAIL",) else ""
        if said and faults.is_of_request(said) and (level > logging.DEBUG or _BROKE_IN_DEBUG.search(said)):
            self._health.disturbed()
        if level >= self._least:
            CLIENT_LOG.log(level, msg, *details)


class Outbox:
    """Makes producers, one at a time, and sends records through the present one.

    Args:
        clients: the user's client settings.
        ours: settings of the producer that we need (librdkafka's names).
        health: is told of trouble.
    """

    def __init__(self, clients: ClientConfigs, ours: dict[str, Value], health: faults.Health) -> None:
        self._clients = clients
        self._ours = ours
        self._health = health
        self._failures: list[tuple[KafkaError, Message]] = []
        self._batch_bytes = _BATCH_BYTES
        self._made_for_bytes = _BATCH_BYTES
        self._producer: Producer | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a producer at present."""
        return self._producer is not None

    def reason(self, error: KafkaError) -> KafkaError:
        """Why records were thrown away: what has failed is the transaction, which says so to the next call."""
        if not faults.is_purged(error):
            return error
        said = faults.attempt(self.producer.begin_transaction)
        return said if said is not None and said.txn_requires_abort() else error

    @property
    def is_outdated(self) -> bool:
        """Whether the present producer makes batches of a size that the broker has refused: drop it and send again."""
        return self._producer is not None and self._batch_bytes != self._made_for_bytes

    @property
    def producer(self) -> Producer:
        """The present producer; a new one is made if there is none.

        Raises:
            ConfigurationError: the library refuses a setting.
        """
        if self._producer is None:
            ours = {**self._ours, "delivery.report.only.error": True}
            config = self._clients.for_producer(**ours)
            if self._batch_bytes < _BATCH_BYTES:
                config["batch.size"] = self._batch_bytes
            self._made_for_bytes = self._batch_bytes
            debug = str(config.get("debug", ""))
            if "transactional.id" in config:  # only there it matters, and only there somebody listens all the time
                # About four lines a transaction, which end here.
                config |= {"log.connection.close": True, "log_level": _LOG_DEBUG, "debug": f"{debug},broker".strip(",")}
            log = _ConnectionLog(self._health, debug=bool(debug))
            self._producer = open_producer(config, self._health.on_error, log, on_delivery=self._on_delivery)
        return self._producer

    def hear(self) -> None:
        """Hear of connections of the present producer that broke; of what idled, nothing is said to anybody.

        A fatal error, which the library raises here, is what each further call says, too.
        """
        with self._health.old_news():
            faults.attempt(lambda: self.poll(0.0))

    def poll(self, timeout_s: float) -> None:
        """Let the present producer, if there is one, tell what it has to tell; wait for that for so long.

        Raises:
            KafkaException: the producer can't go on.
        """
        producer = self._producer
        if producer is not None:
            _served(lambda: producer.poll(timeout_s))

    def drop(self) -> None:
        """Give the present producer up, with all that it has not sent."""
        if self._producer is not None:
            self._producer.purge()
            self._producer = None
        self._failures.clear()

    def send(self, records: Sequence[Record], deadline_s: float) -> None:
        """Send all records and wait until each is delivered.

        Args:
            records: what to send.
            deadline_s: when to give up (``time.monotonic()``).

        Raises:
            RecordTooLargeError: a record is larger than client or broker allow; nothing else is wrong.
            DeliveryFailedError: others were not delivered (by the deadline, or refused).
            KafkaException: the producer can't go on.
        """
        self._failures.clear()
        producer = self.producer
        for index, record in enumerate(records):
            while True:
                try:
                    partition = _ANY if record.partition is None else record.partition
                    headers: list[tuple[str, str | bytes | None]] | None = list(record.headers) or None
                    producer.produce(record.topic, record.value, record.key, partition, headers=headers)
                    break
                except BufferError:
                    self.poll(_POLL_S)
                    self._give_up_after(deadline_s, records)
                except KafkaException as exception:
                    if faults.is_too_large(faults.of(exception)):
                        raise _too_large(index, record, faults.of(exception)) from None
                    raise
        while failpoints.around("flush", lambda: _served(lambda: producer.flush(_FLUSH_S)))():
            self._give_up_after(deadline_s, records)
        if self._failures:
            self._raise_failure(records)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failures.append((error, message))

    def _give_up_after(self, deadline_s: float, records: Sequence[Record]) -> None:
        if self._failures:  # then a transaction can't succeed any more, and the library sends nothing more of it
            self._raise_failure(records)
        if time.monotonic() >= deadline_s:
            raise DeliveryFailedError(KafkaError(faults.TIMED_OUT, "the broker did not take the records in time"))

    def _raise_failure(self, records: Sequence[Record]) -> None:
        refused = [(error, message) for error, message in self._failures if faults.is_too_large(error)]
        if not refused:
            # What was thrown away because of another failure does not say why.
            reasons = [error for error, _ in self._failures if not faults.is_purged(error)]
            raise DeliveryFailedError(reasons[0] if reasons else self._failures[0][0])
        error, message = refused[0]
        if len(refused) > 1 and self._batch_bytes > 1:
            self._batch_bytes = max(1, min(self._batch_bytes, _size(refused)) // _SMALLER)
            raise DeliveryFailedError(error)
        for index, record in enumerate(records):
            if record.value == message.value() and record.key.encode() == message.key():
                raise _too_large(index, record, error)
        raise DeliveryFailedError(error)


def _served(call: Callable[[], int]) -> int:
    """Make a call in which the library serves our callbacks."""
    try:
        return call()
    except SystemError as error:
        # A fatal error (such as being fenced) is raised by the library inside of the call, which then calls our
        # callback with that exception still set: Python wraps it.
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None
        # If it calls a second callback of ours, even that is gone. Nothing but a fatal error comes about this way.
        lost = KafkaError(faults.FATAL, "the client library gave up, and lost its reason", fatal=True)
        raise KafkaException(lost) from error


def _size(refused: Sequence[tuple[KafkaError, Message]]) -> int:
    return sum(len(message.value() or b"") for _, message in refused)


def _too_large(index: int, record: Record, error: KafkaError) -> RecordTooLargeError:
    return RecordTooLargeError(
        f"the record {record.key} for topic {record.topic} has {len(record.value or b''):,} bytes, which is too large: "
        f"{faults.text(error)}",
        hint="Limits: producer.message.max.bytes (here), max.message.bytes (topic), message.max.bytes (broker).",
        index=index,
    )
