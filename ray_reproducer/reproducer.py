"""The base class for extractors that are more than a function, with OpenMSIStream's interface.

Rules:

1. A class written for OpenMSIStream's ``MetadataJSONReproducer`` works after changing its import line.
2. An instance is made on the driver and travels to the workers. What can't travel (the lock, the logger's handlers)
   is made anew there. Each worker has an instance of its own: what one remembers, the others don't know.
3. Importing this module starts nothing and is cheap.
"""

from __future__ import annotations

import argparse
import logging
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from ray_reproducer.command_line import CREATE_NEW, DEFAULT_UPDATE_SECONDS, NOT_YET, ReproducerArgumentParser
from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.data_file import DataFile
from ray_reproducer.extractor_logger import ExtractorLogger

_NOT_YET_KEYWORDS: Final = frozenset(NOT_YET) | {"logger_file", "filelevel"}
_MADE_ANEW: Final = ("lock", "logger")
_MODES: Final = ("memory", "disk", "both")


class MetadataJSONReproducer(ABC):
    """Makes metadata of each file on a topic: derive from it and write ``_get_metadata_dict_for_file``.

    Run it from the command line (``run_from_command_line``), or name it in ``conf/extractor/mine.yaml`` (``_target_``).

    Args:
        config_file: OpenMSIStream configuration file; None if the broker is named elsewhere (Hydra).
        consumer_topic_name: topic with the chunks of the files.
        producer_topic_name: topic that gets the metadata.
        output_dir: directory for files on disk; None: ``<class name>_output``.
        mode: "memory", "disk" or "both": what a datafile offers.
        datafile_type: for OpenMSIStream; ``DataFile`` is the only one.
        n_producer_threads: for OpenMSIStream; one transaction holds all results.
        n_consumer_threads: number of processes that read from the topic.
        consumer_group_id: group whose place on the topic is kept; "create_new": a new one for each run.
        filepath_regex: only files whose relative path begins with a match.
        logger: what ``self.logger`` is on the driver; None: one of this program's.
        streamlevel: messages of ``self.logger`` below this level are not logged.
        update_secs: seconds between two lines of progress where there is no terminal; -1: none.
        others: arguments of OpenMSIStream that are not supported yet; they must be None.

    Raises:
        ConfigurationError: an argument is not supported yet, or has a value that is not possible.
        TypeError: an argument that nobody knows.
    """

    ARGUMENT_PARSER_TYPE: ClassVar[type[ReproducerArgumentParser]] = ReproducerArgumentParser
    LOG_SUBDIR_NAME: ClassVar[str] = "LOGS"
    N_RECENT_FILES: ClassVar[int] = 50

    def __init__(
        self,
        config_file: str | Path | None,
        consumer_topic_name: str,
        producer_topic_name: str,
        *,
        output_dir: str | Path | None = None,
        mode: str = "memory",
        datafile_type: type | None = None,
        n_producer_threads: int = 1,
        n_consumer_threads: int = 2,
        consumer_group_id: str = CREATE_NEW,
        filepath_regex: str | re.Pattern[str] | None = None,
        logger: Any = None,
        streamlevel: int = logging.INFO,
        update_secs: int = DEFAULT_UPDATE_SECONDS,
        **others: Any,
    ) -> None:
        self._refuse(others)
        if mode not in _MODES:
            raise ConfigurationError(f"mode={mode!r} is not possible.", hint=f"One of: {', '.join(_MODES)}.")
        if datafile_type not in (None, DataFile):
            raise ConfigurationError(
                f"datafile_type={datafile_type!r} is not supported yet.", hint="Leave it out: a DataFile is given."
            )
        name = type(self).__name__
        self.consumer_topic_name = str(consumer_topic_name)
        self.producer_topic_name = str(producer_topic_name)
        self.consumer_group_id = str(consumer_group_id)
        self.n_threads = int(n_consumer_threads)
        self.n_producer_threads = int(n_producer_threads)
        self.mode = mode
        self.update_secs = update_secs
        self._config_file = None if config_file is None else Path(config_file)
        self._output_dir = (Path(output_dir) if output_dir is not None else Path(f"{name}_output")).absolute()
        self._filepath_regex = re.compile(filepath_regex) if filepath_regex is not None else None
        self._streamlevel = streamlevel
        self.lock = threading.Lock()
        self.logger: Any = logger if logger is not None else ExtractorLogger(name, streamlevel)

    @abstractmethod
    def _get_metadata_dict_for_file(self, datafile: DataFile) -> Mapping[str, Any]:
        """Return the metadata of one file.

        Args:
            datafile: the file, with its content.

        Returns:
            What JSON can say: strings, numbers, lists, dictionaries, also numpy's numbers and arrays, and dates.

        An exception makes a dead letter of this file, with the traceback; the other files go on.
        """

    @classmethod
    def run_from_command_line(cls, args: Sequence[str] | None = None) -> None:
        """Run this class as a program until it is stopped (Ctrl-C, SIGTERM).

        Args:
            args: the arguments; None: those of the process.

        Raises:
            SystemExit: if the exit code is not 0; what went wrong is on stderr by then.
        """
        from ray_reproducer.openmsistream_run import run_command_line

        code = run_command_line(cls, args)
        if code:
            raise SystemExit(code)

    @classmethod
    def get_argument_parser(cls) -> ReproducerArgumentParser:
        """Return the parser of this class's command line; callers may add arguments to it."""
        parser = cls.ARGUMENT_PARSER_TYPE(description=_first_paragraph(cls))
        names, defaults = cls.get_command_line_arguments()
        parser.add_arguments(names, defaults)
        return parser

    @classmethod
    def get_command_line_arguments(cls) -> tuple[list[str], dict[str, Any]]:
        """Return the names of this class's arguments, and new defaults by name; subclasses add to both."""
        names = [
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
            *NOT_YET,
        ]
        return names, {"optional_output_dir": Path(f"{cls.__name__}_output")}

    @classmethod
    def get_init_args_kwargs(cls, parsed_args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
        """Return what the constructor is called with; subclasses add what they need.

        Args:
            parsed_args: what the parser of this class made of a command line.
        """
        args = [parsed_args.config, parsed_args.consumer_topic_name, parsed_args.producer_topic_name]
        kwargs = {
            "output_dir": parsed_args.output_dir,
            "mode": parsed_args.mode,
            "n_producer_threads": parsed_args.n_producer_threads,
            "n_consumer_threads": parsed_args.n_consumer_threads,
            "consumer_group_id": parsed_args.consumer_group_id,
            "filepath_regex": parsed_args.download_regex,
            "streamlevel": parsed_args.logger_stream_level,
            "update_secs": parsed_args.update_seconds,
        }
        return args, kwargs

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can't travel to another process."""
        return {name: value for name, value in self.__dict__.items() if name not in _MADE_ANEW}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the state, and make anew what could not travel."""
        self.__dict__.update(state)
        self.lock = threading.Lock()
        self.logger = ExtractorLogger(type(self).__name__, self._streamlevel)

    def _refuse(self, others: Mapping[str, Any]) -> None:
        for name, value in others.items():
            if name not in _NOT_YET_KEYWORDS:
                raise TypeError(f"{type(self).__name__}.__init__() got an unexpected keyword argument {name!r}")
            if value is not None:
                raise ConfigurationError(f"{name} of OpenMSIStream is not supported yet.", hint=f"Leave {name} out.")


def _first_paragraph(cls: type) -> str:
    return (cls.__doc__ or cls.__name__).strip().partition("\n\n")[0]
