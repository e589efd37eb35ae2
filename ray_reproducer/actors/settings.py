"""What the program is told to do, as plain frozen values that travel to every actor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ray_reproducer.kafka.client_config import ClientConfigs

Start: TypeAlias = Literal["earliest", "latest", "group", "skip_existing"]
"""Where a group without a place begins: with ``skip_existing`` at the earliest, but files whose results are on the
topic already, from another program, count as done. With ``group`` it must have a place."""


@dataclass(frozen=True, slots=True)
class ExtractionSettings:
    """How the extractor is run.

    Attributes:
        num_cpus: processor cores that one task reserves; it decides how many run at a time.
        max_crashes: how often a file may end its worker before it becomes a dead letter.
        timeout_s: how long the extractor may take for one file, in seconds; None: for ever.
        warn_after_s: how long a worker has files until they are named in a warning, in seconds; None: they never are.
        batch_seconds: how long a task with several small files should take.
        max_batch_files: the most files in one task.
    """

    num_cpus: float = 1.0
    max_crashes: int = 3
    timeout_s: float | None = None
    warn_after_s: float | None = 300.0
    batch_seconds: float = 0.1
    max_batch_files: int = 512


@dataclass(frozen=True, slots=True)
class UploadSettings:
    """Files that the program itself puts on the source topic before it reads it.

    Attributes:
        path: the directory.
        chunk_size_bytes: length of a chunk.
        filepath_regex: which files; None: all.
    """

    path: str
    chunk_size_bytes: int = 524_288
    filepath_regex: str | None = None


@dataclass(frozen=True, slots=True)
class RaySettings:
    """Which Ray to use.

    Attributes:
        mode: ``local`` starts one for this run; ``cluster`` attaches to one that runs.
        address: of the cluster; None: what ``RAY_ADDRESS`` says.
        num_cpus: cores of the local Ray; None: all of the machine.
        object_store_memory_bytes: size of the local Ray's object store; None: Ray's default.
        runtime_env: Ray's runtime environment of the job.
    """

    mode: Literal["local", "cluster"] = "local"
    address: str | None = None
    num_cpus: float | None = None
    object_store_memory_bytes: int | None = None
    runtime_env: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """One run of the program.

    Attributes:
        source_topic: where the chunks are.
        results_topic: where metadata goes.
        dead_letters_topic: where failures go.
        create_topics: whether missing topics may be made.
        group_id: consumer group whose committed offsets say what is done.
        clients: settings of the Kafka clients.
        extractor: pickle of a callable that takes a ``DataFile`` and returns a dictionary.
        extractor_name: what to call it.
        delivery: with transactions, or without.
        start: where a group without committed offsets begins.
        filepath_regex: files whose relative path does not match its beginning are left out; None: all are taken.
        output_dir: directory under which files are written if ``datafile_mode`` says so.
        datafile_mode: whether an extractor finds its file in memory, on disk, or both.
        consumers: number of consumer actors; 0: as many as make sense.
        extraction: how the extractor is run.
        commit_interval_s: how long outcomes are collected for one transaction, in seconds.
        busy_commit_interval_s: the same while files wait for a worker, if it is longer.
        run_mode: go on until stopped, or end when all that is on the topic now has its outcome.
        collect_outcomes: hand every outcome to the observer.
        registries: hand every outcome to the observer, of results without the metadata, and now and then a list of the
            files on their way; results get a header from which the registry can be made anew.
        sys_path: directories that workers put first on their module search path.
        upload: files to put on the source topic first; None: nothing.
        embedded: the broker is librdkafka's mock cluster inside the driver.
        failures: what becomes of a file that fails: a dead letter, or it is held for the next start.
        duplicates: what becomes of a finished file that is uploaded again: it is skipped, or done again.
        incomplete_after_s: how old the newest chunk of an incomplete file is when it is given up; None: never.
        topic_recreated: if the source topic is deleted and made anew: stop, or begin with the new one.
        commit_metadata: if what is committed beside an offset can't be read: refuse, or ignore it.
        topic_check_interval_s: how often it is looked whether the source topic has new partitions or is another one.
        actor_timeout_s: how long an actor may be silent before all are made anew, in seconds.
        instance: what this run is called among those of its group; the supervisor names it.
        shutdown_timeout_s: how long what is in flight may take after the program was asked to stop, in seconds.
    """

    source_topic: str
    results_topic: str
    dead_letters_topic: str
    create_topics: bool
    group_id: str
    clients: ClientConfigs
    extractor: bytes
    extractor_name: str
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    start: Start = "earliest"
    filepath_regex: str | None = None
    output_dir: str = "."
    datafile_mode: Literal["memory", "disk", "both"] = "memory"
    consumers: int = 0
    extraction: ExtractionSettings = field(default_factory=ExtractionSettings)
    commit_interval_s: float = 0.1
    busy_commit_interval_s: float = 0.5
    run_mode: Literal["stream", "drain"] = "stream"
    collect_outcomes: bool = False
    registries: bool = False
    sys_path: tuple[str, ...] = ()
    upload: UploadSettings | None = None
    embedded: bool = False
    failures: Literal["dead_letter", "hold"] = "dead_letter"
    duplicates: Literal["skip", "reprocess"] = "skip"
    incomplete_after_s: float | None = 24 * 3600.0
    topic_recreated: Literal["stop", "start_anew"] = "stop"
    commit_metadata: Literal["refuse", "ignore"] = "refuse"
    topic_check_interval_s: float = 30.0
    actor_timeout_s: float = 30.0
    instance: str = ""
    shutdown_timeout_s: float = 30.0
