"""Writes results first and source positions after that, for brokers without transactions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from ray_reproducer.core.errors import BrokerError
from ray_reproducer.kafka import failpoints, faults
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.delivery import PAUSE_S
from ray_reproducer.kafka.group_offsets import CommittedOffset, GroupOffsets
from ray_reproducer.kafka.outbox import DeliveryFailedError, Outbox, Record


class AtLeastOnceDelivery:
    """Records first, then positions: after a crash in between, records may be written a second time.

    For brokers without transactions, such as the embedded one. A second instance is not fenced.

    Its arguments are those of ``TransactionalDelivery``.
    """

    _DELIVERY_S: Final = 330.0
    """Longer than the library's own message.timeout.ms (300 s), which decides."""

    def __init__(
        self,
        clients: ClientConfigs,
        group_id: str,
        source_topic: str,
        partitions: Sequence[int],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._partitions = tuple(partitions)
        self._closed = threading.Event()
        self._health = faults.Health(on_trouble)
        self._outbox = Outbox(clients, {}, self._health)
        self._group = GroupOffsets(clients, group_id, source_topic, self._health, self._wait)

    def start(self) -> dict[int, CommittedOffset]:
        """See ``Delivery.start``."""
        known = self._group.read(self._partitions)
        self._health.well()
        return known

    def deliver(self, records: Sequence[Record], offsets: Mapping[int, CommittedOffset]) -> bool:
        """See ``Delivery.deliver``. False: some of the records may be visible, and will be there twice."""
        try:
            failpoints.around("produce", lambda: self._send(records))()
        except DeliveryFailedError as failed:
            return self._failed(failed.error)
        except KafkaException as exception:
            return self._failed(faults.of(exception))
        if offsets:
            self._group.commit(offsets)
        self._health.well()
        return True

    def confirm(self) -> None:
        """See ``Delivery.confirm``: nothing is left open without transactions."""

    def confirm_after_trouble(self) -> None:
        """See ``Delivery.confirm_after_trouble``."""

    def close(self) -> None:
        """See ``Delivery.close``."""
        self._closed.set()
        self._outbox.drop()
        self._group.close()

    def _send(self, records: Sequence[Record]) -> None:
        # What a tombstone clears must be there in another form before it is cleared.
        for tombstones in (False, True):
            part = [record for record in records if (record.value is None) is tombstones]
            if part:
                self._outbox.send(part, time.monotonic() + self._DELIVERY_S)

    def _failed(self, error: KafkaError) -> bool:
        if faults.is_forbidden(error):
            raise BrokerError(
                f"not allowed to write results: {faults.text(error)}",
                hint="Grant WRITE on the topics of results and dead letters.",
            )
        again_at_once = self._outbox.is_outdated
        self._outbox.drop()
        if not again_at_once:
            self._health.report(f"records were not delivered: {faults.text(error)}")
            self._wait(PAUSE_S[2])
        return False

    def _wait(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise BrokerError("the connection was closed while the broker was still awaited")
