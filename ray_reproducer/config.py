"""From the configuration that Hydra composed to the plain values that the program runs on.

Rules:

1. Everything that can be wrong with a setting is said here, by the key that people type, before anything is started.
2. Hydra ends here. What goes on to the actors is checked, frozen, and knows neither OmegaConf nor the environment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig

from ray_reproducer.actors.settings import ExtractionSettings, PipelineSettings, RaySettings, UploadSettings
from ray_reproducer.config_checks import missing_keys, refuse_secrets_in_config, refuse_unknown_keys, resolve
from ray_reproducer.config_schema import DeliveryMode, Duplicates, RayMode, StartAt, UploadAppConfig
from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.extractor_loading import LoadedExtractor, ReproducerArguments
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.observability.view_settings import ViewSettings

MAX_CHUNK_BYTES: Final = 64 * 1024 * 1024
"""Largest upload.chunk_size that is believed to be meant; brokers take 1 MiB unless told otherwise."""
LEAST_VIEW_INTERVAL_S: Final = 1.0
"""Heartbeats and log messages that come faster than this can't be meant."""
_NAME_A_BROKER: Final = "Name a broker: kafka.bootstrap.servers=HOST:PORT"
EMBEDDED_UPLOAD: Final = (
    "kafka=embedded forgets everything with the end of the program: nobody could read what was sent.",
    _NAME_A_BROKER,
)
"""Why an upload can't have the embedded broker, and what to do."""
EMBEDDED_REPLAY: Final = (
    "kafka=embedded forgets everything with the end of the program: there are no dead letters.",
    _NAME_A_BROKER,
)
"""Why a replay can't have it, and what to do."""
_GROUP_ID_SAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class UploadCommand:
    """What ``python -m ray_reproducer.upload`` does, as plain values.

    Attributes:
        clients: how to reach the broker.
        topic: where the chunks go.
        create_topic: make the topic if it is missing.
        path: the directory.
        chunk_size_bytes: bytes of a file in one message.
        filepath_regex: which files; None: all.
    """

    clients: ClientConfigs
    topic: str
    create_topic: bool
    path: Path
    chunk_size_bytes: int
    filepath_regex: str | None


def checked(config: DictConfig, schema: type) -> dict[str, Any]:
    """Check a composed configuration and resolve it.

    Args:
        config: what Hydra composed, not resolved.
        schema: ``AppConfig``, ``ReplayAppConfig`` or ``UploadAppConfig``.

    Raises:
        ConfigurationError: unknown key, literal secret, missing value, environment variable that isn't set.
    """
    refuse_unknown_keys(config, schema)
    refuse_secrets_in_config(config)
    missing = missing_keys(config)
    if missing:
        raise ConfigurationError(
            f"{' and '.join(missing)} must be given.",
            hint=f"Add {' '.join(f'{key}=...' for key in missing)}; --help says what they are.",
        )
    return resolve(config)


def upload_command(config: DictConfig) -> UploadCommand:
    """Turn the uploader's configuration into plain values.

    Raises:
        ConfigurationError: something in it is wrong or missing.
    """
    plain = checked(config, UploadAppConfig)
    upload = _upload(plain["upload"])
    if upload is None:
        raise ConfigurationError("upload.path must be given.", hint="Add upload.path=DIR.")
    return UploadCommand(
        clients=_real_clients(plain, EMBEDDED_UPLOAD),
        topic=plain["topics"]["source"],
        create_topic=plain["topics"]["create"],
        path=Path(upload.path),
        chunk_size_bytes=upload.chunk_size_bytes,
        filepath_regex=upload.filepath_regex,
    )


