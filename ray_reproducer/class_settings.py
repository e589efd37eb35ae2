"""From an instance of a class, its configuration file and overrides to the settings of a run.

Rules:

1. What the instance says is laid over this program's defaults; overrides (``key=value``, as on the command line of
   ``python -m ray_reproducer``) are laid over both. All of it is checked as there, with the same messages.
2. The clients' settings are those of the configuration file. It may hold secrets, as it always could; overrides
   may not.
3. Nothing is started here.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from omegaconf import DictConfig, OmegaConf

from ray_reproducer.actors.settings import PipelineSettings, RaySettings
from ray_reproducer.command_line import CREATE_NEW
from ray_reproducer.config import checked, pipeline_settings, ray_settings, view_settings
from ray_reproducer.config_schema import MAIN_CONFIG, AppConfig, RayMode
from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.extractor_loading import LoadedExtractor, prepare, runtime_env_with_code
from ray_reproducer.hydra_command import compose
from ray_reproducer.kafka.client_config import ClientConfigs, flatten
from ray_reproducer.observability.view_settings import ViewSettings
from ray_reproducer.openmsistream_config import OpenMSIStreamConfig, read_config

if TYPE_CHECKING:
    from ray_reproducer.reproducer import MetadataJSONReproducer

_FLAGS: Final = {re.ASCII: "a", re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x"}
_OVERRIDDEN: Final = re.compile(r"^(?:\+\+|\+|~)?(?P<key>[\w./@-]+)\s*(?:=|$)")
_INTERPOLATION: Final = re.compile(r"(\\*)\$\{")
_VIEW_FIELDS: Final = {
    "logs_dir": "logs_dir",
    "heartbeat.topic": "heartbeat_topic",
    "heartbeat.program_id": "heartbeat_program_id",
    "heartbeat.interval": "heartbeat_interval_s",
    "heartbeat.kafka": "heartbeat_clients",
    "log.topic": "log_topic",
    "log.program_id": "log_program_id",
    "log.interval": "log_interval_s",
    "log.kafka": "log_clients",
}
"""Keys of views -> fields of their settings."""
_NO_FILE: Final = OpenMSIStreamConfig(clients=ClientConfigs({}), start="earliest", group_id="", notes=())


@dataclass(frozen=True)
class ClassRun:
    """Everything that a run of a class needs.

    Attributes:
        pipeline: what to do.
        ray: which Ray to use.
        views: what is told about it, and where.
        print_results: outcomes are asked for on stdout.
        notes: what a person should know about settings that are not used.
    """

    pipeline: PipelineSettings
    ray: RaySettings
    views: ViewSettings
    print_results: bool
    notes: tuple[str, ...]


def class_run(reproducer: MetadataJSONReproducer) -> ClassRun:
    """Make the settings of a run from an instance.

    Raises:
        ConfigurationError: no broker is named, or a setting is wrong.
        ExtractorError: the instance can't travel to the workers.
    """
    said = reproducer._settings  # noqa: SLF001 - what its constructor was given
    overrides = _overrides(said.overrides, said.ray_address)
    file = _file(said.config_file, said.views_wanted, overrides)
    composed = compose(MAIN_CONFIG, AppConfig, overrides)
    given = {match["key"] for match in map(_OVERRIDDEN.match, overrides) if match}
    _lay_under(composed, _of_instance(reproducer, file), given)
    plain = checked(composed, AppConfig)
    plain.update(_clients(plain, file))
    name = type(reproducer).__name__
    extractor = prepare(reproducer._get_metadata_dict_for_file, name)  # noqa: SLF001 - the contract with subclasses
    pipeline = pipeline_settings(plain, extractor)
    runtime_env = _runtime_env(plain, extractor)
    if "working_dir" in runtime_env:
        # What is sent along is the code, also on a node that has an older copy of it at the path of ours.
        pipeline = replace(pipeline, sys_path=())
    return ClassRun(
        # Every outcome is wanted: the instance says which files were done last.
        pipeline=replace(pipeline, collect_outcomes=True),
        ray=ray_settings(plain, runtime_env),
        views=_overridden(_views(reproducer, file), view_settings(plain, name), given),
        print_results=plain["run"]["print_results"],
        notes=(*said.notes, *file.notes, *_notes(reproducer, file)),
    )


def tells_results(reproducer: MetadataJSONReproducer) -> bool:
    """Whether a class wants to be given the metadata of its files, once they are committed."""
    from ray_reproducer.reproducer import MetadataJSONReproducer as Base

    return type(reproducer)._on_result_produced is not Base._on_result_produced  # noqa: SLF001


def _overrides(overrides: Sequence[str], ray_address: str | None) -> list[str]:
    if ray_address is None:
        return list(overrides)
    return ["ray=cluster", f"ray.address='{ray_address}'", *overrides]


def _file(path: Path | None, views_wanted: Sequence[str], overrides: Sequence[str]) -> OpenMSIStreamConfig:
    if path is not None:
        return read_config(path, views_wanted)
    if not any(override.lstrip("+").startswith("kafka") for override in overrides):
        raise ConfigurationError(
            "No configuration file is named, and no broker.",
            hint="Add --config FILE (config_file=...), or the override kafka.bootstrap.servers=HOST:PORT.",
        )
    return _NO_FILE


def _of_instance(reproducer: MetadataJSONReproducer, file: OpenMSIStreamConfig) -> dict[str, Any]:
    group_id = reproducer.consumer_group_id
    regex = reproducer._filepath_regex  # noqa: SLF001
    return {
        "topics.source": reproducer.consumer_topic_name,
        "topics.results": reproducer.producer_topic_name,
        "group_id": str(uuid.uuid4()) if group_id == CREATE_NEW else group_id,
        "start": file.start,
        "filepath_regex": _pattern(regex) if regex else None,
        "output_dir": str(reproducer._output_dir),  # noqa: SLF001
        "extraction.datafile": reproducer.mode,
        "consumers": reproducer.n_threads,
    }


def _lay_under(composed: DictConfig, values: Mapping[str, Any], given: set[str]) -> None:
    for key, value in values.items():
        if key not in given and key.partition(".")[0] not in given:
            OmegaConf.update(composed, key, _as_it_is(value) if isinstance(value, str) else value)


def _as_it_is(text: str) -> str:
    r"""Escape what OmegaConf would take for an interpolation: a regular expression may well have ``\${2}`` in it."""
    return _INTERPOLATION.sub(lambda match: f"{match[1] * 2}\\${{", text)


def _clients(plain: Mapping[str, Any], file: OpenMSIStreamConfig) -> dict[str, Any]:
    """Lay the overrides of ``kafka``, ``consumer`` and ``producer`` over what the file says (rule 2)."""
    embedded = bool(plain["kafka"].get("embedded"))
    kafka = {key: value for key, value in plain["kafka"].items() if key != "embedded"}
    common = {} if embedded else dict(file.clients.common)
    return {
        "kafka": {**common, **flatten(kafka), **({"embedded": True} if embedded else {})},
        "consumer": {**_kind(file.clients.consumer, common), **flatten(plain["consumer"])},
        "producer": {**_kind(file.clients.producer, common), **flatten(plain["producer"])},
    }


def _kind(settings: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what all clients have: it would beat an override of ``kafka``."""
    return {name: value for name, value in settings.items() if common.get(name) != value} if common else {}


