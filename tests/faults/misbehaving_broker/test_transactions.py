"""Transactions against a broker that misbehaves: each is there once, and they go on when it is well again."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest

from ray_reproducer.core.errors import FencedError
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.delivery import TransactionalDelivery
from tests.faults.broker import PrivateBroker
from tests.faults.delivering import Delivering, expected
from tests.faults.frames import Api
from tests.faults.proxy import BOTH, Action, Conditions, Interception, Way
from tests.kafka.reading import ignore, values
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TRANSACTION_TIMEOUT_S = 5.0
HITS_S = 30.0
"""How long it may take until a request of the wanted kind comes by."""
SETTINGS = {"transaction.timeout.ms": int(TRANSACTION_TIMEOUT_S * 1000)}
DEAD_AFTER_MS = 2000
"""So that what takes a minute by default takes seconds."""


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"test.{uuid.uuid4().hex[:12]}"


@pytest.fixture
def dead_after_ms() -> int:
    """After how long without an answer the program gives a connection up."""
    return DEAD_AFTER_MS


@pytest.fixture
def clients(private_broker: PrivateBroker, dead_after_ms: int) -> ClientConfigs:
    """Settings of the program under test: through the proxy."""
    common = {"bootstrap.servers": private_broker.servers, "socket.timeout.ms": dead_after_ms}
    return ClientConfigs.from_settings(common, producer=SETTINGS)


@pytest.fixture
def topics(private_broker: PrivateBroker, name: str) -> tuple[str, str]:
    """Source and results."""
    return private_broker.make_topic(f"{name}.source"), private_broker.make_topic(f"{name}.results", 2)


@pytest.fixture
def stream(clients: ClientConfigs, name: str, topics: tuple[str, str]) -> Iterator[Delivering]:
    """Transactions that are under way."""
    with Delivering(clients, name, *topics) as delivering:
        delivering.goes_on()
        yield delivering


EVERY_COMMIT = (
    Api.ADD_OFFSETS_TO_TXN,
    Api.TXN_OFFSET_COMMIT,
    Api.ADD_PARTITIONS_TO_TXN,
    Api.PRODUCE,
    Api.END_TXN,
)
"""What goes to the broker in each transaction, in this order."""


@pytest.mark.parametrize("action", [Action.CUT, Action.LOSE], ids=["cut", "lost"])
@pytest.mark.parametrize("way", list(Way), ids=["request", "reply"])
@pytest.mark.parametrize("api", EVERY_COMMIT, ids=lambda api: api.name.lower())
def test_a_message_of_a_transaction_that_is_lost(
    private_broker: PrivateBroker,
    stream: Delivering,
    truth: ClientConfigs,
    topics: tuple[str, str],
    api: Api,
    way: Way,
    action: Action,
) -> None:
    with private_broker.proxy.intercepting(api, way, action) as lost:
        wait_until(lambda: lost.hits, HITS_S, "the loss")
        stream.goes_on()
    assert stream.finish() == values(truth, topics[1])


def test_a_client_library_that_forgets_the_coordinator_and_never_answers_is_left(
    private_broker: PrivateBroker, name: str, topics: tuple[str, str], truth: ClientConfigs
) -> None:
    # librdkafka issues 5511 and 5456; see kafka/client_config.py.
    forgetful = ClientConfigs.from_settings(
        {"bootstrap.servers": private_broker.servers, "socket.timeout.ms": DEAD_AFTER_MS},
        producer={**SETTINGS, "metadata.recovery.strategy": "rebootstrap"},
    )
    with Delivering(forgetful, name, *topics) as stream:
        stream.goes_on()
        with private_broker.proxy.intercepting(Api.PRODUCE, Way.TO_BROKER, Action.CUT) as lost:
            wait_until(lambda: lost.hits, HITS_S, "the loss")
            stream.goes_on()
        assert stream.finish() == values(truth, topics[1])


@pytest.mark.parametrize("api", [Api.FIND_COORDINATOR, Api.INIT_PRODUCER_ID, Api.OFFSET_FETCH, Api.METADATA])
def test_a_reply_that_is_lost_while_a_new_instance_takes_over(
    private_broker: PrivateBroker,
    clients: ClientConfigs,
    name: str,
    topics: tuple[str, str],
    truth: ClientConfigs,
    api: Api,
) -> None:
    with private_broker.proxy.intercepting(api, Way.TO_CLIENT, Action.CUT, times=3) as lost:  # noqa: SIM117
        with Delivering(clients, name, *topics) as stream:
            stream.goes_on()
            assert lost.hits
            assert stream.finish() == values(truth, topics[1])


def proxy_has_delivered(interception: Interception) -> bool:
    """Asked anew: it changes behind the type checker's back."""
    return bool(interception.delivered)


