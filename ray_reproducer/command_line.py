"""OpenMSIStream's command line: the arguments of programs made of a ``MetadataJSONReproducer``.

Rules:

1. Names, defaults and meaning are OpenMSIStream's. What means nothing here is accepted, and said when the run begins.
2. A subclass adds arguments in ``ARGUMENTS`` (name -> ["positional" | "optional", keywords of ``add_argument``]) and
   lists them in ``get_command_line_arguments``.
3. A topic that was not named is ``--topic_name``.
4. What stands after ``--`` are settings of this program, as ``python -m ray_reproducer`` takes them; they are checked
   when the run begins. ``--ray-address`` is ours, too.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from ray_reproducer.class_arguments import (
    DEFAULT_DECRYPT_WAIT_S,
    DEFAULT_FIRST_DECRYPT_WAIT_S,
    DEFAULT_HEARTBEAT_INTERVAL_S,
    DEFAULT_LOG_INTERVAL_S,
)

DEFAULT_NAME: Final = "test"
"""What OpenMSIStream calls a configuration or a topic that nobody named."""
CREATE_NEW: Final = "create_new"
"""As a group id: a new one for each run."""
CONFIG_DIRECTORY: Final = "OPENMSISTREAM_CONFIG_FILE_DIR"
"""Environment variable with the directory where configuration files are looked for."""
DEFAULT_UPDATE_SECONDS: Final = 300
"""Seconds between two lines of progress."""
ARGUMENT_NAMES: Final = (
    "config",
    "topic_name",
    "consumer_topic_name",
    "producer_topic_name",
    "consumer_group_id",
    "n_consumer_threads",
    "n_producer_threads",
    "download_regex",
    "mode",
    "update_seconds",
    "logger_stream_level",
    "logger_file_level",
    "logger_file_path",
    "heartbeat_topic_name",
    "heartbeat_program_id",
    "heartbeat_interval_secs",
    "log_topic_name",
    "log_program_id",
    "log_interval_secs",
    "treat_undecryptable_as_plaintext",
    "max_wait_per_decrypt",
    "max_initial_wait_per_decrypt",
    "ray_address",
)
"""Arguments of a ``MetadataJSONReproducer``, beside the output directory."""
_SPELT: Final = {"ray_address": "ray-address"}
"""Arguments that are not spelt as they are called."""
_OVERRIDES_AFTER: Final = "--"
_AFTER_HELP: Final = (
    "after --: settings of ray_reproducer, such as extraction.timeout=60 or run=drain;\n"
    "  python -m ray_reproducer --help lists them"
)
_OPTIONAL_PREFIX: Final = "optional_"


def config_path(text: str) -> Path:
    """Find a configuration file: in the working directory, then where ``OPENMSISTREAM_CONFIG_FILE_DIR`` says.

    Args:
        text: path or name; a name without a point gets ``.config``.

    Raises:
        argparse.ArgumentTypeError: there is none.
    """
    name = text if "." in Path(text).name else f"{text}.config"
    configured = os.environ.get(CONFIG_DIRECTORY)
    candidates = [Path(name), *([Path(configured) / name] if configured else [])]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.absolute()
    looked = " and ".join(str(candidate.absolute()) for candidate in candidates)
    raise argparse.ArgumentTypeError(f"there is no configuration file {name} (looked for {looked})")


def positive_integer(text: str) -> int:
    """Read a number of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return number


def positive_seconds(text: str) -> float:
    """Read a number of seconds above 0.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def regular_expression(text: str) -> re.Pattern[str]:
    """Read a regular expression.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error