def pipeline_settings(plain: dict[str, Any], extractor: LoadedExtractor) -> PipelineSettings:
    """Make the settings of a run.

    Args:
        plain: the configuration as ``checked`` returns it.
        extractor: what turns files into metadata.

    Raises:
        ConfigurationError: a value is out of range, or two settings contradict each other.
    """
    _check_ranges(plain)
    topics = plain["topics"]
    embedded = bool(plain["kafka"].get("embedded", False))
    upload = _upload(plain["upload"])
    _check_embedded(plain, embedded=embedded, upload=upload)
    if plain["start"] is StartAt.skip_existing and plain["duplicates"] is Duplicates.reprocess:
        raise ConfigurationError(
            "start=skip_existing passes over files that have a result, and duplicates=reprocess does them again.",
            hint="Leave one of them out; duplicates=reprocess may come with a later start, when all is caught up.",
        )
    return PipelineSettings(
        source_topic=topics["source"],
        results_topic=topics["results"],
        dead_letters_topic=topics["dead_letters"],
        create_topics=topics["create"],
        group_id=plain["group_id"] or default_group_id(topics["source"], extractor.name),
        clients=_clients(plain, embedded=embedded),
        extractor=extractor.pickled,
        extractor_name=extractor.name,
        delivery=plain["delivery"].value,
        start=plain["start"].value,
        filepath_regex=plain["filepath_regex"],
        output_dir=output_directory(plain["output_dir"], extractor.name),
        datafile_mode=plain["extraction"]["datafile"].value,
        consumers=plain["consumers"],
        extraction=_extraction(plain["extraction"]),
        commit_interval_s=plain["commit_interval"],
        busy_commit_interval_s=plain["busy_commit_interval"],
        run_mode=plain["run"]["mode"].value,
        collect_outcomes=plain["run"]["print_results"],
        sys_path=extractor.sys_path,
        upload=upload,
        embedded=embedded,
        failures=plain["failures"].value,
        duplicates=plain["duplicates"].value,
        incomplete_after_s=plain["incomplete_after"],
        topic_recreated=plain["topic_recreated"].value,
        commit_metadata=plain["commit_metadata"].value,
        topic_check_interval_s=plain["topic_check_interval"],
        actor_timeout_s=plain["actor_timeout"],
        shutdown_timeout_s=plain["shutdown_timeout"],
    )


def view_settings(plain: dict[str, Any], extractor_name: str) -> ViewSettings:
    """Say what is shown of the run besides the screen.

    Args:
        plain: the configuration as ``checked`` returns it.
        extractor_name: name of the extractor.

    Raises:
        ConfigurationError: a value is out of range, or a view has no broker.
    """
    logs_dir, heartbeat, log = plain["logs_dir"], plain["heartbeat"], plain["log"]
    return ViewSettings(
        program_name=extractor_name,
        logs_dir=str(Path(logs_dir).expanduser().absolute()) if logs_dir else None,
        heartbeat_topic=heartbeat["topic"],
        heartbeat_program_id=heartbeat["program_id"] or extractor_name,
        heartbeat_interval_s=heartbeat["interval"],
        heartbeat_clients=_view_clients(plain, "heartbeat"),
        log_topic=log["topic"],
        log_program_id=log["program_id"] or extractor_name,
        log_interval_s=log["interval"],
        log_clients=_view_clients(plain, "log"),
    )


def run_arguments(plain: dict[str, Any], extractor_name: str) -> ReproducerArguments:
    """Say what a ``MetadataJSONReproducer`` is constructed with.

    Args:
        plain: the configuration as ``checked`` returns it.
        extractor_name: name of the extractor.
    """
    topics = plain["topics"]
    keywords = {
        "output_dir": output_directory(plain["output_dir"], extractor_name),
        "mode": plain["extraction"]["datafile"].value,
        "consumer_group_id": plain["group_id"] or default_group_id(topics["source"], extractor_name),
        "filepath_regex": plain["filepath_regex"],
    }
    return ReproducerArguments(source_topic=topics["source"], results_topic=topics["results"], keywords=keywords)