# Longer than a commit is held: otherwise the same commit would go by through another connection.
@pytest.mark.parametrize("dead_after_ms", [int(TRANSACTION_TIMEOUT_S * 1000)])
@pytest.mark.parametrize("broke_before", [False, True])
def test_a_late_copy_of_a_commit_does_not_commit_the_next_transaction(
    private_broker: PrivateBroker,
    stream: Delivering,
    topics: tuple[str, str],
    truth: ClientConfigs,
    *,
    broke_before: bool,
) -> None:
    proxy = private_broker.proxy
    if broke_before:
        # Of connections that break in the same way again and again the client library says little for 30 s.
        with proxy.intercepting(Api.INIT_PRODUCER_ID, Way.TO_BROKER, Action.CUT, times=2) as cut:
            with proxy.intercepting(Api.ADD_PARTITIONS_TO_TXN, Way.TO_BROKER, Action.CUT) as first_cut:
                wait_until(lambda: first_cut.hits, HITS_S, "a transaction that fails")
            wait_until(lambda: cut.hits == 2, HITS_S, "connections that break")
            before = stream.committed
            wait_until(lambda: stream.committed > before, HITS_S, "a transaction of the next producer")
    with proxy.intercepting(Api.END_TXN, Way.TO_BROKER, Action.STRAY, delay_s=2.0) as stray:
        wait_until(lambda: stray.hits, HITS_S, "a commit whose connection breaks")
        first = stream.committed
        wait_until(lambda: stream.committed > first, HITS_S, "the same commit through another connection")
        with proxy.intercepting(Api.END_TXN, Way.TO_BROKER, Action.DELAY, delay_s=4.0) as held:
            wait_until(lambda: held.hits, HITS_S, "the next transaction's commit")
            assert not stray.delivered
            wait_until(lambda: stray.delivered, HITS_S, "the late copy's answer")
            assert not held.delivered, "no transaction was open when the late copy came"
            due, seen = expected(stream.committed), values(truth, topics[1])
            # Reading takes a moment: what was seen says something only if the held commit is held still.
            still_held = not proxy_has_delivered(held)
            assert seen == due or not still_held
            wait_until(lambda: held.delivered, HITS_S, "the next transaction's commit to arrive")
    stream.goes_on()
    assert stream.finish() == values(truth, topics[1])


@pytest.mark.parametrize("dead_after_ms", [int(TRANSACTION_TIMEOUT_S * 1000)])
@pytest.mark.parametrize("held_api", [Api.ADD_PARTITIONS_TO_TXN, Api.PRODUCE, Api.END_TXN], ids=lambda api: api.name)
def test_a_late_copy_of_an_abort_does_not_end_the_next_transaction(
    private_broker: PrivateBroker, stream: Delivering, topics: tuple[str, str], truth: ClientConfigs, held_api: Api
) -> None:
    proxy = private_broker.proxy
    stream.confirms = True
    with proxy.intercepting(Api.PRODUCE, Way.TO_BROKER, Action.CUT) as cut:
        wait_until(lambda: cut.hits, HITS_S, "a transaction in which a connection breaks")
    # The library connects again after 100 ms at the earliest; then the transaction is aborted.
    with proxy.intercepting(Api.END_TXN, Way.TO_BROKER, Action.STRAY, delay_s=1.5) as stray:
        wait_until(lambda: stray.hits, HITS_S, "an abort whose connection breaks")
        aborted = stream.attempts
        wait_until(lambda: stream.attempts > aborted, HITS_S, "the next transaction")
        with proxy.intercepting(held_api, Way.TO_BROKER, Action.DELAY, delay_s=3.0) as held:
            wait_until(lambda: stray.delivered, HITS_S, "the late copy's answer")
            wait_until(lambda: held.delivered, HITS_S, "the next transaction to go on")
    stream.goes_on()
    assert stream.finish() == values(truth, topics[1])


WAYS = {
    "latency": Conditions(latency_s=0.2),
    "bandwidth": Conditions(bytes_per_s=20_000),
    "refused": Conditions(refuses=True),
    "black_hole": Conditions(swallowed=BOTH),
    "half_black_hole": Conditions(swallowed=frozenset({Way.TO_CLIENT})),
    "held": Conditions(held=frozenset({Way.TO_BROKER})),
}


@pytest.mark.parametrize("conditions", [WAYS["latency"], WAYS["bandwidth"]], ids=["latency_200_ms", "bandwidth"])
def test_a_bad_line_slows_transactions_down_and_stops_none(
    private_broker: PrivateBroker,
    stream: Delivering,
    truth: ClientConfigs,
    topics: tuple[str, str],
    conditions: Conditions,
) -> None:
    with private_broker.proxy.under(conditions):
        stream.goes_on(1)
        attempts = stream.attempts
        stream.goes_on(1)
        assert stream.attempts - attempts <= 2, "transactions failed"
    assert stream.finish() == values(truth, topics[1])


