"""Rule 7 of ``delivery``: who was replaced without knowing does not fence the one that took over."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, KafkaException

from ray_reproducer.core.errors import FencedError
from ray_reproducer.kafka import faults
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.delivery import CommittedOffset, Record, TransactionalDelivery
from ray_reproducer.kafka.outbox import Outbox
from tests.kafka.reading import WAIT_S, ignore


@pytest.fixture(name="topics")
def _topics(unique_topic: Callable[..., str]) -> tuple[str, str]:
    return unique_topic("source", 2), unique_topic("results", 2)


def at(offset: int) -> dict[int, CommittedOffset]:
    return {0: CommittedOffset(offset, "")}


def test_rule_7_a_transaction_that_failed_here_does_not_fence_the_successor(
    clients: ClientConfigs, name: str, topics: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, results = topics
    older, newer = (TransactionalDelivery(clients, name, source, (0, 1), name, ignore) for _ in range(2))
    older.start()
    assert older.deliver([Record(results, "1", b"1")], at(1))
    newer.start()
    assert newer.deliver([Record(results, "2", b"2")], at(2))

    def timed_out(_offsets: object, _deadline_s: float) -> None:
        # After a long sleep, the time of the call is over before anything is heard from the broker.
        raise KafkaException(KafkaError(faults.TIMED_OUT))

    monkeypatch.setattr(older, "_send_positions", timed_out)
    monkeypatch.setattr(older, "_timeout_s", 0.0)  # so late that the broker may have aborted it already
    with pytest.raises(FencedError, match="the committed positions are not ours"):
        older.deliver([Record(results, "2", b"2")], at(2) | {1: CommittedOffset(7, "")})

    assert newer.deliver([Record(results, "3", b"3")], at(3))
    older.close()
    newer.close()


def test_rule_7_nor_does_one_that_gave_its_producer_up_between_transactions(
    clients: ClientConfigs, name: str, topics: tuple[str, str]
) -> None:
    source, results = topics
    older, newer = (TransactionalDelivery(clients, name, source, (0, 1), name, ignore) for _ in range(2))
    older.start()
    assert older.deliver([Record(results, "1", b"1")], at(1))
    newer.start()
    assert newer.deliver([Record(results, "2", b"2")], at(2))
    older._outbox.drop()

    with pytest.raises(FencedError, match="the committed positions are not ours"):
        older.deliver([Record(results, "3", b"3")], at(3))

    assert newer.deliver([Record(results, "3", b"3")], at(3))
    older.close()
    newer.close()


def test_rule_7_nor_does_one_that_learns_that_a_newer_one_has_signed(
    clients: ClientConfigs, name: str, topics: tuple[str, str]
) -> None:
    source, results = topics

    asked = iter([False])  # the broker does not tell at first

    def refuse() -> bool:
        if not next(asked, True):
            return False
        raise FencedError("a newer one has signed")

    older = TransactionalDelivery(clients, name, source, (0, 1), name, ignore, refuse_newer=refuse)
    newer = TransactionalDelivery(clients, name, source, (0, 1), name, ignore)
    older.start()
    assert older.deliver([Record(results, "1", b"1")], at(1))
    newer.start()
    older._outbox.drop()
    with pytest.raises(FencedError, match="a newer one has signed"):
        older.deliver([Record(results, "2", b"2")], at(2))
    assert newer.deliver([Record(results, "2", b"2")], at(2)), "it is not fenced"
    older.close()
    newer.close()


@pytest.mark.parametrize("successor_is_busy", [False, True])
def test_rule_7_nor_does_one_that_idles_and_looks_after_its_last_transaction(
    clients: ClientConfigs, name: str, topics: tuple[str, str], *, successor_is_busy: bool
) -> None:
    source, results = topics
    older, newer = (TransactionalDelivery(clients, name, source, (0, 1), name, ignore) for _ in range(2))
    older.start()
    assert older.deliver([Record(results, "1", b"1")], at(1))
    newer.start()
    assert newer.deliver([Record(results, "2", b"2")], at(2))
    producer = newer._outbox.producer
    if successor_is_busy:
        producer.begin_transaction()
        producer.send_offsets_to_transaction(newer._group.positions(at(3)), newer._group.membership(), WAIT_S)
    older._health.disturbed()
    with pytest.raises(FencedError):
        older.confirm_after_trouble()
    if successor_is_busy:
        producer.abort_transaction(WAIT_S)
    assert newer.deliver([Record(results, "3", b"3")], at(3)), "it is not fenced"
    older.close()
    newer.close()


def test_rule_3_who_is_fenced_while_its_connection_breaks_is_told_so(
    clients: ClientConfigs, name: str, topics: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, results = topics
    older, newer = (TransactionalDelivery(clients, name, source, (0, 1), name, ignore) for _ in range(2))
    older.start()
    send = Outbox.send

    def replaced(outbox: Outbox, records: list[Record], deadline_s: float) -> None:
        send(outbox, records, deadline_s)
        if outbox is older._outbox:
            newer.start()
            older._health.disturbed()

    monkeypatch.setattr(Outbox, "send", replaced)
    with pytest.raises(FencedError):
        older.deliver([Record(results, "1", b"1")], at(1))
    assert newer.deliver([Record(results, "1", b"1")], at(1))
    older.close()
    newer.close()