def ray_settings(plain: dict[str, Any], runtime_env: dict[str, Any]) -> RaySettings:
    """Say which Ray the run uses.

    Args:
        plain: the configuration as ``checked`` returns it.
        runtime_env: Ray's runtime environment, with what the extractor needs already in it.

    Raises:
        ConfigurationError: a setting of the one kind of Ray was given for the other.
    """
    ray = plain["ray"]
    if ray["mode"] is RayMode.local and ray["address"]:
        raise ConfigurationError("ray.address is for ray=cluster; this is ray=local.", hint="Add ray=cluster.")
    for key in ("num_cpus", "object_store_memory"):
        if ray["mode"] is RayMode.cluster and ray[key] is not None:
            raise ConfigurationError(
                f"ray.{key} is for ray=local: a cluster has its own.", hint=f"Leave out ray.{key}, or ray=cluster."
            )
    return RaySettings(
        mode=ray["mode"].value,
        address=ray["address"],
        num_cpus=ray["num_cpus"],
        object_store_memory_bytes=ray["object_store_memory"],
        runtime_env=runtime_env,
    )


def default_group_id(source_topic: str, extractor_name: str) -> str:
    """Name of the group for those who gave none: each extractor keeps a place of its own on each topic."""
    return f"ray_reproducer.{source_topic}.{_GROUP_ID_SAFE.sub('_', extractor_name)}"


def output_directory(output_dir: str | None, extractor_name: str) -> str:
    """Return the absolute directory for reconstructed files; nothing is created."""
    return str(Path(output_dir or f"{_GROUP_ID_SAFE.sub('_', extractor_name)}_output").expanduser().absolute())


def check_regex(regex: str | None, key: str) -> None:
    """Refuse a regular expression that is none.

    Raises:
        ConfigurationError: with the place of the mistake.
    """
    try:
        re.compile(regex or "")
    except re.error as error:
        raise ConfigurationError(f"{key}={regex} is no regular expression: {error}.") from error


def kafka_clients(plain: dict[str, Any]) -> ClientConfigs:
    """Make the settings of clients of a broker that is there already.

    Args:
        plain: the configuration as ``checked`` returns it.

    Raises:
        ConfigurationError: no broker is named, or a setting is none.
    """
    return _real_clients(plain, EMBEDDED_REPLAY)


def _real_clients(plain: dict[str, Any], refusal: tuple[str, str]) -> ClientConfigs:
    """Make the settings of clients for a command that can't have the embedded broker, with the reason for that."""
    if plain["kafka"].get("embedded", False):
        raise ConfigurationError(refusal[0], hint=refusal[1])
    return _clients(plain, embedded=False, instead="")


def _clients(
    plain: dict[str, Any], *, embedded: bool, instead: str = ", or kafka=embedded to try it without a broker"
) -> ClientConfigs:
    kafka = {name: value for name, value in plain["kafka"].items() if name != "embedded"}
    clients = ClientConfigs.from_settings(kafka, plain.get("consumer"), plain["producer"])
    if embedded and clients.servers:
        raise ConfigurationError(
            f"kafka=embedded is a broker of its own, and kafka.bootstrap.servers={clients.servers} names another.",
            hint="Leave one of them out.",
        )
    if not embedded and not clients.servers:
        raise ConfigurationError(
            "No Kafka broker is named.",
            hint=f"Add kafka.bootstrap.servers=HOST:PORT{instead}.",
        )
    return clients


def _view_clients(plain: dict[str, Any], view: str) -> ClientConfigs | None:
    """Return the settings of the broker that a view's topic is on; None: the run's own."""
    settings = plain[view]
    if not settings["interval"] >= LEAST_VIEW_INTERVAL_S:
        raise ConfigurationError(
            f"{view}.interval={settings['interval']} is too small: at least {LEAST_VIEW_INTERVAL_S}."
        )
    embedded = bool(plain["kafka"].get("embedded", False))
    own = ClientConfigs.from_settings(settings["kafka"])
    if own.servers:
        return own
    if settings["topic"] and embedded:
        raise ConfigurationError(
            f"{view}.topic={settings['topic']} would be on the embedded broker, which nobody else can read.",
            hint=f"Name a broker for it: {view}.kafka.bootstrap.servers=HOST:PORT.",
        )
    if not own.common:
        return None
    runs = _clients(plain, embedded=embedded)
    return replace(runs, common={**runs.common, **own.common})


