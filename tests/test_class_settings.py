"""From an instance to the settings of a run: its own arguments, its configuration file, and overrides over both."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ray_reproducer import ConfigurationError, DataFile, MetadataJSONReproducer
from ray_reproducer.class_settings import class_run
from ray_reproducer.openmsistream_config import read_config

CONFIG = """\
[broker]
bootstrap.servers = host:9092
sasl.password = hush

[consumer]
group.id = theirs
auto.offset.reset = latest
fetch.min.bytes = 5
"""


class Plain(MetadataJSONReproducer):
    def _get_metadata_dict_for_file(self, datafile: DataFile) -> Mapping[str, Any]:
        return {"name": datafile.filename, "topic": self.consumer_topic_name}


class FakeFile:
    filename = "f.csv"


@pytest.fixture(name="config")
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "test.config"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_an_instance_becomes_settings(config: Path, tmp_path: Path) -> None:
    plain = Plain(config, "raw", "metadata", mode="disk", n_consumer_threads=3, filepath_regex=re.compile("a/"))
    run = class_run(plain)
    made = run.pipeline
    assert (made.source_topic, made.results_topic, made.dead_letters_topic) == (
        "raw",
        "metadata",
        "metadata.dead_letters",
    )
    assert (made.delivery, made.run_mode, made.start) == ("exactly_once", "stream", "latest")
    assert (made.datafile_mode, made.consumers, made.filepath_regex) == ("disk", 3, "a/")
    assert made.output_dir == str(tmp_path / "Plain_output")
    assert made.extractor_name == "Plain"
    assert pickle.loads(made.extractor)(FakeFile()) == {"name": "f.csv", "topic": "raw"}
    assert made.clients.for_consumer() == read_config(config).clients.for_consumer()
    assert made.clients.for_producer() == read_config(config).clients.for_producer()
    assert (run.ray.mode, run.print_results) == ("local", False)
    assert [note.partition(" is not used")[0] for note in run.notes] == ["group.id = theirs of the configuration file"]
    assert "hush" not in repr(run)


def test_create_new_is_a_new_group_for_each_run(config: Path) -> None:
    plain = Plain(config, "raw", "metadata")
    assert class_run(plain).pipeline.group_id != class_run(plain).pipeline.group_id
    named = class_run(Plain(config, "raw", "metadata", consumer_group_id="lab"))
    assert (named.pipeline.group_id, named.notes) == ("lab", ())


def test_an_override_beats_the_instance_and_the_file(config: Path) -> None:
    overrides = ["run=drain", "topics.results=other", "start=earliest", "extraction.timeout=60", "consumers=0"]
    overrides += ["kafka.bootstrap.servers=second:9092", "consumer.fetch.min.bytes=7", "producer.linger.ms=3"]
    made = class_run(Plain(config, "raw", "metadata", overrides=overrides)).pipeline
    assert (made.run_mode, made.results_topic, made.dead_letters_topic) == ("drain", "other", "other.dead_letters")
    assert (made.start, made.extraction.timeout_s, made.consumers) == ("earliest", 60, 0)
    consumer = made.clients.for_consumer()
    assert (consumer["bootstrap.servers"], consumer["fetch.min.bytes"]) == ("second:9092", 7)
    producer = made.clients.for_producer()
    assert (producer["bootstrap.servers"], producer["linger.ms"]) == ("second:9092", 3)
    assert producer["sasl.password"] == "hush", "a configuration file may hold secrets, as it always could"


def test_a_ray_address_means_a_cluster(config: Path) -> None:
    made = class_run(Plain(config, "raw", "metadata", ray_address="ray://head:10001", overrides=["ray.runtime_env={}"]))
    assert (made.ray.mode, made.ray.address) == ("cluster", "ray://head:10001")


def test_no_file_is_needed_if_an_override_names_the_broker(config: Path) -> None:
    made = class_run(Plain(None, "raw", "metadata", overrides=["kafka.bootstrap.servers=h:1"])).pipeline
    assert (made.clients.servers, made.start) == ("h:1", "earliest")
    embedded = ["kafka=embedded", f"upload.path={config.parent}"]
    assert class_run(Plain(config, "raw", "metadata", overrides=embedded)).pipeline.embedded
    with pytest.raises(ConfigurationError, match="No configuration file is named, and no broker"):
        class_run(Plain(None, "raw", "metadata"))


@pytest.mark.parametrize("path", ["A/x", "b/x", "a/${oc.env:HOME}", "a/$x", "${topics.source}"])
def test_an_expression_means_the_same_there(config: Path, path: str) -> None:
    for regex in (re.compile("a/", re.IGNORECASE), re.compile(r"a/\$\{oc"), re.compile(r"(.)/\${2}?x|\${"), "^a # $"):
        made = class_run(Plain(config, "raw", "metadata", filepath_regex=regex)).pipeline
        assert made.filepath_regex is not None
        assert bool(re.match(made.filepath_regex, path)) == bool(re.match(regex, path))


def test_names_that_look_like_interpolations_are_what_they_are(config: Path) -> None:
    made = class_run(Plain(config, "raw", "metadata", output_dir="/out/${topics.source}", consumer_group_id="g${x}"))
    assert (made.pipeline.output_dir, made.pipeline.group_id) == ("/out/${topics.source}", "g${x}")


def test_what_is_told_beside_the_screen(config: Path, tmp_path: Path) -> None:
    config.write_text(f"{CONFIG}[heartbeat]\nbootstrap.servers = other:9092\n", encoding="utf-8")
    plain = Plain(
        config, "raw", "metadata", update_secs=-1, heartbeat_topic_name="beats", logger_file=tmp_path / "logs" / "x.log"
    )
    views = class_run(plain).views
    assert views.logs_dir == str(tmp_path / "Plain_output" / "LOGS")
    assert (views.program_name, views.log_file_path) == ("Plain", str(tmp_path / "logs" / "x.log"))
    assert (views.log_stream_level, views.log_file_level, views.update_s) == (logging.INFO, logging.WARNING, None)
    assert (views.heartbeat_topic, views.heartbeat_interval_s, views.log_topic) == ("beats", 900, None)
    assert views.heartbeat_clients is not None
    assert views.heartbeat_clients.servers == "other:9092"
    default = class_run(Plain(config, "raw", "metadata")).views
    assert (default.log_file_path, default.console) == (None, "terminal_or_pipe")
    assert (default.update_s, default.heartbeat_clients) == (300, None)


def test_an_override_beats_what_the_instance_says_of_views(config: Path) -> None:
    overrides = [
        "heartbeat.topic=beats",
        "log.interval=5",
        "logs_dir=/elsewhere",
        "heartbeat.kafka.bootstrap.servers=x:1",
    ]
    views = class_run(Plain(config, "raw", "metadata", log_topic_name="lines", overrides=overrides)).views
    assert (views.heartbeat_topic, views.log_topic, views.log_interval_s) == ("beats", "lines", 5)
    assert views.logs_dir == "/elsewhere"
    assert views.heartbeat_clients is not None
    assert views.heartbeat_clients.servers == "x:1"


def test_a_hydra_application_may_run_a_class(config: Path) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    (config.parent / "theirs").mkdir()
    (config.parent / "theirs" / "main.yaml").write_text("a: 1\n", encoding="utf-8")
    with initialize_config_dir(str(config.parent / "theirs"), version_base=None):
        class_run(Plain(config, "raw", "metadata"))
        assert compose("main").a == 1
    assert not GlobalHydra.instance().is_initialized()