@pytest.mark.parametrize(
    ("kind", "lasts_s"),
    [
        ("refused", 1.0),
        ("black_hole", 1.0),
        ("half_black_hole", TRANSACTION_TIMEOUT_S + 1.0),
        ("held", TRANSACTION_TIMEOUT_S + 1.0),
    ],
)
def test_a_line_that_is_dead_for_some_seconds(
    private_broker: PrivateBroker,
    stream: Delivering,
    truth: ClientConfigs,
    topics: tuple[str, str],
    kind: str,
    lasts_s: float,
) -> None:
    over = threading.Event()
    threading.Timer(lasts_s, over.set).start()
    with private_broker.proxy.under(WAYS[kind]):
        if kind == "refused":
            private_broker.proxy.cut()
        assert over.wait(HITS_S)
    stream.goes_on()
    assert stream.finish() == values(truth, topics[1])


def test_connections_that_break_again_and_again_in_the_middle(
    private_broker: PrivateBroker, stream: Delivering, truth: ClientConfigs, topics: tuple[str, str]
) -> None:
    for carried in (3000, 1900, 1100, 700):
        with private_broker.proxy.under(Conditions(cut_after_bytes=carried)):
            before = private_broker.proxy.accepted
            wait_until(lambda before=before: private_broker.proxy.accepted >= before + 3, HITS_S, "cuts")  # type: ignore[misc]
        stream.goes_on(1)
    private_broker.proxy.half_open()
    stream.goes_on()
    assert stream.finish() == values(truth, topics[1])


def test_broker_frozen_in_a_transaction_for_longer_than_its_timeout(
    private_broker: PrivateBroker, stream: Delivering, truth: ClientConfigs, topics: tuple[str, str]
) -> None:
    over = threading.Event()
    with private_broker.proxy.intercepting(
        Api.END_TXN, Way.TO_BROKER, Action.NOTICE, then=private_broker.freeze
    ) as frozen:
        wait_until(lambda: frozen.hits, HITS_S, "a commit")
        threading.Timer(TRANSACTION_TIMEOUT_S + 2, over.set).start()
        assert over.wait(HITS_S)
        private_broker.thaw()
    stream.goes_on()
    assert stream.finish() == values(truth, topics[1])


def test_broker_killed_at_a_commit_and_started_again_is_told_to_the_user(
    private_broker: PrivateBroker, stream: Delivering, truth: ClientConfigs, topics: tuple[str, str]
) -> None:
    with private_broker.proxy.intercepting(
        Api.END_TXN, Way.TO_BROKER, Action.NOTICE, then=private_broker.kill
    ) as killed:
        wait_until(lambda: killed.hits, HITS_S, "the moment")
    private_broker.recover()
    stream.goes_on()
    assert any(stream.heard), "nobody was told"
    assert stream.heard[-1] == "", "nobody was told that it is over"
    assert stream.finish() == values(truth, topics[1])


def test_quota_on_what_is_written_slows_transactions_down_and_stops_none(
    private_broker: PrivateBroker, stream: Delivering, truth: ClientConfigs, topics: tuple[str, str]
) -> None:
    private_broker.limit_rate("ray_reproducer", producer_byte_rate=300.0)
    try:
        stream.goes_on(3)
    finally:
        private_broker.limit_rate("ray_reproducer", producer_byte_rate=None)
    stream.goes_on()
    assert stream.finish() == values(truth, topics[1])


def test_the_older_of_two_instances_is_fenced_while_it_works(
    clients: ClientConfigs, name: str, stream: Delivering, truth: ClientConfigs, topics: tuple[str, str]
) -> None:
    second = TransactionalDelivery(clients, name, topics[0], (0,), f"ray_reproducer.{name}", ignore)
    known = second.start()
    second.close()
    error = stream.ends()
    assert isinstance(error, FencedError)
    assert values(truth, topics[1]) == expected(known[0].offset)


def test_a_topic_of_results_that_is_deleted_is_awaited(
    private_broker: PrivateBroker, stream: Delivering, truth: ClientConfigs, topics: tuple[str, str]
) -> None:
    private_broker.delete_topic(topics[1])
    wait_until(lambda: any("did not take the records" in text for text in stream.heard), HITS_S, "it to be said")
    before = stream.committed
    private_broker.make_topic(topics[1], 2)
    stream.goes_on()
    assert stream.finish()
    assert len(values(truth, topics[1])) == stream.committed - before