def _pattern(regex: re.Pattern[str]) -> str:
    """Write a compiled expression as text that has its flags in it."""
    flags = "".join(letter for flag, letter in _FLAGS.items() if regex.flags & flag)
    return f"(?{flags}){regex.pattern}" if flags else regex.pattern


def _runtime_env(plain: Mapping[str, Any], extractor: LoadedExtractor) -> dict[str, Any]:
    env: dict[str, Any] = plain["ray"]["runtime_env"]
    return runtime_env_with_code(env, extractor.module_file) if plain["ray"]["mode"] is RayMode.cluster else env


def _views(reproducer: MetadataJSONReproducer, file: OpenMSIStreamConfig) -> ViewSettings:
    said = reproducer._settings  # noqa: SLF001
    name = type(reproducer).__name__
    logs = reproducer._logs_subdir  # noqa: SLF001
    update_s = float(reproducer.update_secs)
    return ViewSettings(
        logs_dir=str(logs),
        catch_up=reproducer.consumer_group_id != CREATE_NEW,
        program_name=name,
        log_stream_level=said.stream_level,
        log_file_level=said.file_level,
        log_file_path=str(said.log_file) if said.log_file else None,
        update_s=update_s if 0 < update_s < math.inf else None,
        heartbeat_topic=said.heartbeat_topic,
        heartbeat_program_id=said.heartbeat_program_id or "",
        heartbeat_interval_s=said.heartbeat_interval_s,
        heartbeat_clients=file.heartbeat,
        log_topic=said.log_topic,
        log_program_id=said.log_program_id or "",
        log_interval_s=said.log_interval_s,
        log_clients=file.log,
        console="terminal_or_pipe",
    )


def _overridden(views: ViewSettings, composed: ViewSettings, given: set[str]) -> ViewSettings:
    """Lay the overrides of views over what the instance says of them."""
    changes = {
        field: getattr(composed, field)
        for key, field in _VIEW_FIELDS.items()
        if any(name == key or name.startswith(f"{key}.") for name in given)
    }
    return replace(views, **changes)


def _notes(reproducer: MetadataJSONReproducer, file: OpenMSIStreamConfig) -> list[str]:
    if reproducer.consumer_group_id != CREATE_NEW or file.group_id in {"", CREATE_NEW}:
        return []
    unused = f"group.id = {file.group_id} of the configuration file is not used, as in OpenMSIStream"
    return [f"{unused}: this run has a new group. To keep a place on the topic: --consumer_group_id NAME."]
