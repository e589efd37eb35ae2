"""Run a ``MetadataJSONReproducer`` as OpenMSIStream's users do: from a command line and a configuration file."""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ray_reproducer.actors.settings import PipelineSettings, RaySettings
from ray_reproducer.command_line import CREATE_NEW
from ray_reproducer.core.errors import ConfigurationError, ExtractorError
from ray_reproducer.error_report import guarded, ours
from ray_reproducer.extractor_loading import prepare
from ray_reproducer.launch import launch
from ray_reproducer.observability.view_settings import ViewSettings
from ray_reproducer.openmsistream_config import OpenMSIStreamConfig, read_config

if TYPE_CHECKING:
    from ray_reproducer.data_file import DataFileMode
    from ray_reproducer.reproducer import MetadataJSONReproducer

_TOPIC_KEYWORDS = ("consumer_topic_name", "producer_topic_name")


def run_command_line(cls: type[MetadataJSONReproducer], args: Sequence[str] | None) -> int:
    """Run a class's command line and return the exit code; errors are on stderr by then."""

    def run() -> int:
        parsed = cls.get_argument_parser().parse_args(args)
        reproducer = construct(cls, *cls.get_init_args_kwargs(parsed))
        _log_to_stderr()
        config = _config_of(reproducer)
        for note in _notes(reproducer, config):
            reproducer.logger.warning(note)
        views = ViewSettings(
            program_name=cls.__name__,
            update_s=float(reproducer.update_secs) if reproducer.update_secs > 0 else None,
            log_stream_level=reproducer.logger.getEffectiveLevel(),
            console="terminal_or_pipe",
        )
        return launch(settings_of(reproducer, config), RaySettings(), views)

    return guarded(run, ours)


def construct(
    cls: type[MetadataJSONReproducer], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> MetadataJSONReproducer:
    """Call a class's constructor with what its ``get_init_args_kwargs`` returned.

    Two forms are in use: ``[config, consumer topic, producer topic]``, and ``[config, producer topic]`` with both
    topics in the keywords as well.

    Raises:
        ExtractorError: the constructor doesn't take these arguments.
    """
    positional, keywords = list(args), dict(kwargs)
    named = {name: keywords.pop(name) for name in _TOPIC_KEYWORDS if name in keywords}
    if len(positional) == 1:
        keywords.update(named)
    elif "consumer_topic_name" in named and len(positional) == 2:
        positional = [positional[0], named["consumer_topic_name"], named.get("producer_topic_name", positional[1])]
    elif "producer_topic_name" in named and len(positional) == 2:
        positional.append(named["producer_topic_name"])
    try:
        return cls(*positional, **keywords)
    except TypeError as error:
        raise ExtractorError(
            f"{cls.__name__} can't be constructed: {error}.",
            hint="Its constructor is called with what get_init_args_kwargs returns: let the two agree.",
        ) from error


def settings_of(reproducer: MetadataJSONReproducer, config: OpenMSIStreamConfig) -> PipelineSettings:
    """Make the settings of a run from an instance and its configuration file.

    Raises:
        ExtractorError: the instance can't travel to the workers.
    """
    name = type(reproducer).__name__
    group_id = reproducer.consumer_group_id
    extractor = prepare(reproducer._get_metadata_dict_for_file, name)  # noqa: SLF001 - the contract with subclasses
    regex = reproducer._filepath_regex  # noqa: SLF001
    return PipelineSettings(
        source_topic=reproducer.consumer_topic_name,
        results_topic=reproducer.producer_topic_name,
        dead_letters_topic=f"{reproducer.producer_topic_name}.dead_letters",
        create_topics=True,
        group_id=str(uuid.uuid4()) if group_id == CREATE_NEW else group_id,
        clients=config.clients,
        extractor=extractor.pickled,
        extractor_name=name,
        start=config.start,
        filepath_regex=regex.pattern if regex else None,
        output_dir=str(reproducer._output_dir),  # noqa: SLF001
        datafile_mode=cast("DataFileMode", reproducer.mode),
        consumers=reproducer.n_threads,
        sys_path=extractor.sys_path,
    )


def _config_of(reproducer: MetadataJSONReproducer) -> OpenMSIStreamConfig:
    path: Path | None = reproducer._config_file  # noqa: SLF001
    if path is None:
        raise ConfigurationError("No configuration file is named.", hint="Add --config FILE.")
    return read_config(path)


def _notes(reproducer: MetadataJSONReproducer, config: OpenMSIStreamConfig) -> list[str]:
    notes = list(config.notes)
    if reproducer.consumer_group_id == CREATE_NEW and config.group_id not in {"", CREATE_NEW}:
        notes.append(
            f"group.id = {config.group_id} of the configuration file is not used, as in OpenMSIStream: "
            f"this run has a new group. To keep a place on the topic: --consumer_group_id NAME."
        )
    return notes


def _log_to_stderr() -> None:
    """Show what the class logs, unless the program has arranged that by itself."""
    if not logging.getLogger().handlers:
        form = "[%(name)s %(asctime)s] %(levelname)s: %(message)s"
        logging.basicConfig(stream=sys.stderr, format=form, datefmt="%Y-%m-%d %H:%M:%S")
