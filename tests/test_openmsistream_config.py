"""OpenMSIStream's configuration files: read as its programs read them, refused by name where that is not possible."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ray_reproducer import ConfigurationError
from ray_reproducer.openmsistream_config import OpenMSIStreamConfig, read_config

CONFIG = """\
[broker]
bootstrap.servers = host:9092

[consumer]
auto.offset.reset = earliest
"""


@pytest.fixture(name="config")
def _config(tmp_path: Path) -> Path:
    return tmp_path / "test.config"


def read(config: Path, text: str, *beside: str) -> OpenMSIStreamConfig:
    config.write_text(text, encoding="utf-8")
    return read_config(config, beside)


def test_a_configuration_file_is_read_as_openmsistream_does(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_PASSWORD", "$pa%%ss$hush")
    monkeypatch.setenv("LAB_DIR", "/keys")
    made = read(
        config,
        "[broker]\nBootstrap.Servers = host:9092\nsasl.password = $LAB_PASSWORD\nssl.key.location = ${LAB_DIR}/k\n"
        "sasl.username = 100%\nclient.id = a%%b\n"
        "[consumer]\ngroup.id = lab\nauto.offset.reset = smallest\nenable.auto.commit = False\nfetch.min.bytes = 5\n"
        "key.deserializer = StringDeserializer\nvalue.deserializer = DataFileChunkDeserializer\n"
        "[producer]\nlinger.ms = 7\nkey.serializer = StringSerializer\nvalue.serializer = StringSerializer\n"
        "[heartbeat]\nbootstrap.servers = $NOT_SET_BUT_NOT_READ\n",
    )
    assert (made.group_id, made.start, made.notes) == ("lab", "earliest", ())
    assert made.clients.common == {
        "bootstrap.servers": "host:9092",
        "sasl.password": "$pa%%ss$hush",
        "ssl.key.location": "/keys/k",
        "sasl.username": "100%",
        "client.id": "a%b",
    }
    assert made.clients.consumer["fetch.min.bytes"] == "5"
    assert made.clients.producer["linger.ms"] == "7"
    names = {*made.clients.common, *made.clients.consumer, *made.clients.producer}
    assert not {"group.id", "auto.offset.reset", "enable.auto.commit"} & names
    assert not {name for name in names if "serializer" in name}
    assert "hush" not in repr(made)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [(r"$A\$A", r"a\a"), ("$A/${B", "a/${B"), ("${B$A", "${Ba"), ("${{A}", "brace"), ("x$A", "x$A")],
)
def test_rule_2_a_value_that_begins_with_a_dollar_has_its_variables_replaced(
    config: Path, monkeypatch: pytest.MonkeyPatch, value: str, meaning: str
) -> None:
    monkeypatch.setenv("A", "a")
    monkeypatch.setenv("{A", "brace")
    assert read(config, f"{CONFIG}client.id = {value}\n").clients.consumer["client.id"] == meaning


def test_what_a_configuration_file_can_not_have(config: Path) -> None:
    with pytest.raises(ConfigurationError, match="SURELY_NOT_SET, which is not set"):
        read(config, "[broker]\nbootstrap.servers = $SURELY_NOT_SET\n")
    with pytest.raises(ConfigurationError, match="names no broker"):
        read(config, "[consumer]\ngroup.id = lab\n")
    with pytest.raises(ConfigurationError, match="kafkacrypto"):
        read(config, f"{CONFIG}[kafkacrypto]\nnode_id = 1\n")
    with pytest.raises(ConfigurationError, match="no configuration file"):
        read(config, "bootstrap.servers = x\n")
    with pytest.raises(ConfigurationError, match=r"value\.deserializer = DoubleDeserializer"):
        read(config, f"{CONFIG}value.deserializer = DoubleDeserializer\n")
    with pytest.raises(ConfigurationError, match=r"auto\.offset\.reset = yesterday"):
        read(config, CONFIG.replace("earliest", "yesterday"))
    with pytest.raises(ConfigurationError, match="can't be read"):
        read_config(config.parent)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sasl.password = hush\n[broker]\n", "line 1 stands before any [section]"),
        ("[broker]\na = 1\nsasl.password hush\nhush\n", "no key = value in line 3, 4"),
        ("[broker]\n[broker]\nsasl.password = hush\n", "[broker] comes for the second time in line 2"),
        (
            "[broker]\nsasl.password = hush\nsasl.password = hush\n",
            "sasl.password comes for the second time in [broker], in line 3",
        ),
    ],
)
def test_what_is_no_configuration_file_is_told_by_its_lines_not_by_what_they_hold(
    config: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)) as caught:
        read(config, text)
    assert "hush" not in str(caught.value)
    assert caught.value.__suppress_context__, "nor by a traceback"


def test_what_is_not_used_is_said(config: Path) -> None:
    made = read(
        config, "[broker]\nbootstrap.servers = h\n[consumer]\nauto.offset.reset = none\nenable.auto.commit = True\n"
    )
    assert made.start == "latest"
    assert len(made.notes) == 2
    assert "begins at the end of the topic" in made.notes[0]
    assert "enable.auto.commit = True" in made.notes[1]


def test_heartbeats_and_log_messages_may_have_a_broker_of_their_own(config: Path) -> None:
    text = """\
[broker]
bootstrap.servers = host:9092
sasl.password = hush
[heartbeat]
bootstrap.servers = other:9092
value.serializer = StringSerializer
[log]
linger.ms = 5
"""
    made = read(config, text, "heartbeat", "log")
    assert made.heartbeat is not None
    assert made.heartbeat.common == {"bootstrap.servers": "other:9092"}, "nobody's password goes to another broker"
    assert made.log is not None
    assert made.log.common == {"bootstrap.servers": "host:9092", "sasl.password": "hush", "linger.ms": "5"}
    made = read(config, text)
    assert (made.heartbeat, made.log) == (None, None)


def test_an_encrypted_topic_is_refused_before_its_variables_are_looked_for(config: Path) -> None:
    with pytest.raises(ConfigurationError, match="encrypted") as refused:
        read(config, f"{CONFIG}[kafkacrypto]\nnode_id = $SURELY_NOT_SET\n")
    assert "key topics" in refused.value.hint
