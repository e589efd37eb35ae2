"""Settings of clients: names, precedence, guarantees, secrets, mistakes."""

from __future__ import annotations

import pickle

import pytest

from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.kafka.client_config import ClientConfigs, Value, flatten, redact
from ray_reproducer.kafka.properties import closest, is_secret

SERVERS = {"bootstrap.servers": "localhost:9092"}


def test_nested_dotted_and_alias_spellings_are_one() -> None:
    assert flatten({"ssl": {"ca": {"location": "/ca"}}, "ssl.key.location": "/key"}) == {
        "ssl.ca.location": "/ca",
        "ssl.key.location": "/key",
    }
    assert flatten({"metadata.broker.list": "a:1"}) == {"bootstrap.servers": "a:1"}


def test_a_list_is_joined_and_none_takes_a_setting_away() -> None:
    assert flatten({"bootstrap": {"servers": ["a:1", "b:2"]}, "client.id": None}) == {"bootstrap.servers": "a:1,b:2"}


def test_two_values_for_one_setting_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"bootstrap\.servers is given twice"):
        flatten({"bootstrap": {"servers": "a:1"}, "bootstrap.servers": "b:1"})
    assert flatten({"linger": {"ms": 5}, "queue.buffering.max.ms": "5"})["linger.ms"] in (5, "5")


def test_a_value_that_is_no_setting_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"linger\.ms is bytes"):
        flatten({"linger.ms": b"5"})


def test_rule_2_the_users_value_beats_our_default() -> None:
    clients = ClientConfigs.from_settings({**SERVERS, "client.id": "mine"}, {"fetch.wait.max.ms": 7}, {"linger.ms": 9})
    ours: dict[str, Value] = {"fetch.wait.max.ms": 100, "group.id": "g"}
    consumer = clients.for_consumer(**ours)
    assert (consumer["client.id"], consumer["fetch.wait.max.ms"], consumer["group.id"]) == ("mine", 7, "g")
    assert clients.for_producer(**{"linger.ms": 0})["linger.ms"] == 9
    assert "linger.ms" not in consumer


def test_the_setting_for_one_kind_of_client_beats_the_common_one() -> None:
    clients = ClientConfigs.from_settings({**SERVERS, "client.id": "all"}, producer={"client.id": "writer"})
    assert clients.for_producer()["client.id"] == "writer"
    assert clients.for_consumer()["client.id"] == "all"


def test_a_common_setting_of_the_other_kind_is_left_out() -> None:
    clients = ClientConfigs.from_settings({**SERVERS, "fetch.min.bytes": 10, "batch.size": 1000})
    assert "fetch.min.bytes" not in clients.for_producer()
    assert "batch.size" not in clients.for_consumer()
    assert not {"fetch.min.bytes", "batch.size"} & clients.for_admin().keys()


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("enable.auto.commit", True, "never by a timer"),
        ("auto.commit.enable", True, "never by a timer"),
        ("isolation.level", "read_uncommitted", "aborted"),
        ("auto.offset.reset", "latest", "`start`"),
        ("group.id", "mine", "`group_id`"),
        ("acks", 1, "replicas"),
        ("request.required.acks", "0", "replicas"),
        ("enable.idempotence", "false", "twice"),
        ("transactional.id", "mine", "fences"),
    ],
)
def test_rule_2_what_a_guarantee_needs_cannot_be_changed(setting: str, value: object, reason: str) -> None:
    clients = ClientConfigs.from_settings({**SERVERS, setting: value})
    with pytest.raises(ConfigurationError, match=reason) as error:
        clients.check()
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "settings",
    [{"enable.auto.commit": "False"}, {"acks": "-1"}, {"acks": "all"}, {"isolation.level": "read_committed"}],
)
def test_a_guarantee_may_be_spelled_out(settings: dict[str, str]) -> None:
    ClientConfigs.from_settings({**SERVERS, **settings}).check()


def test_a_guarantee_that_is_spelled_out_is_ours_to_leave_where_another_value_is_needed() -> None:
    spelled = {"isolation.level": "read_committed", "auto.offset.reset": "error", "enable.partition.eof": True}
    clients = ClientConfigs.from_settings({**SERVERS, **spelled, "fetch.wait.max.ms": 7})
    ours: dict[str, Value] = {"isolation.level": "read_uncommitted", "fetch.wait.max.ms": 100}
    config = clients.for_consumer(**ours, **{"auto.offset.reset": "earliest"})
    assert config["isolation.level"] == "read_uncommitted"
    assert config["auto.offset.reset"] == "earliest"
    assert config["fetch.wait.max.ms"] == 7
    assert clients.for_consumer()["isolation.level"] == "read_committed"


def test_rule_3_secrets_are_not_shown() -> None:
    clients = ClientConfigs.from_settings(
        {**SERVERS, "sasl.password": "hush", "ssl.key.pem": "hush", "sasl.username": "me"}
    )
    assert "hush" not in repr(clients)
    assert "'sasl.username': 'me'" in repr(clients)
    assert redact({"sasl.password": "hush", "client.id": "x"}) == {"sasl.password": "***", "client.id": "x"}


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("sasl.password", True),
        ("ssl.key.password", True),
        ("ssl.keystore.password", True),
        ("sasl.oauthbearer.client.secret", True),
        ("sasl.oauthbearer.assertion.private.key.passphrase", True),
        ("ssl.key.pem", True),
        ("ssl.ca.pem", False),
        ("ssl.certificate.pem", False),
        ("sasl.oauthbearer.token.endpoint.url", False),
        ("ssl.key.location", False),
    ],
)
def test_which_settings_are_secret(name: str, *, secret: bool) -> None:
    assert is_secret(name) is secret


def test_rule_4_a_mistyped_name_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"no Kafka client setting fetch\.mn\.bytes") as error:
        ClientConfigs.from_settings({**SERVERS, "fetch.mn.bytes": 1}).check()
    assert "fetch.min.bytes" in error.value.hint
    assert closest("xyzzy") == ""


def test_rule_4_also_for_the_servers_themselves() -> None:
    with pytest.raises(ConfigurationError, match=r"bootsrap\.servers") as error:
        ClientConfigs.from_settings({"bootsrap.servers": "a:1"}).check()
    assert "bootstrap.servers" in error.value.hint


def test_no_servers() -> None:
    with pytest.raises(ConfigurationError, match=r"bootstrap\.servers is empty"):
        ClientConfigs.from_settings({}).for_admin()


def test_a_value_out_of_range() -> None:
    with pytest.raises(ConfigurationError, match="allowed range"):
        ClientConfigs.from_settings(SERVERS, producer={"linger.ms": -3}).check()


def test_settings_travel_between_processes() -> None:
    clients = ClientConfigs.from_settings(SERVERS, {"check.crcs": True})
    assert pickle.loads(pickle.dumps(clients)) == clients
