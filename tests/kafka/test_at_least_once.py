"""Writing results first and positions after that, without transactions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Consumer

from ray_reproducer.core.errors import BrokerError, RecordTooLargeError
from ray_reproducer.kafka.at_least_once import AtLeastOnceDelivery
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.delivery import CommittedOffset, Record
from ray_reproducer.kafka.outbox import Outbox
from tests.kafka.reading import WAIT_S, ignore, read_all, values
from tests.waiting import wait_until


def _at(offset: int, metadata: str = "") -> dict[int, CommittedOffset]:
    return {0: CommittedOffset(offset, metadata)}


@pytest.fixture
def source(unique_topic: Callable[..., str]) -> str:
    """A source topic with two partitions."""
    return unique_topic("source", 2)


def test_at_least_once_commits_positions_with_metadata_after_the_records(embedded: ClientConfigs) -> None:
    delivery = AtLeastOnceDelivery(embedded, "g", "raw", (0, 1, 2, 3), ignore)
    assert delivery.start() == {}
    sent = {0: CommittedOffset(3, "m" * 4095), 2: CommittedOffset(1, "")}
    assert delivery.deliver([Record("metadata", f"k{i}", b"%d" % i) for i in range(500)], sent)
    delivery.close()
    assert len(values(embedded, "metadata")) == 500
    successor = AtLeastOnceDelivery(embedded, "g", "raw", (0, 1, 2, 3), ignore)
    assert successor.start() == sent
    successor.close()


def test_at_least_once_names_the_record_that_is_too_large(embedded: ClientConfigs) -> None:
    delivery = AtLeastOnceDelivery(embedded, "g", "raw", (0,), ignore)
    delivery.start()
    records = [Record("metadata", "a", b"a"), Record("metadata", "b", bytes(3_000_000))]
    with pytest.raises(RecordTooLargeError) as error:
        delivery.deliver(records, _at(1))
    assert error.value.index == 1
    assert delivery.start() == {}
    delivery.close()


def test_records_that_do_not_fit_into_the_clients_queue_wait_for_room(embedded: ClientConfigs) -> None:
    tight = ClientConfigs(common=embedded.common, producer={"queue.buffering.max.messages": 100})
    delivery = AtLeastOnceDelivery(tight, "g", "raw", (0,), ignore)
    assert delivery.deliver([Record("metadata", f"k{i}", b"x") for i in range(2000)], _at(1))
    delivery.close()


def test_at_least_once_a_tombstone_goes_after_what_takes_the_place_of_what_it_clears(
    embedded: ClientConfigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[list[str]] = []
    send = Outbox.send

    def noted(outbox: Outbox, records: list[Record], deadline_s: float) -> None:
        sent.append([record.key for record in records])
        send(outbox, records, deadline_s)

    monkeypatch.setattr(Outbox, "send", noted)
    delivery = AtLeastOnceDelivery(embedded, "g", "raw", (0,), ignore)
    delivery.start()
    records = [Record("metadata", "old", None, (("clears", b"0:1"),)), Record("metadata", "new", b"{}")]
    assert delivery.deliver(records, {0: CommittedOffset(1, "")})
    delivery.close()
    assert sent == [["new"], ["old"]]
    seen = {message.key(): (message.value(), message.headers()) for message in read_all(embedded, "metadata")}
    assert seen == {b"new": (b"{}", None), b"old": (None, [("clears", b"0:1")])}


def test_somebody_who_has_joined_the_group_is_noticed(clients: ClientConfigs, name: str, source: str) -> None:
    member = clients.for_consumer(**{"group.id": name})
    consumer = Consumer(member)
    consumer.subscribe([source])
    wait_until(lambda: consumer.poll(0.1) or consumer.assignment(), WAIT_S, "the member's assignment")
    delivery = AtLeastOnceDelivery(clients, name, source, (0, 1), ignore)
    with pytest.raises(BrokerError, match="joined"):
        delivery.deliver([], _at(1))
    delivery.close()
    consumer.close()
