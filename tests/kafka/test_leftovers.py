"""What a broker has left open. How that comes about on a real broker: ``tests/faults/misbehaving_broker``."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from ray_reproducer.core.errors import BrokerAwayError, BrokerError, FencedError, PipelineError
from ray_reproducer.kafka import admin, faults, instance, leftovers
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.delivery import CommittedOffset, Record, TransactionalDelivery
from ray_reproducer.kafka.group_offsets import GroupOffsets
from ray_reproducer.kafka.outbox import Outbox
from tests.kafka.reading import WAIT_S, ignore, values
from tests.waiting import wait_until

MakeTopic = Callable[..., str]


@pytest.fixture
def topics(unique_topic: MakeTopic) -> tuple[str, str]:
    """Source and results."""
    return unique_topic("source", 2), unique_topic("results", 3)


@pytest.fixture
def delivery(clients: ClientConfigs, name: str, topics: tuple[str, str]) -> Iterator[TransactionalDelivery]:
    """A delivery that has not begun."""
    source, results = topics
    made = TransactionalDelivery(clients, name, source, (0,), f"ray_reproducer.{name}", ignore, topics=(results,))
    yield made
    made.close()


def _open_transaction(clients: ClientConfigs, transactional_id: str, topic: str, partition: int) -> Producer:
    producer = Producer(clients.for_producer(**{"transactional.id": transactional_id}))
    producer.init_transactions(WAIT_S)
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=partition)
    assert not producer.flush(WAIT_S)
    return producer


def test_rule_2_a_partition_on_which_a_transaction_is_open_is_touched_and_no_other(
    clients: ClientConfigs, name: str, topics: tuple[str, str]
) -> None:
    health = faults.Health(ignore)
    assert leftovers.touching_records(clients, (topics[1],), health) == []
    other = _open_transaction(clients, f"{name}.other", topics[1], 2)
    records = leftovers.touching_records(clients, (topics[1],), health)
    assert records is not None
    (record,) = records
    assert (record.topic, record.partition) == (topics[1], 2)
    other.abort_transaction(WAIT_S)
    assert leftovers.touching_records(clients, (topics[1],), health) == []


def test_a_topic_that_can_not_be_looked_at_is_said(clients: ClientConfigs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BrokerError("not allowed")

    monkeypatch.setattr(admin, "find_topic", refuse)
    heard: list[str] = []
    assert leftovers.touching_records(clients, ("results",), faults.Health(heard.append)) == []
    assert heard == ["can't see whether a transaction is open on results: not allowed"]


def test_while_the_broker_does_not_tell_nothing_is_known(
    clients: ClientConfigs, topics: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_away(*_: object, **__: object) -> None:
        raise BrokerAwayError("no answer")

    monkeypatch.setattr(admin, "watermarks", be_away)
    assert leftovers.touching_records(clients, (topics[1],), faults.Health(ignore)) is None


def test_a_topic_that_is_not_there_has_nothing_open(clients: ClientConfigs) -> None:
    assert leftovers.touching_records(clients, ("test.there.is.none",), faults.Health(ignore)) == []


def test_positions_are_stable_unless_a_transaction_is_open_that_has_sent_some(
    clients: ClientConfigs, name: str, topics: tuple[str, str], delivery: TransactionalDelivery
) -> None:
    delivery.start()
    group = GroupOffsets(clients, name, topics[0], faults.Health(ignore), lambda _: None)
    assert group.is_stable([0])
    delivery._outbox.producer.begin_transaction()
    delivery._send_positions({0: CommittedOffset(3, "")}, float("inf"))
    assert not group.is_stable([0])
    delivery._outbox.producer.abort_transaction(WAIT_S)
    assert group.is_stable([0])
    group.close()


def test_rule_3_what_ends_a_transaction_that_was_left_open_is_seen_by_nobody(
    clients: ClientConfigs,
    name: str,
    topics: tuple[str, str],
    delivery: TransactionalDelivery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = topics[1]
    other = _open_transaction(clients, f"{name}.other", results, 1)
    answers = iter([False, True])
    monkeypatch.setattr(GroupOffsets, "is_stable", lambda *_: next(answers, True))
    before = admin.watermarks(clients, results, range(3), committed=False)
    assert delivery.start() == {}
    after = admin.watermarks(clients, results, range(3), committed=False)
    grown_by = {partition: after[partition][1] - before[partition][1] for partition in before}
    assert grown_by == {0: 0, 1: 2, 2: 0}, "a record, and the marker that aborts it"
    assert delivery.deliver([Record(results, "k", b"1")], {0: CommittedOffset(1, "one")})
    other.commit_transaction(WAIT_S)
    assert values(clients, results) == ["1", "open"], "another program's transaction is left alone"


def test_a_broker_that_fails_meanwhile_is_asked_again(
    topics: tuple[str, str], delivery: TransactionalDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, False, True])
    monkeypatch.setattr(GroupOffsets, "is_stable", lambda *_: next(answers, True))
    send, failures = Outbox.send, iter([True])

    def fail_once(outbox: Outbox, records: list[Record], deadline_s: float) -> None:
        if next(failures, False):
            outbox.producer.purge()
            raise KafkaException(KafkaError(faults.TIMED_OUT))
        send(outbox, records, deadline_s)

    monkeypatch.setattr(Outbox, "send", fail_once)
    assert delivery.start() == {}
    assert next(answers, None) is None
    assert delivery.deliver([Record(topics[1], "k", b"1")], {0: CommittedOffset(1, "")})


def _lost_commit(delivery: TransactionalDelivery) -> Callable[[float], None]:
    """Let a commit succeed, as far as can be seen, of which nothing is left."""

    def lose(_deadline_s: float) -> None:
        delivery._outbox.producer.abort_transaction(WAIT_S)

    return lose


def _fail(_deadline_s: float) -> None:
    raise KafkaException(KafkaError(faults.TIMED_OUT))


@pytest.mark.parametrize("producer_is_dropped", [False, True])
def test_rule_8_a_transaction_that_is_lost_after_it_was_committed_lets_all_begin_anew(
    topics: tuple[str, str],
    delivery: TransactionalDelivery,
    monkeypatch: pytest.MonkeyPatch,
    *,
    producer_is_dropped: bool,
) -> None:
    delivery.start()
    assert delivery.deliver([Record(topics[1], "k", b"1")], {0: CommittedOffset(1, "one")})
    with monkeypatch.context() as patch:
        patch.setattr(delivery, "_commit", _lost_commit(delivery))
        assert delivery.deliver([Record(topics[1], "k", b"2")], {0: CommittedOffset(2, "two")})
    if producer_is_dropped:
        delivery._outbox.drop()
    else:
        monkeypatch.setattr(delivery, "_commit", _fail)
    with pytest.raises(PipelineError, match="lost a transaction"):
        delivery.deliver([Record(topics[1], "k", b"3")], {0: CommittedOffset(3, "three")})
    assert delivery.start() == {0: CommittedOffset(1, "one")}


def test_positions_that_are_gone_let_all_begin_anew(
    clients: ClientConfigs, name: str, topics: tuple[str, str], delivery: TransactionalDelivery
) -> None:
    delivery.start()
    for number in (1, 2):
        assert delivery.deliver([Record(topics[1], "k", b"%d" % number)], {0: CommittedOffset(number, "")})
    admin.forget_group(clients, name, WAIT_S)
    delivery._outbox.drop()
    with pytest.raises(PipelineError, match=f"the committed positions of group {name} are gone"):
        delivery.deliver([Record(topics[1], "k", b"3")], {0: CommittedOffset(3, "")})


def test_rule_8_positions_before_the_last_but_one_transaction_are_somebody_elses(
    clients: ClientConfigs, name: str, topics: tuple[str, str], delivery: TransactionalDelivery
) -> None:
    delivery.start()
    for number in (1, 2, 3):
        assert delivery.deliver([Record(topics[1], "k", b"%d" % number)], {0: CommittedOffset(number, "")})
    group = GroupOffsets(clients, name, topics[0], faults.Health(ignore), lambda _: None)
    group.commit({0: CommittedOffset(1, "")})
    group.close()
    delivery._outbox.drop()
    with pytest.raises(FencedError, match="not ours"):
        delivery.deliver([Record(topics[1], "k", b"4")], {0: CommittedOffset(4, "")})


def test_rule_5_a_transaction_in_which_the_connection_broke_is_not_committed(
    clients: ClientConfigs, topics: tuple[str, str], delivery: TransactionalDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery.start()
    send = Outbox.send

    def broken(outbox: Outbox, records: list[Record], deadline_s: float) -> None:
        send(outbox, records, deadline_s)
        delivery._health.on_error(KafkaError(faults.BROKEN))

    first = ([Record(topics[1], "k", b"1")], {0: CommittedOffset(1, "")})
    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "send", broken)
        assert not delivery.deliver(*first)
    assert delivery.deliver(*first)
    assert values(clients, topics[1]) == ["1"]


def _commit_unasked(outbox: Outbox, _records: list[Record], _deadline_s: float) -> None:
    outbox.producer.commit_transaction(WAIT_S)
    raise KafkaException(KafkaError(faults.BROKEN))


def test_rule_9_positions_that_are_committed_before_we_asked_for_it_are_put_back(
    topics: tuple[str, str], delivery: TransactionalDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery.start()
    assert delivery.deliver([Record(topics[1], "k", b"1")], {0: CommittedOffset(1, "one")})
    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "send", _commit_unasked)
        with pytest.raises(PipelineError, match="before its records were complete"):
            delivery.deliver([Record(topics[1], "k", b"2")], {0: CommittedOffset(2, "two")})
    assert delivery.start() == {0: CommittedOffset(1, "one")}


def test_rule_9_first_positions_of_a_partition_have_nothing_to_go_back_to_and_are_named(
    topics: tuple[str, str], delivery: TransactionalDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery.start()
    assert delivery.deliver([Record(topics[1], "k", b"1")], {0: CommittedOffset(1, "one")})
    monkeypatch.setattr(Outbox, "send", _commit_unasked)
    with pytest.raises(BrokerError, match=r"\[1\] to 7"):
        delivery.deliver([Record(topics[1], "k", b"2")], {0: CommittedOffset(2, "two"), 1: CommittedOffset(7, "")})
    assert delivery.start()[0] == CommittedOffset(1, "one")


def test_rule_8_a_last_transaction_that_is_lost_is_found_out_at_the_end(
    topics: tuple[str, str], delivery: TransactionalDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery.start()
    assert delivery.deliver([Record(topics[1], "k", b"1")], {0: CommittedOffset(1, "")})
    delivery.confirm()
    monkeypatch.setattr(delivery, "_commit", _lost_commit(delivery))
    assert delivery.deliver([Record(topics[1], "k", b"2")], {0: CommittedOffset(2, "")})
    with pytest.raises(PipelineError, match="lost a transaction"):
        delivery.confirm()


def test_rule_8_a_last_transaction_that_is_lost_is_found_out_while_there_is_nothing_to_write(
    topics: tuple[str, str], delivery: TransactionalDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery.start()
    assert delivery.deliver([Record(topics[1], "k", b"1")], {0: CommittedOffset(1, "")})
    delivery._health.disturbed()
    delivery.confirm_after_trouble()
    monkeypatch.setattr(delivery, "_commit", _lost_commit(delivery))
    assert delivery.deliver([Record(topics[1], "k", b"2")], {0: CommittedOffset(2, "")})
    delivery.confirm_after_trouble()  # no connection broke: there is nothing to look for
    delivery._health.disturbed()
    with pytest.raises(PipelineError, match="lost a transaction"):
        delivery.confirm_after_trouble()


def test_rule_7_looking_after_the_last_transaction_takes_nothing_over(
    clients: ClientConfigs, name: str, topics: tuple[str, str], delivery: TransactionalDelivery
) -> None:
    delivery.start()
    assert delivery.deliver([Record(topics[1], "k", b"1")], {0: CommittedOffset(1, "")})
    newer = TransactionalDelivery(clients, name, topics[0], (0, 1), f"ray_reproducer.{name}", ignore)
    assert newer.start() == {0: CommittedOffset(1, "")}
    delivery._health.disturbed()
    # Neither while the newer one is in the middle of a transaction, nor before it has begun one.
    positions = newer._group.positions({0: CommittedOffset(2, "")})
    newer._outbox.producer.begin_transaction()
    newer._outbox.producer.send_offsets_to_transaction(positions, newer._group.membership(), WAIT_S)
    delivery.confirm_after_trouble()
    newer._outbox.producer.abort_transaction(WAIT_S)
    delivery._health.disturbed()
    delivery.confirm_after_trouble()
    assert newer.deliver([Record(topics[1], "k", b"2")], {0: CommittedOffset(2, "")}), "the newer one is not fenced"
    delivery._health.disturbed()
    with pytest.raises(FencedError):
        delivery.confirm_after_trouble()
    newer.close()


def _clients_of_the_library() -> int:
    """How many there are in this process: each has a main thread."""
    count = 0
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it has ended meanwhile
            count += path.read_text().strip() == "rdk:main"
    return count


def test_looking_for_what_is_left_open_leaves_no_client_to_the_garbage_collector(
    clients: ClientConfigs, topics: tuple[str, str]
) -> None:
    """A committer looks for garbage rarely, and a client that is left goes on trying to connect."""
    leftovers.touching_records(clients, (topics[1],), faults.Health(ignore))  # imports, and what they keep
    gc.collect()
    before = _clients_of_the_library()
    gc.disable()
    try:
        leftovers.touching_records(clients, (topics[1],), faults.Health(ignore))
        instance.who(clients, "nobody", topics[1])
        wait_until(lambda: _clients_of_the_library() <= before, WAIT_S, "the end of the clients")
    finally:
        gc.enable()