def logging_level(text: str) -> int:
    """Read a level of ``logging``, by its name or its number.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    if text.lstrip("-").isdigit():
        return int(text)
    level = logging.getLevelName(text.strip().upper())
    if not isinstance(level, int):
        raise argparse.ArgumentTypeError(f"{text!r} is no logging level: debug, info, warning, error, critical")
    return level


class ReproducerArgumentParser(argparse.ArgumentParser):
    """A parser that knows OpenMSIStream's arguments, and those that a subclass adds to ``ARGUMENTS``."""

    ARGUMENTS: ClassVar[Mapping[str, Sequence[Any]]] = {
        "config": [
            "optional",
            {
                "type": config_path,
                "default": DEFAULT_NAME,
                "help": f"configuration file, or its name in the working directory or ${CONFIG_DIRECTORY}",
            },
        ],
        "topic_name": ["optional", {"default": DEFAULT_NAME, "help": "topic, for those that are not named"}],
        "consumer_topic_name": ["optional", {"default": DEFAULT_NAME, "help": "topic with the chunks of the files"}],
        "producer_topic_name": ["optional", {"default": DEFAULT_NAME, "help": "topic that gets the metadata"}],
        "consumer_group_id": [
            "optional",
            {"default": CREATE_NEW, "help": "group whose place on the topic is kept; create_new: a new one each time"},
        ],
        "n_consumer_threads": [
            "optional",
            {"type": positive_integer, "default": 2, "help": "number of processes that read from the topic"},
        ],
        "n_producer_threads": [
            "optional",
            {
                "type": positive_integer,
                "default": 2,
                "help": "for OpenMSIStream: here one transaction holds all results",
            },
        ],
        "download_regex": [
            "optional",
            {"type": regular_expression, "help": "only files whose relative path begins with a match"},
        ],
        "mode": [
            "optional",
            {
                "choices": ["memory", "disk", "both"],
                "default": "memory",
                "help": "whether files are given in memory, on disk, or both",
            },
        ],
        "output_dir": ["positional", {"type": Path, "help": "directory for files on disk"}],
        "optional_output_dir": ["optional", {"type": Path, "help": "directory for files on disk"}],
        "update_seconds": [
            "optional",
            {
                "type": int,
                "default": DEFAULT_UPDATE_SECONDS,
                "help": "seconds between two lines of progress where there is no terminal; -1: none",
            },
        ],
        "logger_stream_level": [
            "optional",
            {"type": logging_level, "default": "info", "help": "messages below this level are not shown"},
        ],
        "logger_file_level": [
            "optional",
            {"type": logging_level, "default": "warning", "help": "messages below this level are not in the log file"},
        ],
        "logger_file_path": [
            "optional",
            {"type": Path, "help": "the log file, or a directory for it; by default in LOGS of the output directory"},
        ],
        "heartbeat_topic_name": ["optional", {"help": "topic for heartbeats; by default none are sent"}],
        "heartbeat_program_id": ["optional", {"help": "what heartbeats call this program"}],
        "heartbeat_interval_secs": [
            "optional",
            {
                "type": positive_seconds,
                "default": DEFAULT_HEARTBEAT_INTERVAL_S,
                "help": "seconds between two heartbeats",
            },
        ],
        "log_topic_name": ["optional", {"help": "topic for log messages; by default none are sent"}],
        "log_program_id": ["optional", {"help": "what these messages call this program"}],
        "log_interval_secs": [
            "optional",
            {
                "type": positive_seconds,
                "default": DEFAULT_LOG_INTERVAL_S,
                "help": "seconds between two messages on that topic",
            },
        ],
        "treat_undecryptable_as_plaintext": [
            "optional",
            {"action": "store_true", "help": "for OpenMSIStream: here messages are read as they are"},
        ],
        "max_wait_per_decrypt": [
            "optional",
            {"type": float, "default": DEFAULT_DECRYPT_WAIT_S, "help": "for OpenMSIStream, as above"},
        ],
        "max_initial_wait_per_decrypt": [
            "optional",
            {"type": float, "default": DEFAULT_FIRST_DECRYPT_WAIT_S, "help": "for OpenMSIStream, as above"},
        ],
        "ray_address": [
            "optional",
            {"metavar": "HOST:PORT", "help": "a Ray cluster that runs; by default Ray is started on this machine"},
        ],
    }

    def add_arguments(self, names: Iterable[str], defaults: Mapping[str, Any]) -> None:
        """Add arguments that ``ARGUMENTS`` declares.

        Args:
            names: which.
            defaults: new defaults of these, or of more arguments, by name.

        Raises:
            ValueError: a name is not declared.
        """
        for name in dict.fromkeys([*names, *defaults]):
            if name not in self.ARGUMENTS:
                known = ", ".join(sorted(self.ARGUMENTS))
                raise ValueError(f"{type(self).__name__}.ARGUMENTS has no {name!r}; it has: {known}")
            kind, keywords = self.ARGUMENTS[name]
            options = {**keywords, **({"default": defaults[name]} if name in defaults else {})}
            if kind == "positional":
                self.add_argument(name, **options)
            elif kind == "optional":
                spelt = _SPELT.get(name, name.removeprefix(_OPTIONAL_PREFIX))
                self.add_argument(f"--{spelt}", **_with_default_in_help(options))
            else:
                raise ValueError(f"{type(self).__name__}.ARGUMENTS[{name!r}] begins with {kind!r}")

    def parse_known_args(  # type: ignore[override]  # argparse declares overloads for other kinds of namespaces
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, and give ``--topic_name`` to the topics that were not named (``parse_args`` calls this too).

        What stands after ``--`` is in ``overrides`` of what is returned.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        overrides: list[str] = []
        if _OVERRIDES_AFTER in arguments:
            place = arguments.index(_OVERRIDES_AFTER)
            arguments, overrides = arguments[:place], arguments[place + 1 :]
        self._refuse_no_override(overrides)
        parsed, others = super().parse_known_args(arguments, namespace)
        parsed.overrides = overrides
        common = getattr(parsed, "topic_name", DEFAULT_NAME)
        for name in ("consumer_topic_name", "producer_topic_name"):
            if getattr(parsed, name, None) == DEFAULT_NAME:
                setattr(parsed, name, common)
        return parsed, others

    def format_usage(self) -> str:
        """Return the usage, with what may stand after ``--``."""
        return f"{super().format_usage().rstrip()} [-- KEY=VALUE ...]\n"

    def format_help(self) -> str:
        """Return the help, with what may stand after ``--``."""
        text = super().format_help().replace(super().format_usage(), self.format_usage(), 1)
        return f"{text}\n{_AFTER_HELP}\n"

    def _refuse_no_override(self, overrides: Iterable[str]) -> None:
        for text in overrides:
            if "=" not in text and not text.startswith("~"):
                self.error(f"after -- stand settings of ray_reproducer, KEY=VALUE; {text!r} is none")


def _with_default_in_help(options: dict[str, Any]) -> dict[str, Any]:
    text, default = options.get("help"), options.get("default")
    if not text or text == argparse.SUPPRESS or default is None or "%(default)" in text:
        return options
    return {**options, "help": f"{text} (default: %(default)s)"}
