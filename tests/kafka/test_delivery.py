"""Writing results with positions. The rules are those at the head of ``kafka/delivery.py``."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from ray_reproducer.core.errors import (
    BrokerError,
    ConfigurationError,
    FencedError,
    IllegalEventError,
    MetadataTooLargeError,
    RecordTooLargeError,
)
from ray_reproducer.kafka import failpoints, faults, group_offsets
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.delivery import CommittedOffset, Record, TransactionalDelivery
from ray_reproducer.kafka.group_offsets import GroupOffsets
from ray_reproducer.kafka.outbox import Outbox, _ConnectionLog
from tests.kafka.reading import WAIT_S, ignore, read_all, values
from tests.waiting import wait_until

MakeTopic = Callable[..., str]


@pytest.fixture
def source(unique_topic: MakeTopic) -> str:
    """A source topic with two partitions."""
    return unique_topic("source", 2)


@pytest.fixture
def results(unique_topic: MakeTopic) -> str:
    """A result topic with two partitions."""
    return unique_topic("results", 2)


def _transactional(clients: ClientConfigs, name: str, source: str) -> TransactionalDelivery:
    return TransactionalDelivery(clients, name, source, (0, 1), f"ray_reproducer.{name}", ignore)


def _at(offset: int, metadata: str = "") -> dict[int, CommittedOffset]:
    return {0: CommittedOffset(offset, metadata)}


# Exactly once, on a real broker


def test_records_and_positions_are_committed_together(
    clients: ClientConfigs, name: str, source: str, results: str
) -> None:
    delivery = _transactional(clients, name, source)
    assert delivery.start() == {}
    sent = {0: CommittedOffset(5, "five"), 1: CommittedOffset(7, "")}
    records = [Record(results, f"k{i}", b"%d" % i, (("reason", b"r"),)) for i in range(100)]
    assert delivery.deliver(records, sent)
    delivery.close()
    found = read_all(clients, results)
    assert sorted(int(message.value() or b"") for message in found) == list(range(100))
    assert {(message.key(), message.value()) for message in found} >= {(b"k7", b"7")}
    assert found[0].headers() == [("reason", b"r")]
    assert _transactional(clients, name, source).start() == sent


def test_metadata_of_4095_characters_comes_back_and_more_is_refused(
    clients: ClientConfigs, name: str, source: str, results: str
) -> None:
    longest = "m" * 4095
    delivery = _transactional(clients, name, source)
    delivery.start()
    assert delivery.deliver([], _at(1, longest))
    with pytest.raises(MetadataTooLargeError):
        delivery.deliver([Record(results, "k", b"never")], _at(2, longest + "m"))
    assert delivery.deliver([Record(results, "k", b"later")], _at(2))
    delivery.close()
    assert values(clients, results) == ["later"]


def test_twenty_thousand_records_in_one_transaction(
    clients: ClientConfigs, name: str, source: str, results: str
) -> None:
    delivery = _transactional(clients, name, source)
    delivery.start()
    assert delivery.deliver([Record(results, f"k{i}", b"%d" % i) for i in range(20_000)], _at(1))
    delivery.close()
    assert len(set(values(clients, results))) == 20_000


def test_rule_1_what_a_predecessor_left_open_is_aborted_before_positions_are_read(
    clients: ClientConfigs, name: str, source: str, results: str
) -> None:
    first = _transactional(clients, name, source)
    first.start()
    assert first.deliver([Record(results, "k", b"committed")], _at(1, "one"))
    # In the middle of a transaction: all is sent, nothing is committed.
    first._outbox.producer.begin_transaction()
    first._outbox.send([Record(results, "k", b"uncommitted")], time.monotonic() + WAIT_S)
    positions = first._group.positions(_at(2, "two"))
    first._outbox.producer.send_offsets_to_transaction(positions, first._group.membership(), WAIT_S)
    second = _transactional(clients, name, source)
    assert second.start() == _at(1, "one")
    assert second.deliver([Record(results, "k", b"by the second")], _at(2, "two"))
    assert values(clients, results) == ["by the second", "committed"]
    with pytest.raises(FencedError) as error:
        first.deliver([Record(results, "k", b"late")], _at(3))
    assert error.value.exit_code == 4
    first.close()
    second.close()


def test_rule_2_positions_then_all_records_then_every_report_then_the_commit(
    clients: ClientConfigs, name: str, source: str, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = _transactional(clients, name, source)
    delivery.start()
    calls: list[str] = []
    undelivered: list[int] = []

    def noting(call: str, function: Callable[[], object]) -> Callable[[], object]:
        def noted() -> object:
            if calls[-1:] != [call]:  # each may be made again
                calls.append(call)
            if call == "commit":
                undelivered.append(len(delivery._outbox.producer))
            return function()

        return noted

    monkeypatch.setattr(failpoints, "around", noting)
    assert delivery.deliver([Record(results, f"k{i}", b"v") for i in range(50)], _at(1))
    monkeypatch.undo()
    assert calls == ["begin", "offsets", "produce", "flush", "commit"]
    assert set(undelivered) == {0}
    delivery.close()


def test_rule_3_the_older_of_two_instances_stops(clients: ClientConfigs, name: str, source: str, results: str) -> None:
    older, newer = (_transactional(clients, name, source) for _ in range(2))
    older.start()
    assert older.deliver([Record(results, "k", b"1")], _at(1))
    assert newer.start() == _at(1)
    with pytest.raises(FencedError, match=name):
        older.deliver([Record(results, "k", b"twice")], _at(2))
    assert newer.deliver([Record(results, "k", b"2")], _at(2))
    assert values(clients, results) == ["1", "2"]
    older.close()
    newer.close()


@pytest.mark.timeout(120)
def test_a_process_killed_in_the_middle_of_a_transaction_leaves_nothing(
    clients: ClientConfigs, bootstrap_servers: str, name: str, source: str, results: str, tmp_path: Path
) -> None:
    script = tmp_path / "victim.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        from ray_reproducer.kafka.client_config import ClientConfigs
        from ray_reproducer.kafka.delivery import CommittedOffset, Record, TransactionalDelivery
        clients = ClientConfigs.from_settings({{"bootstrap.servers": {bootstrap_servers!r}}})
        delivery = TransactionalDelivery(clients, {name!r}, {source!r}, (0, 1), "ray_reproducer.{name}", print)
        delivery.start()
        assert delivery.deliver([Record({results!r}, "k", b"whole")], {{0: CommittedOffset(1, "whole")}})
        delivery._outbox.producer.begin_transaction()
        delivery._outbox.send([Record({results!r}, "k", b"half")], time.monotonic() + 30)
        positions = delivery._group.positions({{0: CommittedOffset(2, "half")}})
        delivery._outbox.producer.send_offsets_to_transaction(positions, delivery._group.membership(), 30)
        print("ready", flush=True)
        time.sleep(600)
        """)
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, cwd=root) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        victim.kill()
    successor = _transactional(clients, name, source)
    assert successor.start() == _at(1, "whole")
    assert successor.deliver([Record(results, "k", b"again")], _at(2))
    successor.close()
    assert values(clients, results) == ["again", "whole"]