def _upload(upload: dict[str, Any]) -> UploadSettings | None:
    if upload["path"] is None:
        return None
    path = Path(upload["path"]).expanduser().absolute()
    if not path.is_dir():
        what = "is no directory" if path.exists() else "doesn't exist"
        raise ConfigurationError(f"upload.path: {path} {what}.", hint="It names the directory whose files are sent.")
    if not 1 <= upload["chunk_size"] <= MAX_CHUNK_BYTES:
        raise ConfigurationError(
            f"upload.chunk_size={upload['chunk_size']} must be between 1 and {MAX_CHUNK_BYTES} bytes."
        )
    check_regex(upload["filepath_regex"], "upload.filepath_regex")
    return UploadSettings(
        path=str(path), chunk_size_bytes=upload["chunk_size"], filepath_regex=upload["filepath_regex"]
    )


def _extraction(extraction: dict[str, Any]) -> ExtractionSettings:
    return ExtractionSettings(
        num_cpus=extraction["num_cpus"],
        max_crashes=extraction["max_crashes"],
        timeout_s=extraction["timeout"],
        warn_after_s=extraction["warn_after"],
        batch_seconds=extraction["batch_seconds"],
        max_batch_files=extraction["max_batch_files"],
    )


def _check_embedded(plain: dict[str, Any], *, embedded: bool, upload: UploadSettings | None) -> None:
    if not embedded:
        return
    if upload is None:
        raise ConfigurationError(
            "kafka=embedded starts with empty topics, and there is nothing to put on them.",
            hint="Add upload.path=DIR, a directory with files.",
        )
    if plain["delivery"] is DeliveryMode.exactly_once:
        raise ConfigurationError(
            "kafka=embedded has no transactions, so delivery=exactly_once can't be kept.",
            hint="Leave out delivery=exactly_once, or name a broker: kafka.bootstrap.servers=HOST:PORT.",
        )


def _check_ranges(plain: dict[str, Any]) -> None:
    """Refuse numbers that can't be meant, all in one place, by the keys that people type."""
    extraction = plain["extraction"]
    limits: list[tuple[str, float | None, float]] = [
        ("extraction.timeout", extraction["timeout"], 0.01),
        ("extraction.warn_after", extraction["warn_after"], 0.01),
        ("extraction.max_crashes", extraction["max_crashes"], 1),
        ("extraction.num_cpus", extraction["num_cpus"], 0.001),
        ("extraction.batch_seconds", extraction["batch_seconds"], 0.001),
        ("extraction.max_batch_files", extraction["max_batch_files"], 1),
        ("consumers", plain["consumers"], 0),
        ("incomplete_after", plain["incomplete_after"], 0.1),
        ("topic_check_interval", plain["topic_check_interval"], 0.1),
        ("actor_timeout", plain["actor_timeout"], 1),
        ("commit_interval", plain["commit_interval"], 0.001),
        ("busy_commit_interval", plain["busy_commit_interval"], 0),
        ("shutdown_timeout", plain["shutdown_timeout"], 0),
        ("ray.num_cpus", plain["ray"]["num_cpus"], 1),
        ("ray.object_store_memory", plain["ray"]["object_store_memory"], 80 * 1024 * 1024),
    ]
    for key, value, least in limits:
        if value is not None and not value >= least:
            raise ConfigurationError(f"{key}={value} is too small: at least {least}.")
    check_regex(plain["filepath_regex"], "filepath_regex")
    topics = plain["topics"]
    if len({topics["source"], topics["results"], topics["dead_letters"]}) < 3:
        raise ConfigurationError(
            f"topics.source={topics['source']}, topics.results={topics['results']} and "
            f"topics.dead_letters={topics['dead_letters']} must be three different topics."
        )
