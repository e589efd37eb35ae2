"""``python -m ray_reproducer.convert_config old.config``: an OpenMSIStream configuration file as one for Hydra.

Rules:

1. The clients get the same settings by the new file as by the old one, and a new group begins at the same place.
2. An environment variable stays one: ``$A`` becomes ``${oc.env:A}``; any other ``${`` stays text. No secret is
   written: one that stands in the old file becomes a variable, and a note says which.
3. What isn't converted is said, with the reason.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from ray_reproducer.command_line import CREATE_NEW, config_path
from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.error_report import guarded, ours
from ray_reproducer.kafka.properties import is_secret
from ray_reproducer.openmsistream_config import (
    VARIABLE,
    OpenMSIStreamConfig,
    interpret,
    variable_name,
    written_sections,
)

_BESIDE: Final = ("heartbeat", "log")
_ENVIRONMENT_ONLY: Final = re.compile(r"^\$\{oc\.env:[A-Za-z_]\w*\}$")
_INTERPOLATION: Final = re.compile(r"(?P<slashes>\\*)\$\{")
_VARIABLE_OR_INTERPOLATION: Final = re.compile(rf"(?P<slashes>\\*)(?:{VARIABLE.pattern}|\$\{{)", re.ASCII)
_PLAIN_NAME: Final = re.compile(r"(?!(?:true|false|null|inf|nan)$)[a-z_]\w*", re.ASCII | re.IGNORECASE)
"""A variable's name that OmegaConf takes for text without quotes."""
_HEAD: Final = """\
# @package _global_
# What {old} says, for `python -m ray_reproducer`. As conf/kafka/{name}.yaml of your working directory:
#   python -m ray_reproducer kafka={name} +extractor=mine topics.source=raw topics.results=metadata
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code of the process.

    Args:
        arguments: what stands after the program's name; None: ``sys.argv``.
    """

    def run() -> int:
        parsed = _parser().parse_args(arguments)
        text, notes = convert(parsed.config, parsed.output.stem if parsed.output else parsed.config.stem)
        if parsed.output is None:
            sys.stdout.write(text)
        else:
            _write(parsed.output, text)
        for note in notes:
            sys.stderr.write(f"{note}\n")
        return 0

    return guarded(run, ours)


def convert(path: Path, name: str) -> tuple[str, list[str]]:
    """Convert a configuration file.

    Args:
        path: OpenMSIStream configuration file.
        name: what the new one is to be called, without ``.yaml``.

    Returns:
        The new file's text, and what a person should know about it.

    Raises:
        ConfigurationError: the old one can't be read, or says something that this program can't do.
    """
    written = written_sections(path)
    notes: list[str] = []
    sections = {
        section: {key: _value(section, key, value, notes) for key, value in keys.items()}
        for section, keys in written.items()
    }
    beside = [section for section in _BESIDE if section in sections]
    meaning = interpret(path, sections, beside)
    notes += meaning.notes
    if meaning.group_id not in {"", CREATE_NEW}:
        notes.append(
            f"group.id = {meaning.group_id} is not taken over: OpenMSIStream's MetadataJSONReproducer never used it. "
            f"To go on from the place of a group: group_id={meaning.group_id}"
        )
    notes += [
        f"The section [{section}] is used when a topic is named: {section}.topic=NAME (was: --{section}_topic_name)."
        for section in beside
    ]
    return f"{_HEAD.format(old=path.name, name=name)}{OmegaConf.to_yaml(OmegaConf.create(_tree(meaning)))}", notes


def _tree(meaning: OpenMSIStreamConfig) -> dict[str, Any]:
    clients = meaning.clients
    kinds = {"consumer": clients.consumer, "producer": clients.producer}
    own = {
        kind: {name: value for name, value in settings.items() if clients.common.get(name) != value}
        for kind, settings in kinds.items()
    }
    tree: dict[str, Any] = {"kafka": _nested(clients.common)}
    tree |= {kind: _nested(settings) for kind, settings in own.items() if settings}
    for section, others in (("heartbeat", meaning.heartbeat), ("log", meaning.log)):
        if others is not None:
            # All of it, with the address: so it stands alone, and nothing of [producer] is added.
            tree[section] = {"kafka": _nested(others.common)}
    return {**tree, "start": meaning.start}


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``a.b`` as ``b`` below ``a``, so that ``kafka.a.b=...`` on the command line changes it."""
    tree: dict[str, Any] = {}
    for name, value in sorted(settings.items()):
        *parents, last = name.split(".")
        place = tree
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):  # a.b beside a: as it is
                place, last = tree, name
                break
            place = inner
        place[last] = value
    return tree


def _value(section: str, key: str, value: str, notes: list[str]) -> str:
    found = _VARIABLE_OR_INTERPOLATION if value.startswith("$") else _INTERPOLATION
    converted = found.sub(_for_omegaconf, value)
    if not is_secret(key) or _ENVIRONMENT_ONLY.match(converted):
        return converted
    words = ("kafka", key) if section == "broker" else ("kafka", section, key)
    variable = re.sub(r"\W", "_", "_".join(words)).upper()
    notes.append(f"{key} of [{section}] is a secret, which the new file doesn't have: put it into {variable}.")
    return f"${{oc.env:{variable}}}"


def _for_omegaconf(match: re.Match[str]) -> str:
    """Write a variable as OmegaConf's, and what looks like one as text; backslashes before either count double."""
    slashes = match["slashes"] * 2
    name = variable_name(match) if match.groupdict().get("name") else None
    if name is None:
        return f"{slashes}\\${{"
    if not _PLAIN_NAME.fullmatch(name):
        name = _quoted(name)
    return f"{slashes}${{oc.env:{name}}}"


def _quoted(name: str) -> str:
    """Write a text in OmegaConf's quotes, in which backslashes count double before a quote, a ``${`` and the end."""
    doubled = re.sub(r"(\\+)(?='|\$\{|\Z)", r"\1\1", name)
    escaped = re.sub(r"'|\$\{", lambda match: f"\\{match[0]}", doubled)
    return f"'{escaped}'"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"The directory {path.parent} can't be made: {error.strerror}.") from error
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigurationError(f"{path} is there already.", hint="Name another --output, or remove it.") from error
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror}.") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ray_reproducer.convert_config",
        description="Writes an OpenMSIStream configuration file as one for `python -m ray_reproducer`.",
    )
    parser.add_argument("config", type=config_path, help="the file, or its name as --config takes it")
    parser.add_argument("--output", type=Path, help="the new file, conf/kafka/NAME.yaml; otherwise it is printed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
