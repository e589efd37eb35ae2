"""The base class for extractors that are more than a function, with OpenMSIStream's interface.

Rules:

1. A class written for OpenMSIStream's ``MetadataJSONReproducer`` works after changing its import line.
2. An instance is made in the driver, and copies of it travel to the workers: once to each worker process, not once a
   file. What belongs to a process (lock, logger, queue of commands) is made anew there. Each worker has an instance of
   its own: what one remembers, the others and the driver don't know.
3. In the driver run ``__init__``, ``_on_check``, ``_on_result_produced`` and ``_on_shutdown``; counters are counted
   there. In a worker run ``_get_metadata_dict_for_file``, ``_failed_computing_processing_result`` and
   ``_mismatched_hash_callback``.
4. Importing this module starts nothing and is cheap.
"""

from __future__ import annotations

import argparse
import logging
import queue
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, SupportsIndex

from ray_reproducer.class_arguments import (
    DEFAULT_DECRYPT_WAIT_S,
    DEFAULT_FIRST_DECRYPT_WAIT_S,
    DEFAULT_HEARTBEAT_INTERVAL_S,
    DEFAULT_LOG_INTERVAL_S,
    ClassArguments,
    check_mode,
    interval,
    log_file,
    regular_expression,
    texts,
    unused,
)
from ray_reproducer.command_line import ARGUMENT_NAMES, CREATE_NEW, DEFAULT_UPDATE_SECONDS, ReproducerArgumentParser
from ray_reproducer.data_file import DataFile
from ray_reproducer.extractor_logger import ExtractorLogger
from ray_reproducer.registry_view import FileRegistryView

_making: Final = threading.Lock()
"""So that two threads that ask for a lock at the same time get the same one."""


def _logger_of(instance: MetadataJSONReproducer) -> ExtractorLogger:
    arguments = instance.__dict__.get("_settings")
    level = min(arguments.stream_level, arguments.file_level) if arguments is not None else logging.INFO
    return ExtractorLogger(type(instance).__name__, level)


_OF_THE_PROCESS: Final[Mapping[str, Callable[[MetadataJSONReproducer], Any]]] = {
    "lock": lambda _: threading.Lock(),
    "logger": _logger_of,
    "control_command_queue": lambda _: queue.Queue(),
    "_run": lambda _: None,
}
"""Attributes that don't travel, and how they are made where they are first asked for."""


