"""OpenMSIStream's command line: the arguments of programs made of a ``MetadataJSONReproducer``.

Rules:

1. Names, defaults and meaning are OpenMSIStream's. What it has and this program doesn't do yet is refused by name,
   never silently ignored.
2. A subclass adds arguments in ``ARGUMENTS`` (name -> ["positional" | "optional", keywords of ``add_argument``]) and
   lists them in ``get_command_line_arguments``.
3. A topic that was not named is ``--topic_name``.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

DEFAULT_NAME: Final = "test"
"""What OpenMSIStream calls a configuration or a topic that nobody named."""
CREATE_NEW: Final = "create_new"
"""As a group id: a new one for each run."""
CONFIG_DIRECTORY: Final = "OPENMSISTREAM_CONFIG_FILE_DIR"
"""Environment variable with the directory where configuration files are looked for."""
DEFAULT_UPDATE_SECONDS: Final = 300
"""Seconds between two lines of progress."""
NOT_YET: Final = (
    "logger_file_path",
    "logger_file_level",
    "heartbeat_topic_name",
    "heartbeat_program_id",
    "heartbeat_interval_secs",
    "log_topic_name",
    "log_program_id",
    "log_interval_secs",
    "treat_undecryptable_as_plaintext",
    "max_wait_per_decrypt",
    "max_initial_wait_per_decrypt",
)
"""Arguments of OpenMSIStream that this program doesn't know what to do with yet."""
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


class _RefuseNotYet(argparse.Action):
    """Says that an argument isn't supported yet."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> NoReturn:
        """End the program with a message."""
        parser.error(f"{option_string} of OpenMSIStream is not supported yet; leave it out")


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
        **{
            name: ["optional", {"action": _RefuseNotYet, "nargs": "?", "default": None, "help": argparse.SUPPRESS}]
            for name in NOT_YET
        },
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
                self.add_argument(f"--{name.removeprefix(_OPTIONAL_PREFIX)}", **_with_default_in_help(options))
            else:
                raise ValueError(f"{type(self).__name__}.ARGUMENTS[{name!r}] begins with {kind!r}")

    def parse_known_args(  # type: ignore[override]  # argparse declares overloads for other kinds of namespaces
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, and give ``--topic_name`` to the topics that were not named (``parse_args`` calls this too)."""
        parsed, others = super().parse_known_args(args, namespace)
        common = getattr(parsed, "topic_name", DEFAULT_NAME)
        for name in ("consumer_topic_name", "producer_topic_name"):
            if getattr(parsed, name, None) == DEFAULT_NAME:
                setattr(parsed, name, common)
        return parsed, others


def _with_default_in_help(options: dict[str, Any]) -> dict[str, Any]:
    text, default = options.get("help"), options.get("default")
    if not text or text == argparse.SUPPRESS or default is None or "%(default)" in text:
        return options
    return {**options, "help": f"{text} (default: %(default)s)"}
