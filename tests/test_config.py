"""The settings: every key typed and described, nothing mistyped, nothing secret, nothing contradictory."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ray_reproducer import config_schema
from ray_reproducer.actors.settings import PipelineSettings
from ray_reproducer.config import (
    checked,
    pipeline_settings,
    ray_settings,
    run_arguments,
    upload_command,
    view_settings,
)
from ray_reproducer.config_checks import (
    closest,
    is_secret_key,
    known_keys,
    refuse_secrets_in_config,
    refuse_secrets_in_overrides,
)
from ray_reproducer.config_schema import (
    MAIN_CONFIG,
    REPLAY_CONFIG,
    UPLOAD_CONFIG,
    AppConfig,
    ReplayAppConfig,
    UploadAppConfig,
)
from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.extractor_loading import LoadedExtractor
from ray_reproducer.hydra_command import CONF_DIRECTORY

EXTRACTOR = LoadedExtractor(name="mine", pickled=b"pickle", sys_path=("/somewhere",), module_file=None)
BROKER = ["kafka.bootstrap.servers=host:9092", "topics.source=raw", "topics.results=metadata"]
Compose = Callable[..., DictConfig]


@pytest.fixture(name="composed")
def _composed() -> Compose:
    def compose_config(*overrides: str, config_name: str = MAIN_CONFIG) -> DictConfig:
        return deepcopy(compose_once(config_name, overrides))

    return compose_config


@cache
def compose_once(config_name: str, overrides: tuple[str, ...]) -> DictConfig:
    config_schema.register()
    with initialize_config_dir(str(CONF_DIRECTORY), version_base="1.3"):
        return compose(config_name, overrides=list(overrides))


def yaml_value(text: str) -> object:
    return OmegaConf.create(f"value: {text}").value if "${" not in text else text


def plain(composed: Compose, *overrides: str) -> dict[str, Any]:
    return checked(composed("+extractor=file_info", *overrides), AppConfig)


def settings(composed: Compose, *overrides: str) -> PipelineSettings:
    return pipeline_settings(plain(composed, *overrides), EXTRACTOR)


def test_the_defaults_make_settings(composed: Compose) -> None:
    made = settings(composed, *BROKER)
    assert made.source_topic == "raw"
    assert made.results_topic == "metadata"
    assert made.dead_letters_topic == "metadata.dead_letters"
    assert made.group_id == "ray_reproducer.raw.mine"
    assert made.clients.servers == "host:9092"
    assert made.delivery == "exactly_once"
    assert made.run_mode == "stream"
    assert made.start == "earliest"
    assert made.datafile_mode == "memory"
    assert made.extraction.timeout_s is None
    assert made.extraction.num_cpus == 1.0
    assert made.upload is None
    assert not made.embedded
    assert not made.collect_outcomes
    assert made.sys_path == ("/somewhere",)
    assert made.output_dir == str(Path("mine_output").absolute())


def test_every_setting_arrives(composed: Compose, tmp_path: Path) -> None:
    made = settings(
        composed,
        *BROKER,
        "topics.dead_letters=bad",
        "topics.create=false",
        "group_id=mine",
        "run=drain",
        "run.print_results=true",
        "start=latest",
        "delivery=at_least_once",
        "consumers=3",
        "filepath_regex=a/.*",
        f"output_dir={tmp_path}",
        "commit_interval=2",
        "busy_commit_interval=3",
        "shutdown_timeout=7",
        "extraction.timeout=5",
        "extraction.max_crashes=4",
        "extraction.num_cpus=0.5",
        "extraction.datafile=both",
        "extraction.batch_seconds=1",
        "extraction.max_batch_files=9",
        f"upload.path={tmp_path}",
        "upload.chunk_size=1000",
        "upload.filepath_regex=b",
    )
    assert (made.dead_letters_topic, made.create_topics, made.group_id) == ("bad", False, "mine")
    assert (made.run_mode, made.collect_outcomes, made.start) == ("drain", True, "latest")
    assert (made.delivery, made.consumers, made.filepath_regex) == ("at_least_once", 3, "a/.*")
    assert (made.output_dir, made.shutdown_timeout_s) == (str(tmp_path), 7.0)
    assert (made.commit_interval_s, made.busy_commit_interval_s) == (2.0, 3.0)
    assert (made.extraction.timeout_s, made.extraction.max_crashes, made.extraction.num_cpus) == (5.0, 4, 0.5)
    assert (made.datafile_mode, made.extraction.batch_seconds, made.extraction.max_batch_files) == ("both", 1.0, 9)
    assert made.upload is not None
    assert (made.upload.path, made.upload.chunk_size_bytes, made.upload.filepath_regex) == (str(tmp_path), 1000, "b")


def test_kafka_takes_any_name_nested_or_dotted_and_for_one_kind_of_client(composed: Compose) -> None:
    made = settings(
        composed,
        *BROKER,
        "kafka.security.protocol=PLAINTEXT",
        "consumer.fetch.min.bytes=5",
        "+consumer={client.rack: a}",
        "producer.linger.ms=7",
    )
    assert made.clients.common["security.protocol"] == "PLAINTEXT"
    assert made.clients.consumer == {"fetch.min.bytes": 5, "client.rack": "a"}
    assert made.clients.producer == {"linger.ms": 7}


def test_the_embedded_broker_needs_no_topics_and_no_transactions(composed: Compose, tmp_path: Path) -> None:
    made = settings(composed, "kafka=embedded", f"upload.path={tmp_path}", "run=drain")
    assert made.embedded
    assert made.delivery == "at_least_once"
    assert "embedded" not in made.clients.common


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["topics.source=raw"], "topics.results must be given"),
        ([], "topics.source and topics.results must be given"),
        (["topics.source=raw", "topics.results=b"], "No Kafka broker"),
        ([*BROKER, "topics.results=raw"], "three different topics"),
        ([*BROKER, "extraction.timeout=0"], "extraction.timeout=0.0 is too small"),
        ([*BROKER, "extraction.timeout=nan"], "extraction.timeout=nan is too small"),
        ([*BROKER, "consumers=-1"], "consumers=-1 is too small"),
        ([*BROKER, "filepath_regex='('"], "no regular expression"),
        ([*BROKER, "upload.path=/nowhere/at/all"], "doesn't exist"),
        ([*BROKER, "upload.path=/etc/hostname"], "is no directory"),
        ([*BROKER, "upload.path=/etc", "upload.chunk_size=0"], "upload.chunk_size=0"),
        (["kafka=embedded"], "nothing to put on them"),
        (["kafka=embedded", "upload.path=/etc", "delivery=exactly_once"], "no transactions"),
        (["kafka=embedded", "upload.path=/etc", "kafka.bootstrap.servers=x"], "a broker of its own"),
        ([*BROKER, "kafka.sasl.username=${oc.env:SURELY_NOT_SET}"], "SURELY_NOT_SET, which is not set"),
        ([*BROKER, "+run.mod=drain"], "There is no key run.mod"),
        ([*BROKER, "+extraction.datafil=disk"], "There is no key extraction.datafil"),
    ],
)
def test_what_is_wrong_is_said_by_key(composed: Compose, overrides: list[str], message: str) -> None:
    config = composed("+extractor=file_info", *(override for override in overrides if override == "kafka=embedded"))
    for override in overrides:  # as Hydra does, which takes 20 times as long to compose each of these anew
        key, _, value = override.removeprefix("+").partition("=")
        if key != "kafka":
            OmegaConf.update(config, key, yaml_value(value), force_add=True)
    with pytest.raises(ConfigurationError, match=message) as caught:
        pipeline_settings(checked(config, AppConfig), EXTRACTOR)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("run.mod", "run.mode"),
        ("topic.source", "topics.source"),
        ("extraction.time_out", "extraction.timeout"),
        ("datafile", "extraction.datafile"),
        ("print_results", "run.print_results"),
        ("outputdir", "output_dir"),
        ("nothing.like.it", ""),
    ],
)
def test_a_mistyped_key_has_a_closest_one(typed: str, meant: str) -> None:
    assert closest(typed, known_keys(AppConfig)) == meant


@pytest.mark.parametrize(
    "key",
    [
        "kafka.sasl.password",
        "consumer.ssl.key.password",
        "producer.ssl.key.pem",
        "kafka.ssl.keystore.password",
        "kafka.sasl.oauthbearer.client.secret",
        "kafka.sasl.oauthbearer.config",
        "extractor.api_key",
        "extractor.db.password",
        "ray.runtime_env.env_vars.HF_TOKEN",
    ],
)
def test_secret_keys_are_known_and_refused_literally(key: str) -> None:
    assert is_secret_key(key)
    group, _, name = key.partition(".")
    inner: dict[str, Any] = {}
    OmegaConf.update(config := OmegaConf.create({group: inner}), key, "hunter2", force_add=True)
    overrides = [
        f"{key}=hunter2",
        f"++{key}='hunter2'",
        f"{group}={{{name}: hunter2}}",
        f"{key}=${{oc.env:NAME,hunter2}}",
    ]
    attempts = [partial(refuse_secrets_in_overrides, [override]) for override in overrides]
    for attempt in (*attempts, partial(refuse_secrets_in_config, config)):
        with pytest.raises(ConfigurationError, match="secret") as caught:
            attempt()
        assert "hunter2" not in str(caught.value)
        assert key in caught.value.message


@pytest.mark.parametrize(
    "key",
    ["kafka.sasl.username", "kafka.ssl.ca.pem", "kafka.ssl.key.location", "kafka.sasl.oauthbearer.token.endpoint.url"],
)
def test_what_only_looks_like_a_secret_is_none(key: str) -> None:
    refuse_secrets_in_overrides([f"{key}=something"])


def test_a_secret_comes_from_the_environment(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_PASSWORD", "hunter2")
    override = "kafka.sasl.password=${oc.env:THE_PASSWORD}"
    refuse_secrets_in_overrides([override, "kafka.sasl={password: ${oc.env:THE_PASSWORD}, mechanism: PLAIN}"])
    made = settings(composed, *BROKER, override)
    assert made.clients.common["sasl.password"] == "hunter2"
    assert "hunter2" not in repr(made)


def test_a_class_is_constructed_with_what_the_settings_say(composed: Compose) -> None:
    made = run_arguments(plain(composed, *BROKER, "extraction.datafile=disk", "output_dir=/data/out"), "mine")
    assert (made.source_topic, made.results_topic) == ("raw", "metadata")
    assert made.keywords["mode"] == "disk"
    assert made.keywords["output_dir"] == "/data/out"
    assert made.keywords["consumer_group_id"] == "ray_reproducer.raw.mine"


def test_a_start_that_skips_what_has_a_result_does_not_go_with_doing_it_again(composed: Compose) -> None:
    both = plain(composed, *BROKER, "start=skip_existing", "duplicates=reprocess")
    with pytest.raises(ConfigurationError, match="duplicates=reprocess does them again"):
        pipeline_settings(both, EXTRACTOR)


def test_ray_is_local_or_a_cluster(composed: Compose) -> None:
    local = ray_settings(plain(composed, *BROKER, "ray.num_cpus=2", "ray.object_store_memory=200000000"), {})
    assert (local.mode, local.num_cpus, local.object_store_memory_bytes) == ("local", 2, 200_000_000)
    env = {"working_dir": "/x"}
    cluster = ray_settings(plain(composed, *BROKER, "ray=cluster", "ray.address=head:6379"), env)
    assert (cluster.mode, cluster.address, cluster.runtime_env) == ("cluster", "head:6379", env)
    with pytest.raises(ConfigurationError, match=r"ray\.address is for ray=cluster"):
        ray_settings(plain(composed, *BROKER, "ray.address=head:6379"), {})
    with pytest.raises(ConfigurationError, match=r"ray\.num_cpus is for ray=local"):
        ray_settings(plain(composed, *BROKER, "ray=cluster", "ray.num_cpus=2"), {})


def test_the_uploader_has_settings_of_its_own(composed: Compose, tmp_path: Path) -> None:
    overrides = ["topics.source=raw", "kafka.bootstrap.servers=h:1", f"upload.path={tmp_path}"]
    made = upload_command(composed(*overrides, config_name=UPLOAD_CONFIG))
    assert (made.topic, made.path, made.chunk_size_bytes, made.create_topic) == ("raw", tmp_path, 524_288, True)
    with pytest.raises(ConfigurationError, match=r"upload\.path must be given"):
        upload_command(composed(*overrides[:2], config_name=UPLOAD_CONFIG))


@pytest.mark.parametrize(
    ("config_name", "schema"),
    [(MAIN_CONFIG, AppConfig), (UPLOAD_CONFIG, UploadAppConfig), (REPLAY_CONFIG, ReplayAppConfig)],
)
def test_every_key_is_described(composed: Compose, config_name: str, schema: type) -> None:
    """A comment stands above each key, in the primary configuration and in each option of each group."""
    files = [CONF_DIRECTORY / f"{config_name}.yaml"]
    files += [file for group in ("kafka", "run", "ray") for file in sorted((CONF_DIRECTORY / group).glob("*.yaml"))]
    described = set()
    for file in files:
        lines = file.read_text(encoding="utf-8").partition("# keys\n")
        above = ""
        for line in (lines[2] or lines[0]).splitlines():
            key, colon, _ = line.strip().partition(":")
            if colon and key.isidentifier() and "#" in above:
                described.add(key)
            above = line if not (colon and key in {"consumer", "upload", "topics"}) else above + line
    written = OmegaConf.to_container(composed(config_name=config_name), resolve=False)
    assert isinstance(written, dict)
    assert sorted(set(written) - set(known_keys(schema)) - {key.partition(".")[0] for key in known_keys(schema)}) == []
    keys = {key.rpartition(".")[2] for key in known_keys(schema)}
    assert keys - described - {"kafka", "extractor", "producer"} == set()


def test_no_key_of_the_contract_is_missing() -> None:
    contract = """
    topics.source topics.results topics.dead_letters group_id kafka consumer producer upload.path
    upload.chunk_size run.mode run.print_results consumers extraction.timeout extraction.max_crashes
    extraction.num_cpus extraction.datafile delivery filepath_regex output_dir ray.mode ray.address
    """
    assert set(contract.split()) <= set(known_keys(AppConfig))


def test_without_keys_of_theirs_there_are_no_views(composed: Compose) -> None:
    views = view_settings(plain(composed, *BROKER), "mine")
    assert (views.logs_dir, views.log_file_path, views.heartbeat_topic, views.log_topic) == (None, None, None, None)
    assert (views.heartbeat_clients, views.log_clients, views.console) == (None, None, "terminal")


def test_views_have_names_intervals_and_brokers_of_their_own(composed: Compose, tmp_path: Path) -> None:
    views = view_settings(
        plain(
            composed,
            *BROKER,
            "kafka.security.protocol=SASL_SSL",
            f"logs_dir={tmp_path}/LOGS",
            "heartbeat.topic=beats",
            "heartbeat.program_id=lab",
            "heartbeat.interval=30",
            "heartbeat.kafka.bootstrap.servers=other:9092",
            "log.topic=lines",
            "log.kafka.linger.ms=7",
        ),
        "mine",
    )
    assert views.logs_dir == f"{tmp_path}/LOGS"
    assert (views.heartbeat_topic, views.heartbeat_program_id, views.heartbeat_interval_s) == ("beats", "lab", 30.0)
    assert (views.log_topic, views.log_program_id, views.log_interval_s) == ("lines", "mine", 60.0)
    assert views.heartbeat_clients is not None
    assert views.heartbeat_clients.common == {"bootstrap.servers": "other:9092"}
    assert views.log_clients is not None
    assert views.log_clients.common == {
        "bootstrap.servers": "host:9092",
        "security.protocol": "SASL_SSL",
        "linger.ms": 7,
    }


def test_a_view_on_the_embedded_broker_is_refused(composed: Compose, tmp_path: Path) -> None:
    embedded = ["kafka=embedded", f"upload.path={tmp_path}", "heartbeat.topic=beats"]
    with pytest.raises(ConfigurationError, match=r"heartbeat\.topic=beats would be on the embedded broker"):
        view_settings(plain(composed, *embedded), "mine")
    elsewhere = view_settings(plain(composed, *embedded, "heartbeat.kafka.bootstrap.servers=host:9092"), "mine")
    assert elsewhere.heartbeat_clients is not None


@pytest.mark.parametrize("key", ["heartbeat.interval", "log.interval"])
def test_intervals_that_can_not_be_meant_are_refused(composed: Compose, key: str) -> None:
    with pytest.raises(ConfigurationError, match=key):
        view_settings(plain(composed, *BROKER, f"{key}=0.5"), "mine")


def test_secrets_of_views_are_secrets(composed: Compose) -> None:
    assert is_secret_key("heartbeat.kafka.sasl.password")
    assert is_secret_key("log.kafka.sasl.password")
    with pytest.raises(ConfigurationError, match=r"log\.kafka\.sasl\.password is a secret"):
        plain(composed, *BROKER, "log.kafka.sasl.password=geheim")