class MetadataJSONReproducer(ABC):
    """Makes metadata of each file on a topic: derive from it and write ``_get_metadata_dict_for_file``.

    Run it from the command line (``run_from_command_line``), in a program or a notebook of yours
    (``produce_processing_results_for_files_as_read``), or name it in ``conf/extractor/mine.yaml`` (``_target_``).

    Args:
        config_file: OpenMSIStream configuration file; None if the broker is named elsewhere (Hydra, ``overrides``).
        consumer_topic_name: topic with the chunks of the files.
        producer_topic_name: topic that gets the metadata.
        output_dir: directory for files on disk and for logs; None: ``<class name>_output``.
        mode: "memory", "disk" or "both": what a datafile offers.
        datafile_type: for OpenMSIStream, whose own classes are accepted; a ``DataFile`` is given in any case.
        n_producer_threads: for OpenMSIStream; one transaction holds all results.
        n_consumer_threads: number of processes that read from the topic.
        consumer_group_id: group whose place on the topic is kept; "create_new": a new one for each run.
        filepath_regex: only files whose relative path begins with a match.
        logger: what ``self.logger`` is in the driver, and where a run in this process reports; None: one named like
            the class. In workers it is one of that name.
        logger_file: the log file, or a directory for it; None: in the directory ``LOGS`` of ``output_dir``.
        streamlevel: log records below this level are not shown.
        filelevel: log records below this level are not written to the log file.
        update_secs: seconds between two lines of progress where there is no terminal; -1: none.
        heartbeat_topic_name: topic for heartbeats; None: none are sent.
        heartbeat_program_id: what heartbeats call this program.
        heartbeat_interval_secs: seconds between two heartbeats.
        log_topic_name: topic for log messages; None: none are sent.
        log_program_id: what they call this program.
        log_interval_secs: seconds between two of them.
        treat_undecryptable_as_plaintext: for OpenMSIStream; messages are read as they are.
        max_wait_per_decrypt: for OpenMSIStream, as above.
        max_initial_wait_per_decrypt: for OpenMSIStream, as above.
        overrides: this program's own settings, as on the command line of ``python -m ray_reproducer``:
            ``["run=drain", "extraction.timeout=60"]``.
        ray_address: address of a Ray cluster; None: the Ray that this process has, or else one of its own.

    Raises:
        ConfigurationError: an argument has a value that is not possible.
    """

    ARGUMENT_PARSER_TYPE: ClassVar[type[ReproducerArgumentParser]] = ReproducerArgumentParser
    LOG_SUBDIR_NAME: ClassVar[str] = "LOGS"
    N_RECENT_FILES: ClassVar[int] = 50

    lock: threading.Lock
    """For the threads of one process: this one's, or a worker's."""
    logger: Any
    """A logger that also knows ``exc_type=`` and ``reraise=``. What workers log reaches the program's log."""
    control_command_queue: queue.Queue[str]
    """Takes "q" or "quit" (finish what is in flight, then end) and "c" or "check" (``_on_check``)."""
    _run: Any
    """What runs this instance now; None: nothing does."""

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
        logger_file: str | Path | None = None,
        streamlevel: int = logging.INFO,
        filelevel: int = logging.WARNING,
        update_secs: float = DEFAULT_UPDATE_SECONDS,
        heartbeat_topic_name: str | None = None,
        heartbeat_program_id: str | None = None,
        heartbeat_interval_secs: float = DEFAULT_HEARTBEAT_INTERVAL_S,
        log_topic_name: str | None = None,
        log_program_id: str | None = None,
        log_interval_secs: float = DEFAULT_LOG_INTERVAL_S,
        treat_undecryptable_as_plaintext: bool = False,
        max_wait_per_decrypt: float = DEFAULT_DECRYPT_WAIT_S,
        max_initial_wait_per_decrypt: float = DEFAULT_FIRST_DECRYPT_WAIT_S,
        overrides: Sequence[str] | None = None,
        ray_address: str | None = None,
    ) -> None:
        check_mode(mode)
        name = type(self).__name__
        self._settings = ClassArguments(
            config_file=None if config_file is None else Path(config_file),
            stream_level=int(streamlevel),
            file_level=int(filelevel),
            log_file=log_file(logger_file, name),
            heartbeat_topic=heartbeat_topic_name,
            heartbeat_program_id=heartbeat_program_id,
            heartbeat_interval_s=interval("heartbeat_interval_secs", heartbeat_interval_secs),
            log_topic=log_topic_name,
            log_program_id=log_program_id,
            log_interval_s=interval("log_interval_secs", log_interval_secs),
            overrides=texts(overrides),
            ray_address=ray_address,
            notes=unused(
                datafile_type=datafile_type,
                n_producer_threads=int(n_producer_threads),
                treat_as_plaintext=treat_undecryptable_as_plaintext,
                decrypt_waits=(max_wait_per_decrypt, max_initial_wait_per_decrypt),
            ),
        )
        self.consumer_topic_name = str(consumer_topic_name)
        self.producer_topic_name = str(producer_topic_name)
        self.consumer_group_id = str(consumer_group_id)
        self.n_threads = int(n_consumer_threads)
        self.mode = mode
        self.update_secs = update_secs
        self._output_dir = (Path(output_dir) if output_dir is not None else Path(f"{name}_output")).absolute()
        self._logs_subdir = self._output_dir / self.LOG_SUBDIR_NAME
        self._filepath_regex = regular_expression(filepath_regex)
        if logger is not None:
            self.logger = ExtractorLogger.around(logger) if isinstance(logger, logging.Logger) else logger
        self.n_msgs_read = 0
        self.n_msgs_processed = 0
        self.n_processed_files = 0
        self.n_results_produced_files = 0
        self.recent_processed_filepaths: list[Path] = []
        self.recent_results_produced: list[Path] = []
        self._registry = FileRegistryView()

    # --- what subclasses write ---

    @abstractmethod
    def _get_metadata_dict_for_file(self, datafile: DataFile) -> Mapping[str, Any]:
        """Return the metadata of one file. Runs in a worker.

        Args:
            datafile: the file, with its content.

        Returns:
            What JSON can say: strings, numbers, lists, dictionaries, also numpy's numbers and arrays, and dates.

        An exception makes a dead letter of this file, with the traceback; the other files go on.
        """

    def _failed_computing_processing_result(  # noqa: B027 - subclasses may write it, or not
        self, datafile: DataFile, lock: threading.Lock
    ) -> None:
        """Take note that a file has no metadata. Runs in the worker, after the exception, or after what is no JSON.

        Args:
            datafile: the file, with its content.
            lock: ``self.lock``.

        What this raises is logged. It isn't called for a file that ends its process or takes too long.
        """

    def _mismatched_hash_callback(  # noqa: B027 - as above
        self, datafile: DataFile, lock: threading.Lock
    ) -> None:
        """Take note that a file's content isn't what its sender's hash says. Runs in a worker.

        Args:
            datafile: the file, with the content that arrived, in memory: nothing is written to disk.
            lock: ``self.lock``.

        What this raises is logged.
        """

    def _on_check(self) -> None:
        """Say how far the run is. Runs in the driver, for each command "c" or "check"."""
        self.logger.info(
            "%d messages read, %d processed; %d files processed, %d results produced",
            self.n_msgs_read,
            self.n_msgs_processed,
            self.n_processed_files,
            self.n_results_produced_files,
        )

    def _on_shutdown(self) -> None:  # noqa: B027 - as above
        """Do what is to be done at the end. Runs in the driver, once a run, with the last counters."""

    def _on_result_produced(  # noqa: B027 - as above
        self, relative_filepath: Path, metadata: Mapping[str, Any]
    ) -> None:
        """Take a file's metadata, once it is committed. Runs in the driver; OpenMSIStream has no such hook.

        Args:
            relative_filepath: of the file.
            metadata: what its readers parse: what ``_get_metadata_dict_for_file`` returned, by way of JSON.
        """

    # --- how it is run ---

    def produce_processing_results_for_files_as_read(self) -> tuple[int, int, int, int, list[Path]]:
        """Run until told to end: by ``control_command_queue``, Ctrl-C or SIGTERM, or (``run=drain``) the topic's end.

        Any thread may call it; only in the main thread of a process are signals looked at. If the process is connected
        to Ray already, that Ray is used and left as it is.

        Returns:
            Messages read; messages processed; files put together and given to the extractor; results produced; and the
            relative paths of the latest of these files, at most ``N_RECENT_FILES``.

        Raises:
            ReproducerError: settings, broker or Ray don't allow it, or no longer do.
        """
        from ray_reproducer.openmsistream_run import run_here

        run_here(self)
        return (
            self.n_msgs_read,
            self.n_msgs_processed,
            self.n_processed_files,
            self.n_results_produced_files,
            list(self.recent_processed_filepaths),
        )

    def close(self) -> None:
        """End a run that is going on in another thread, and the Ray that was started for runs like this one."""
        from ray_reproducer.openmsistream_run import close

        close(self)

    @property
    def file_registry(self) -> FileRegistryView:
        """What is known about files in this run; to be read only."""
        return self._registry

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
        return list(ARGUMENT_NAMES), {"optional_output_dir": Path(f"{cls.__name__}_output")}

    @classmethod
    def get_init_args_kwargs(cls, parsed_args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
        """Return what the constructor is called with; subclasses add what they need.

        Args:
            parsed_args: what the parser of this class made of a command line.
        """
        args = [parsed_args.config, parsed_args.consumer_topic_name, parsed_args.producer_topic_name]
        kwargs = {
            keyword: getattr(parsed_args, name)
            for keyword, name in _KEYWORD_OF.items()
            # A class that has no use for an argument may have left it out of its command line.
            if hasattr(parsed_args, name)
        }
        # Only if they are given: a constructor that was written for OpenMSIStream may not take them.
        kwargs |= {name: getattr(parsed_args, name) for name in _OURS if getattr(parsed_args, name, None)}
        return args, kwargs

    # --- how it travels ---

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process."""
        return {name: value for name, value in self.__dict__.items() if name not in _OF_THE_PROCESS}

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Leave it out also if a subclass's ``__getstate__`` has not."""
        reduced = super().__reduce_ex__(protocol)
        if isinstance(reduced, tuple) and len(reduced) > 2 and isinstance(reduced[2], dict):
            state = {name: value for name, value in reduced[2].items() if name not in _OF_THE_PROCESS}
            return (*reduced[:2], state, *reduced[3:])
        return reduced

    if not TYPE_CHECKING:  # a checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Make what belongs to the process, when it is first asked for."""
            make = _OF_THE_PROCESS.get(name)
            if make is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            with _making:
                if name not in self.__dict__:
                    self.__dict__[name] = make(self)
                return self.__dict__[name]


_KEYWORD_OF: Final[Mapping[str, str]] = {
    "output_dir": "output_dir",
    "mode": "mode",
    "n_producer_threads": "n_producer_threads",
    "n_consumer_threads": "n_consumer_threads",
    "consumer_group_id": "consumer_group_id",
    "filepath_regex": "download_regex",
    "logger_file": "logger_file_path",
    "streamlevel": "logger_stream_level",
    "filelevel": "logger_file_level",
    "update_secs": "update_seconds",
    "heartbeat_topic_name": "heartbeat_topic_name",
    "heartbeat_program_id": "heartbeat_program_id",
    "heartbeat_interval_secs": "heartbeat_interval_secs",
    "log_topic_name": "log_topic_name",
    "log_program_id": "log_program_id",
    "log_interval_secs": "log_interval_secs",
    "treat_undecryptable_as_plaintext": "treat_undecryptable_as_plaintext",
    "max_wait_per_decrypt": "max_wait_per_decrypt",
    "max_initial_wait_per_decrypt": "max_initial_wait_per_decrypt",
}
"""Keywords of the constructor, and the arguments of the command line that they are called there."""
_OURS: Final = ("overrides", "ray_address")


def _first_paragraph(cls: type) -> str:
    return (cls.__doc__ or cls.__name__).strip().partition("\n\n")[0]
