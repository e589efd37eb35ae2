"""An OpenMSIStream configuration file becomes one for Hydra: same settings of the clients, secrets stay outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from ray_reproducer.config import checked, pipeline_settings
from ray_reproducer.config_schema import MAIN_CONFIG, AppConfig
from ray_reproducer.convert_config import convert, main
from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.extractor_loading import LoadedExtractor
from ray_reproducer.hydra_command import compose
from ray_reproducer.openmsistream_config import read_config

OLD = """\
[broker]
bootstrap.servers = $LAB_SERVERS
sasl.mechanism = PLAIN
sasl.username = 100% ${me}
sasl.password = hush${x}
ssl.ca.location = ${LAB_CERTS}/ca.pem
[consumer]
group.id = lab
auto.offset.reset = smallest
fetch.min.bytes = 5
enable.auto.commit = True
key.deserializer = StringDeserializer
[producer]
linger.ms = 7
sasl.password = $LAB_PRODUCER
value.serializer = StringSerializer
[heartbeat]
bootstrap.servers = other:9092
sasl.password = hush hush
[log]
linger.ms = 100
"""


@pytest.fixture(name="old")
def _old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_SERVERS", "host:9092")
    monkeypatch.setenv("LAB_CERTS", "/certs")
    monkeypatch.setenv("LAB_PRODUCER", "of the producer")
    path = tmp_path / "old.config"
    path.write_text(OLD, encoding="utf-8")
    return path


def test_the_program_gets_the_same_client_settings_from_the_new_file(
    old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = old.parent / "conf" / "kafka"
    assert main(["old.config", "--output", "conf/kafka/lab.yaml"]) == 0, "in a fresh directory, as the README says"
    out, err = capsys.readouterr()
    written = (conf / "lab.yaml").read_text(encoding="utf-8")
    assert "hush" not in written + out + err
    assert "kafka=lab" in written
    assert (
        "sasl.password of [broker] is a secret, which the new file doesn't have: put it into KAFKA_SASL_PASSWORD" in err
    )
    assert "enable.auto.commit = True" in err
    assert "group.id = lab is not taken over" in err
    assert "sasl.password of [heartbeat] is a secret" in err
    assert "The section [heartbeat] is used when a topic is named: heartbeat.topic=NAME" in err

    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hush${x}")
    monkeypatch.setenv("KAFKA_HEARTBEAT_SASL_PASSWORD", "hush hush")
    overrides = ["kafka=lab", "+extractor=file_info", "topics.source=raw", "topics.results=metadata"]
    plain = checked(compose(MAIN_CONFIG, AppConfig, overrides), AppConfig)
    made = pipeline_settings(plain, LoadedExtractor("x", b"", (), None))
    expected = read_config(old)
    assert made.start == expected.start == "earliest"
    assert made.clients.for_consumer() == expected.clients.for_consumer()
    assert made.clients.for_producer() == expected.clients.for_producer()
    assert made.clients.for_admin() == expected.clients.for_admin()
    resolved = OmegaConf.to_container(compose(MAIN_CONFIG, AppConfig, overrides), resolve=True)
    assert isinstance(resolved, dict)
    other = {"bootstrap": {"servers": "other:9092"}, "sasl": {"password": "hush hush"}}
    assert resolved["heartbeat"]["kafka"] == other
    assert resolved["log"]["kafka"] == {**resolved["kafka"], "linger": {"ms": "100"}}, "it stands alone"
    # And a setting of it is changed as any other.
    changed = compose(MAIN_CONFIG, AppConfig, [*overrides, "kafka.bootstrap.servers=second:1"])
    assert changed.kafka.bootstrap.servers == "second:1"


SET = {"A": "a", "B": "${A}\\", "AB": "$A", "1": "one", "null": "nothing", "{A": "brace", "A-B": "x y", "A\\": ""}
"""What the environment holds: also names that mean something to OmegaConf, and values that look like variables."""


@pytest.fixture(name="directory", scope="module")
def _directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("values")


PIECES = ["$", "${", "{", "}", "\\", "/", "'", '"', ":", ",", " ", *SET]


@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
@example(r"$A\$B")
@example("$A/${B")
@example("${{A}")
@example(r"\${A}")
@example("$UNSET")
@example("${A\\}${A'}")
def test_rule_1_any_value_means_the_same_as_before(directory: Path, value: str) -> None:
    old = directory / "any.config"
    old.write_text(f"[broker]\nbootstrap.servers = host:9092\nsasl.username = {value}\n", encoding="utf-8")
    with mock.patch.dict(os.environ, SET):
        try:
            expected = read_config(old).clients.common["sasl.username"]
        except ConfigurationError as error:
            assert "which is not set" in error.message
            expected = None
        converted = OmegaConf.create(convert(old, "any")[0])
        try:
            made = OmegaConf.select(converted, "kafka.sasl.username")
        except InterpolationResolutionError as error:
            assert "not found" in str(error)
            made = None
    assert made == expected


def test_without_an_output_it_is_printed(old: Path) -> None:
    old.write_text("[broker]\nbootstrap.servers = host:9092\n", encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "ray_reproducer.convert_config", "old"],
        cwd=old.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.startswith("# @package _global_\n")
    assert ended.stdout.endswith("kafka:\n  bootstrap:\n    servers: host:9092\nstart: latest\n")
    assert "a new group begins at the end of the topic" in ended.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[consumer]\nfetch.min.bytes = 5\n", "names no broker"),
        ("[broker]\nbootstrap.servers = h\n[kafkacrypto]\nnode_id = 1\n", "encrypted"),
        ("[broker]\nbootstrap.servers = h\n[producer]\nvalue.serializer = DoubleSerializer\n", "DoubleSerializer"),
    ],
)
def test_what_can_not_be_converted_is_said(old: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    old.write_text(text, encoding="utf-8")
    assert main([str(old)]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert not out


def test_nothing_is_overwritten(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = old.parent / "new.yaml"
    target.write_text("mine", encoding="utf-8")
    assert main([str(old), "--output", str(target)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert target.read_text(encoding="utf-8") == "mine"


def test_what_can_not_be_written_is_said(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old.parent / "file").touch()
    for directory in ("file", "file/below"):
        assert main([str(old), "--output", str(old.parent / directory / "new.yaml")]) == 2
        assert re.search("The directory .*/file.* can't be made", capsys.readouterr().err)
    long = "n" * 300 + ".yaml"
    assert main([str(old), "--output", str(old.parent / long)]) == 2
    assert "can't be written: File name too long" in capsys.readouterr().err


def test_a_file_that_can_not_be_converted_leaves_no_directory(old: Path) -> None:
    old.write_text("[broker]\n", encoding="utf-8")
    assert main([str(old), "--output", str(old.parent / "conf" / "new.yaml")]) == 2
    assert not (old.parent / "conf").exists()