def test_a_record_too_large_for_the_client_is_named_and_nothing_is_committed(
    clients: ClientConfigs, name: str, source: str, results: str
) -> None:
    delivery = _transactional(clients, name, source)
    delivery.start()
    records = [Record(results, "small", b"s"), Record(results, "large", bytes(2_000_000))]
    with pytest.raises(RecordTooLargeError, match="large") as error:
        delivery.deliver(records, _at(1))
    assert error.value.index == 1
    assert delivery.deliver(records[:1], _at(1))
    delivery.close()
    assert values(clients, results) == ["s"]


def test_a_record_too_large_for_the_broker_is_found_among_others(
    clients: ClientConfigs, name: str, source: str, unique_topic: MakeTopic
) -> None:
    narrow = unique_topic("narrow", 1, {"max.message.bytes": "4000", "compression.type": "uncompressed"})
    delivery = _transactional(clients, name, source)
    delivery.start()
    small = [Record(narrow, f"k{i}", b"x" * 300) for i in range(60)]
    # All together they are more than the topic takes at once: that alone is no reason to refuse one.
    wait_until(lambda: delivery.deliver(small, _at(1)), WAIT_S, "delivery in smaller batches")
    guilty = [*small[:20], Record(narrow, "guilty", b"y" * 5000), *small[20:]]
    with pytest.raises(RecordTooLargeError) as error:
        wait_until(lambda: delivery.deliver(guilty, _at(2)), WAIT_S, "the refusal")
    assert error.value.index == 20
    delivery.close()
    assert len(values(clients, narrow)) == 60


