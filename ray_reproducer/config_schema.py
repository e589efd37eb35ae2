"""The settings' keys and their types, for Hydra.

Rules:

1. A key's type is here; its meaning, unit and default are in ``conf/``, which ``--help`` shows. ``MISSING`` here
   means: ``conf/`` has the default, or says that it must be given.
2. ``kafka``, ``consumer``, ``producer``, ``heartbeat.kafka``, ``log.kafka``, ``extractor`` and ``ray.runtime_env`` are
   open: any key goes. Everywhere else a key that isn't here is refused (``config_checks``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

MAIN_CONFIG: Final = "ray_reproducer"
"""Name of the primary configuration of ``python -m ray_reproducer``."""
UPLOAD_CONFIG: Final = "ray_reproducer_upload"
"""Name of the primary configuration of ``python -m ray_reproducer.upload``."""

REPLAY_CONFIG: Final = "ray_reproducer_replay"
"""Name of the primary configuration of ``python -m ray_reproducer.replay``."""


class RunMode(Enum):
    """When a run ends."""

    stream = "stream"
    drain = "drain"


class DeliveryMode(Enum):
    """What a crash may do to results."""

    exactly_once = "exactly_once"
    at_least_once = "at_least_once"


class StartAt(Enum):
    """Where a group without a place begins, or whether it must have one."""

    earliest = "earliest"
    latest = "latest"
    group = "group"
    skip_existing = "skip_existing"


class DatafileMode(Enum):
    """What an extractor is given."""

    memory = "memory"
    disk = "disk"
    both = "both"


class RayMode(Enum):
    """Whose Ray it is."""

    local = "local"
    cluster = "cluster"


class Failures(Enum):
    """What becomes of a file that fails."""

    dead_letter = "dead_letter"
    hold = "hold"


class Duplicates(Enum):
    """What becomes of a finished file that is uploaded again with the same content."""

    skip = "skip"
    reprocess = "reprocess"


class TopicRecreated(Enum):
    """What is done if the source topic was deleted and made anew."""

    stop = "stop"
    start_anew = "start_anew"


class CommitMetadata(Enum):
    """What is done if the metadata beside a committed offset can't be read."""

    refuse = "refuse"
    ignore = "ignore"


@dataclass
class TopicsConfig:
    """``topics.*``."""

    source: str = MISSING
    results: str = MISSING
    dead_letters: str = MISSING
    create: bool = True


@dataclass
class UploadConfig:
    """``upload.*`` of the main job."""

    path: str | None = None
    chunk_size: int = MISSING
    filepath_regex: str | None = None


@dataclass
class RunConfig:
    """``run.*``."""

    mode: RunMode = MISSING
    print_results: bool = False


@dataclass
class ExtractionConfig:
    """``extraction.*``."""

    timeout: float | None = None
    warn_after: float | None = None
    max_crashes: int = MISSING
    num_cpus: float = MISSING
    datafile: DatafileMode = MISSING
    batch_seconds: float = MISSING
    max_batch_files: int = MISSING


@dataclass
class RayConfig:
    """``ray.*``."""

    mode: RayMode = MISSING
    address: str | None = None
    num_cpus: float | None = None
    object_store_memory: int | None = None
    runtime_env: dict[str, Any] = field(default_factory=dict)


@dataclass
class SideTopicConfig:
    """``heartbeat.*`` and ``log.*``."""

    topic: str | None = None
    program_id: str | None = None
    interval: float = MISSING
    kafka: dict[str, Any] = field(default_factory=dict)


