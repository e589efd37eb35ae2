"""OpenMSIStream's configuration files, read as its programs read them.

Rules:

1. Sections ``[broker]``, ``[consumer]``, ``[producer]``; keys are librdkafka's, in lower case. Sections of programs
   that this one isn't are left alone, except ``[kafkacrypto]``: messages could not be read.
2. A value that begins with ``$`` is an environment variable (``$A``), or several and text (``${A}/x$B``); one that
   isn't set is an error.
3. Serializers must be those that this program uses, because it uses them in any case.
4. What this program decides by itself (committing, the group) is taken out, and said if it was set to something else.
5. ``[heartbeat]`` and ``[log]`` are for the producers of heartbeats and log messages. One that names a broker stands
   alone, so that nobody's credentials are sent to another broker; one that names none is laid over ``[broker]``.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.kafka.client_config import ClientConfigs

_SERIALIZERS: Final[Mapping[str, Mapping[str, str]]] = {
    "consumer": {"key.deserializer": "String", "value.deserializer": "DataFileChunk"},
    "producer": {"key.serializer": "String", "value.serializer": "String"},
}
_STARTS: Final[Mapping[str, Literal["earliest", "latest"]]] = {
    "earliest": "earliest",
    "smallest": "earliest",
    "beginning": "earliest",
    "latest": "latest",
    "largest": "latest",
    "end": "latest",
}
_RESET: Final = "auto.offset.reset"
_AUTO_COMMIT: Final = (
    "enable.auto.commit",
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "enable.auto.offset.store",
)
_SECTIONS: Final = frozenset({"broker", "consumer", "producer", "kafkacrypto", "heartbeat", "log"})
VARIABLE: Final = re.compile(r"\$(?P<name>\w+|\{[^}]*\})", re.ASCII)
"""A variable in a value that begins with ``$``: ``$A``, ``${A}``."""


@dataclass(frozen=True)
class OpenMSIStreamConfig:
    """What a configuration file says.

    Attributes:
        clients: settings of the Kafka clients.
        start: where a new group begins.
        group_id: the file's group.id; "" if it has none.
        heartbeat: settings of the client that sends heartbeats; None: those of the others.
        log: settings of the client that sends log messages; None: those of the others.
        notes: what a person should know about settings that were left out.
    """

    clients: ClientConfigs
    start: Literal["earliest", "latest"]
    group_id: str
    notes: tuple[str, ...]
    heartbeat: ClientConfigs | None = None
    log: ClientConfigs | None = None


def read_config(path: Path, beside: Collection[str] = ()) -> OpenMSIStreamConfig:
    """Read a configuration file.

    Args:
        path: the file.
        beside: which of "heartbeat" and "log" are wanted; a section that isn't may name variables that aren't set.

    Raises:
        ConfigurationError: it can't be read, or says something that this program can't do.
    """
    return interpret(path, _sections(path, {"broker", "consumer", "producer", *beside}), beside)


def interpret(
    path: Path, sections: Mapping[str, Mapping[str, str]], beside: Collection[str] = ()
) -> OpenMSIStreamConfig:
    """Say what the sections of a configuration file mean.

    Args:
        path: the file, for messages.
        sections: name -> key -> value.
        beside: which of "heartbeat" and "log" are wanted.

    Raises:
        ConfigurationError: they say something that this program can't do.
    """
    if "kafkacrypto" in sections:
        raise ConfigurationError(
            f"{path} has a section [kafkacrypto]: this program doesn't read or write encrypted messages.",
            hint="For topics that are not encrypted, use a configuration file without that section. Encrypted ones "
            "would take KafkaCrypto's own consumers, key topics and a node's keys in every process that reads.",
        )
    broker = dict(sections.get("broker", {}))
    if not broker.get("bootstrap.servers"):
        raise ConfigurationError(
            f"{path} names no broker.", hint="Add bootstrap.servers = HOST:PORT to its section [broker]."
        )
    consumer = {**broker, **sections.get("consumer", {})}
    producer = {**broker, **sections.get("producer", {})}
    _check_serializers(path, "consumer", consumer)
    _check_serializers(path, "producer", producer)
    notes: list[str] = []
    start = _take_start(path, consumer, notes)
    group_id = consumer.pop("group.id", "")
    _take_auto_commit(path, consumer, notes)
    others = {name: _beside(path, broker, sections[name]) for name in beside if name in sections}
    for settings in (broker, producer):
        _take_out_of_producer(settings)
    return OpenMSIStreamConfig(
        clients=ClientConfigs.from_settings(broker, consumer, producer),
        start=start,
        group_id=group_id,
        notes=tuple(notes),
        heartbeat=others.get("heartbeat"),
        log=others.get("log"),
    )


def _beside(path: Path, broker: Mapping[str, str], section: Mapping[str, str]) -> ClientConfigs:
    """Settings of a producer for another purpose (rule 5)."""
    settings = dict(section) if "bootstrap.servers" in section else {**broker, **section}
    _check_serializers(path, "producer", settings)
    _take_out_of_producer(settings)
    return ClientConfigs.from_settings(settings)


def _take_out_of_producer(settings: dict[str, str]) -> None:
    for name in ("group.id", _RESET, *_AUTO_COMMIT):
        settings.pop(name, None)


def _sections(path: Path, wanted: Collection[str]) -> dict[str, dict[str, str]]:
    written = written_sections(path)
    if "kafkacrypto" in written:
        return {"kafkacrypto": {}}  # refused before its variables are looked for
    return {
        name: {key: _value(path, name, key, text) for key, text in keys.items()}
        for name, keys in written.items()
        if name in wanted
    }


def written_sections(path: Path) -> dict[str, dict[str, str]]:
    """Read a configuration file as it is written: the sections that concern this program, variables not replaced.

    Raises:
        ConfigurationError: it can't be read.
    """
    parser = configparser.ConfigParser()
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigurationError(f"The configuration file {path} can't be read: {reason}.") from error
    except configparser.Error as error:
        # Not from the error: what it says repeats the lines, and a password may stand in one.
        raise ConfigurationError(f"{path} is no configuration file: {_in_words(error)}.") from None
    wanted = [name for name in parser.sections() if name in _SECTIONS]
    return {name: {key: _written(parser, name, key) for key in parser.options(name)} for name in wanted}


def _written(parser: configparser.ConfigParser, section: str, key: str) -> str:
    try:
        return parser.get(section, key)
    except configparser.InterpolationError:  # a percent sign that stands for itself, in a password for instance
        return parser.get(section, key, raw=True)


def _in_words(error: configparser.Error) -> str:
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"line {error.lineno} stands before any [section]"
    if isinstance(error, configparser.ParsingError):
        numbers = ", ".join(str(number) for number, _ in error.errors)
        return f"no key = value in line {numbers}"
    if isinstance(error, configparser.DuplicateSectionError):
        return f"[{error.section}] comes for the second time in line {error.lineno}"
    if isinstance(error, configparser.DuplicateOptionError):
        return f"{error.option} comes for the second time in [{error.section}], in line {error.lineno}"
    return type(error).__name__


def _value(path: Path, section: str, key: str, value: str) -> str:
    if not value.startswith("$"):
        return value
    unset = [name for name in _variables(value) if name not in os.environ]
    if unset:
        name = unset[0]
        raise ConfigurationError(
            f"{key} in [{section}] of {path} is taken from the environment variable {name}, which is not set.",
            hint=f"Set it: export {name}=...",
        )
    # Not os.path.expandvars: what it makes of "${B$C", a brace that is never closed, depends on Python's version.
    return VARIABLE.sub(lambda match: os.environ[variable_name(match)], value)


def variable_name(match: re.Match[str]) -> str:
    """Return the name of the variable that ``VARIABLE`` has found."""
    name = match["name"]
    return name[1:-1] if name.startswith("{") else name


def _variables(value: str) -> list[str]:
    return [variable_name(match) for match in VARIABLE.finditer(value)]


def _check_serializers(path: Path, section: str, settings: dict[str, str]) -> None:
    for key, kind in _SERIALIZERS[section].items():
        given = settings.pop(key, None)
        if given is not None and re.sub(r"(Des|S)erializer$", "", given.strip()) != kind:
            suffix = "Deserializer" if section == "consumer" else "Serializer"
            raise ConfigurationError(
                f"{key} = {given} in {path} is not what this program uses.",
                hint=f"Leave it out, or: {key} = {kind}{suffix}",
            )
    for others in _SERIALIZERS.values():  # in [broker] they may stand for the other kind of client
        for key in others:
            settings.pop(key, None)


def _take_start(path: Path, consumer: dict[str, str], notes: list[str]) -> Literal["earliest", "latest"]:
    given = consumer.pop(_RESET, "none").strip().lower()
    if given == "none":
        notes.append(
            f"{path} has no {_RESET}, so a new group begins at the end of the topic. "
            f"For what is on it already: {_RESET} = earliest in [consumer]."
        )
        return "latest"
    if given not in _STARTS:
        raise ConfigurationError(
            f"{_RESET} = {given} in {path} is not possible.", hint=f"One of: {', '.join(_STARTS)}, none."
        )
    return _STARTS[given]


def _take_auto_commit(path: Path, consumer: dict[str, str], notes: list[str]) -> None:
    given = {name: consumer.pop(name) for name in _AUTO_COMMIT if name in consumer}
    notes.extend(
        f"{name} = {given[name]} in {path} is not used: offsets are committed with their results."
        for name in _AUTO_COMMIT[:2]
        if given.get(name, "").strip().lower() in {"true", "1"}
    )