def test_rule_4_a_commit_whose_answer_got_lost_counts_once(
    clients: ClientConfigs, name: str, source: str, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = _transactional(clients, name, source)
    delivery.start()
    really_commit = delivery._commit

    def lose_the_answer(deadline_s: float) -> None:
        really_commit(deadline_s)
        raise KafkaException(KafkaError(faults.TIMED_OUT))

    monkeypatch.setattr(delivery, "_commit", lose_the_answer)
    producer = delivery._outbox.producer
    assert delivery.deliver([Record(results, "k", b"once")], _at(1, "one"))
    assert delivery._outbox.producer is not producer
    monkeypatch.undo()
    assert delivery.deliver([Record(results, "k", b"next")], _at(2))
    delivery.close()
    assert values(clients, results) == ["next", "once"]


def test_rule_4_a_commit_that_never_arrived_is_certainly_not_there(
    clients: ClientConfigs, name: str, source: str, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = _transactional(clients, name, source)
    delivery.start()

    def never_arrive(_deadline_s: float) -> None:
        raise KafkaException(KafkaError(faults.TIMED_OUT))

    monkeypatch.setattr(delivery, "_commit", never_arrive)
    assert not delivery.deliver([Record(results, "k", b"again")], _at(1))
    monkeypatch.undo()
    assert delivery.deliver([Record(results, "k", b"again")], _at(1))
    delivery.close()
    assert values(clients, results) == ["again"]


def test_rule_4_positions_that_are_not_ours_mean_that_somebody_else_is_at_work(
    clients: ClientConfigs, name: str, source: str, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = _transactional(clients, name, source)
    delivery.start()

    def meanwhile(_deadline_s: float) -> None:
        other = GroupOffsets(clients, name, source, faults.Health(ignore), time.sleep)
        other.commit(_at(9, "theirs"))
        other.close()
        raise KafkaException(KafkaError(faults.TIMED_OUT))

    monkeypatch.setattr(delivery, "_commit", meanwhile)
    with pytest.raises(FencedError, match="not ours"):
        delivery.deliver([Record(results, "k", b"x")], _at(1))
    delivery.close()
    assert values(clients, results) == []


class Stale:
    """Lets reads of positions tell older ones, as of a broker that has just taken the group over, until it is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, older: dict[int, CommittedOffset]) -> None:
        self.is_over = False
        self.reads = 0
        read = GroupOffsets._read

        def stale(group: GroupOffsets, consumer: Consumer, partitions: Sequence[int]) -> dict[int, CommittedOffset]:
            self.reads += 1
            return read(group, consumer, partitions) if self.is_over else dict(older)

        monkeypatch.setattr(GroupOffsets, "_read", stale)


def test_rule_10_a_commit_that_a_new_coordinator_does_not_tell_of_yet_counts_once(
    clients: ClientConfigs, name: str, source: str, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = _transactional(clients, name, source)
    delivery.start()
    assert delivery.deliver([Record(results, "k", b"first")], _at(1, "one"))
    really_commit, really_touch = delivery._commit, delivery._touch
    stale = Stale(monkeypatch, _at(1, "one"))

    def lose_the_answer(deadline_s: float) -> None:
        really_commit(deadline_s)
        raise KafkaException(KafkaError(faults.TIMED_OUT))

    def touch(records: Sequence[Record], positions: Mapping[int, CommittedOffset]) -> bool:
        assert positions == _at(1, "one"), "should its end get lost, nothing has changed"
        stale.is_over = really_touch(records, positions)
        return stale.is_over

    monkeypatch.setattr(delivery, "_commit", lose_the_answer)
    monkeypatch.setattr(delivery, "_touch", touch)
    assert delivery.deliver([Record(results, "k", b"once")], _at(2, "two"))
    monkeypatch.undo()
    delivery.confirm()
    assert delivery.deliver([Record(results, "k", b"next")], _at(3))
    delivery.close()
    assert values(clients, results) == ["first", "next", "once"]


@pytest.mark.parametrize("older", [{}, {0: CommittedOffset(1, "one")}], ids=["none", "older"])
def test_rule_10_a_later_life_begins_where_the_last_one_ended(
    clients: ClientConfigs, name: str, source: str, results: str, monkeypatch: pytest.MonkeyPatch,
    older: dict[int, CommittedOffset],
) -> None:  # fmt: skip
    first = _transactional(clients, name, source)
    first.start()
    assert first.deliver([Record(results, "k", b"first")], _at(1, "one"))
    assert first.deliver([Record(results, "k", b"second")], _at(2, "two"))
    first.close()
    later = TransactionalDelivery(
        clients, name, source, (0, 1), f"ray_reproducer.{name}", ignore, is_later_life=True
    )  # fmt: skip
    really_touch, stale = later._touch, Stale(monkeypatch, older)

    def touch(records: Sequence[Record], positions: Mapping[int, CommittedOffset]) -> bool:
        stale.is_over = really_touch(records, positions)
        return stale.is_over

    monkeypatch.setattr(later, "_touch", touch)
    assert later.start() == _at(2, "two")
    later.close()
    assert values(clients, results) == ["first", "second"]


def test_rule_10_positions_that_are_older_for_a_moment_are_nobody_elses(
    clients: ClientConfigs, name: str, source: str, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = _transactional(clients, name, source)
    delivery.start()
    for offset in (1, 2, 3):
        assert delivery.deliver([Record(results, "k", b"%d" % offset)], _at(offset))
    stale = Stale(monkeypatch, _at(1))
    wait = delivery._wait

    def looking(seconds: float) -> None:
        stale.is_over = stale.reads >= 3
        wait(seconds)

    monkeypatch.setattr(delivery._group, "_wait", looking)
    delivery.confirm()
    assert stale.reads >= 3
    stale.is_over, stale.reads = False, 0
    delivery._health.on_error(KafkaError(faults.BROKEN))
    delivery.confirm_after_trouble()
    assert stale.reads >= 3
    stale.is_over, stale.reads = False, 0
    delivery._outbox.drop()
    assert delivery.deliver([Record(results, "k", b"4")], _at(4))
    assert stale.reads >= 3
    delivery.close()
    assert values(clients, results) == ["1", "2", "3", "4"]


def test_rule_10_but_not_for_ever(
    clients: ClientConfigs, name: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = _transactional(clients, name, source)
    delivery.start()
    assert delivery.deliver([], _at(3))
    monkeypatch.setattr(group_offsets, "STALE_S", 0.5)
    Stale(monkeypatch, _at(1))
    with pytest.raises(FencedError, match="not ours"):
        delivery.confirm()
    delivery.close()


def test_rule_5_a_producer_whose_connection_broke_while_it_committed_is_replaced(
    clients: ClientConfigs, name: str, source: str, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = _transactional(clients, name, source)
    delivery.start()
    producer = delivery._outbox.producer
    around = failpoints.around

    def disturbed(name: str, call: Callable[[], object]) -> Callable[[], object]:
        if name == "commit":
            delivery._health.on_error(KafkaError(faults.BROKEN))
        return around(name, call)

    monkeypatch.setattr(failpoints, "around", disturbed)
    assert delivery.deliver([Record(results, "k", b"1")], _at(1))
    monkeypatch.undo()
    assert delivery.deliver([Record(results, "k", b"2")], _at(2))
    assert delivery._outbox.producer is not producer
    delivery.close()
    assert values(clients, results) == ["1", "2"]


def test_rule_5_so_is_one_whose_connection_broke_since(
    clients: ClientConfigs, name: str, source: str, results: str
) -> None:
    delivery = _transactional(clients, name, source)
    delivery.start()
    assert delivery.deliver([Record(results, "k", b"1")], _at(1))
    producer = delivery._outbox.producer
    assert delivery.deliver([Record(results, "k", b"2")], _at(2))
    assert delivery._outbox.producer is producer
    delivery._health.disturbed()
    assert delivery.deliver([Record(results, "k", b"3")], _at(3))
    assert delivery._outbox.producer is not producer
    delivery.close()
    assert values(clients, results) == ["1", "2", "3"]


def test_records_whose_positions_are_committed_already_are_a_defect(
    clients: ClientConfigs, name: str, source: str, results: str
) -> None:
    delivery = _transactional(clients, name, source)
    delivery.start()
    assert delivery.deliver([], _at(1))
    assert delivery.deliver([], _at(1)), "committing an idle partition again is allowed"
    with pytest.raises(IllegalEventError):
        delivery.deliver([Record(results, "k", b"x")], _at(1))
    delivery.close()


def test_a_transaction_timeout_that_the_broker_refuses(bootstrap_servers: str, name: str, source: str) -> None:
    clients = ClientConfigs.from_settings(
        {"bootstrap.servers": bootstrap_servers}, producer={"transaction.timeout.ms": 100_000_000}
    )
    with pytest.raises(ConfigurationError, match=r"transaction\.timeout\.ms"):
        _transactional(clients, name, source).start()


def test_close_ends_waiting_for_a_broker_that_is_away() -> None:
    nobody = ClientConfigs.from_settings({"bootstrap.servers": "127.0.0.1:1"})
    heard: list[str] = []

    def hear(trouble: str) -> None:
        heard.append(trouble)
        delivery._closed.set()

    delivery = TransactionalDelivery(nobody, "g", "raw", (0,), "t", hear)
    with pytest.raises(BrokerError, match="closed"):
        delivery.start()
    delivery.close()
    assert heard


# What an error means


def _error(code: int, **flags: bool) -> KafkaError:
    return KafkaError(code, "why", **flags)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (_error(KafkaError._TIMED_OUT, retriable=True), True),
        (_error(KafkaError._TIMED_OUT), False),
        (_error(KafkaError.COORDINATOR_NOT_AVAILABLE, retriable=True), True),
        (_error(KafkaError._CONFLICT, retriable=True), False),
        (_error(KafkaError.INVALID_TXN_STATE, retriable=True, txn_requires_abort=True), False),
        (_error(KafkaError._FENCED, retriable=True, fatal=True), False),
        (_error(KafkaError.PRODUCER_FENCED, retriable=True), False),
        (_error(KafkaError.INVALID_PRODUCER_EPOCH, retriable=True), False),
    ],
)
def test_when_the_same_call_is_made_again(error: KafkaError, *, again: bool) -> None:
    assert faults.same_call_again(error) is again


def test_trouble_is_told_when_it_changes_and_the_vague_does_not_replace_the_precise() -> None:
    heard: list[str] = []
    health = faults.Health(heard.append)
    refused = _error(KafkaError._TRANSPORT)
    health.on_error(_error(KafkaError._ALL_BROKERS_DOWN))
    health.on_error(refused)
    health.on_error(refused)
    health.on_error(_error(KafkaError._ALL_BROKERS_DOWN))
    health.well()
    health.well()
    assert heard == ["why [_ALL_BROKERS_DOWN]", "why [_TRANSPORT]", ""]


def test_durations_are_left_out_of_what_is_told() -> None:
    error = KafkaError(KafkaError._TRANSPORT, "Connect failed (after 3ms in state CONNECT, 2 error(s) suppressed)")
    assert faults.text(error) == "Connect failed [_TRANSPORT]"


def test_an_outbox_makes_its_producer_anew_after_it_was_dropped(embedded: ClientConfigs) -> None:
    outbox = Outbox(embedded, {}, faults.Health(ignore))
    assert not outbox.is_open
    first: Producer = outbox.producer
    assert outbox.producer is first
    outbox.drop()
    outbox.send([Record("metadata", "k", b"v")], time.monotonic() + WAIT_S)
    assert outbox.producer is not first
    outbox.drop()
    assert values(embedded, "metadata") == ["v"]


def test_a_connection_that_the_other_side_closed_is_noticed_by_the_librarys_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    health = faults.Health(ignore)
    log = _ConnectionLog(health, debug=False)
    log.log(logging.INFO, "%s [%s] %s", "TERMINATE", "me", "over")
    for text in (
        "Decommissioning this broker (after 0ms in state UP) (_DESTROY_BROKER)",
        "Closing connection due to nodename change (after 53ms in state TRY_CONNECT) (_TRANSPORT)",
        "Disconnected (after 600012ms in state UP) (_TRANSPORT)",
    ):
        log.log(logging.DEBUG, "%s [%s] %s", "FAIL", "me", text)
    assert health.disturbed_at_s == 0.0
    with caplog.at_level(logging.DEBUG):
        log.log(logging.INFO, "%s [%s] %s", "FAIL", "me", "Disconnected")
    assert health.disturbed_at_s > 0.0
    assert "FAIL [me] Disconnected" in caplog.text


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "Disconnected (after 9ms in state UP) (_TRANSPORT): identical to last error: error log suppressed",
        "Closing connection due to nodename change (after 53ms in state UP) (_TRANSPORT)",
    ],
)
def test_that_a_connection_broke_again_is_noticed_but_not_handed_on_unless_wanted(
    caplog: pytest.LogCaptureFixture, text: str, *, debug: bool
) -> None:
    health = faults.Health(ignore)
    with caplog.at_level(logging.DEBUG):
        _ConnectionLog(health, debug=debug).log(logging.DEBUG, "%s [%s] %s", "FAIL", "me", text)
    assert health.disturbed_at_s > 0.0
    assert (text in caplog.text) == debug


def test_a_connection_that_could_not_be_made_carried_nothing(caplog: pytest.LogCaptureFixture) -> None:
    health = faults.Health(ignore)
    refused = "b:1/1: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)"
    with caplog.at_level(logging.DEBUG):
        _ConnectionLog(health, debug=False).log(logging.ERROR, "%s [%s] %s", "FAIL", "me", refused)
    health.on_error(KafkaError(faults.BROKEN, refused))
    assert health.disturbed_at_s == 0.0
    assert health.trouble, "it is told all the same"
    health.on_error(KafkaError(faults.BROKEN, "b:1/1: Disconnected (after 9ms in state UP)"))
    assert health.disturbed_at_s > 0.0