@dataclass
class AppConfig:
    """Everything that ``python -m ray_reproducer`` can be told."""

    topics: TopicsConfig = field(default_factory=TopicsConfig)
    group_id: str | None = None
    kafka: dict[str, Any] = field(default_factory=dict)
    consumer: dict[str, Any] = field(default_factory=dict)
    producer: dict[str, Any] = field(default_factory=dict)
    upload: UploadConfig = field(default_factory=UploadConfig)
    run: RunConfig = field(default_factory=RunConfig)
    filepath_regex: str | None = None
    start: StartAt = MISSING
    delivery: DeliveryMode = MISSING
    consumers: int = MISSING
    extraction: ExtractionConfig = field(default_factory=ExtractionConfig)
    extractor: dict[str, Any] = field(default_factory=dict)
    output_dir: str | None = None
    failures: Failures = MISSING
    incomplete_after: float | None = MISSING
    duplicates: Duplicates = MISSING
    topic_recreated: TopicRecreated = MISSING
    topic_check_interval: float = MISSING
    commit_metadata: CommitMetadata = MISSING
    actor_timeout: float = MISSING
    commit_interval: float = MISSING
    busy_commit_interval: float = MISSING
    shutdown_timeout: float = MISSING
    ray: RayConfig = field(default_factory=RayConfig)
    logs_dir: str | None = None
    heartbeat: SideTopicConfig = field(default_factory=SideTopicConfig)
    log: SideTopicConfig = field(default_factory=SideTopicConfig)


@dataclass
class UploadTopicsConfig:
    """``topics.*`` of the uploader."""

    source: str = MISSING
    create: bool = True


@dataclass
class UploadOnlyConfig:
    """``upload.*`` of the uploader."""

    path: str = MISSING
    chunk_size: int = MISSING
    filepath_regex: str | None = None


@dataclass
class UploadAppConfig:
    """Everything that ``python -m ray_reproducer.upload`` can be told."""

    topics: UploadTopicsConfig = field(default_factory=UploadTopicsConfig)
    kafka: dict[str, Any] = field(default_factory=dict)
    producer: dict[str, Any] = field(default_factory=dict)
    upload: UploadOnlyConfig = field(default_factory=UploadOnlyConfig)


@dataclass
class ReplayTopicsConfig:
    """``topics.*`` of a replay."""

    source: str | None = None
    results: str | None = None
    dead_letters: str | None = None
    create: bool = True


@dataclass
class ReplayRunConfig:
    """``run.*`` of a replay."""

    print_results: bool = False


@dataclass
class ReplayConfig:
    """``replay.*``."""

    list: bool = False
    details: bool = False
    path: str | None = None
    reason: Any = None
    since: str | None = None
    until: str | None = None
    extractor: str | None = None


@dataclass
class ReplayAppConfig:
    """Everything that ``python -m ray_reproducer.replay`` can be told."""

    topics: ReplayTopicsConfig = field(default_factory=ReplayTopicsConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    kafka: dict[str, Any] = field(default_factory=dict)
    consumer: dict[str, Any] = field(default_factory=dict)
    producer: dict[str, Any] = field(default_factory=dict)
    run: ReplayRunConfig = field(default_factory=ReplayRunConfig)
    delivery: DeliveryMode = MISSING
    consumers: int = MISSING
    extraction: ExtractionConfig = field(default_factory=ExtractionConfig)
    extractor: dict[str, Any] = field(default_factory=dict)
    output_dir: str | None = None
    topic_check_interval: float = MISSING
    actor_timeout: float = MISSING
    commit_interval: float = MISSING
    busy_commit_interval: float = MISSING
    shutdown_timeout: float = MISSING
    ray: RayConfig = field(default_factory=RayConfig)


def register() -> None:
    """Make the types known to Hydra, under the names that the defaults lists in ``conf/`` use."""
    _store(
        "ray_reproducer_schema",
        AppConfig,
        ("kafka", "consumer", "producer", "extractor", "ray.runtime_env", "heartbeat.kafka", "log.kafka"),
    )
    _store(
        "ray_reproducer_replay_schema",
        ReplayAppConfig,
        ("kafka", "consumer", "producer", "extractor", "ray.runtime_env"),
    )
    _store("ray_reproducer_upload_schema", UploadAppConfig, ("kafka", "producer"))


def _store(name: str, schema: type, open_dictionaries: tuple[str, ...]) -> None:
    node = OmegaConf.structured(schema)
    for key in open_dictionaries:
        # Hydra makes the whole tree a struct; a flag of its own lets `kafka.any.name=x` in without a "+".
        OmegaConf.set_struct(OmegaConf.select(node, key), value=False)
    ConfigStore.instance().store(name=name, node=node, provider="ray_reproducer")
