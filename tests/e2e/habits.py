"""Classes as OpenMSIStream's users write them, each with habits of its own; only the import line is ours."""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import os
import re
import sqlite3
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ray_reproducer import DataFile, MetadataJSONReproducer

MODULE_LOGGER = logging.getLogger("lab.parsing")
PIECE_BYTES = 65_536
_unpickled = 0


class LongForm(MetadataJSONReproducer):
    """Arguments of its own; writes the long form: config and both topics, and no keyword of ours in its constructor."""

    class ARGUMENT_PARSER_TYPE(  # noqa: N801 - how they write it
        MetadataJSONReproducer.ARGUMENT_PARSER_TYPE  # type: ignore[valid-type, misc]
    ):
        ARGUMENTS = {  # noqa: RUF012
            **MetadataJSONReproducer.ARGUMENT_PARSER_TYPE.ARGUMENTS,
            "instrument": ["positional", {"help": "which instrument"}],
            "separator": ["optional", {"default": ","}],
        }

    def __init__(
        self, config_file: Any, consumer_topic_name: str, producer_topic_name: str, instrument: str, **kwargs: Any
    ) -> None:
        self.separator = kwargs.pop("separator")
        super().__init__(config_file, consumer_topic_name, producer_topic_name, **kwargs)
        self.instrument = instrument

    @classmethod
    def get_command_line_arguments(cls) -> tuple[list[str], dict[str, Any]]:
        names, defaults = super().get_command_line_arguments()
        return [*names, "instrument", "separator"], {**defaults, "n_consumer_threads": 1}

    @classmethod
    def get_init_args_kwargs(cls, parsed_args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
        args, kwargs = super().get_init_args_kwargs(parsed_args)
        return [*args, parsed_args.instrument], {**kwargs, "separator": parsed_args.separator}

    def _get_metadata_dict_for_file(self, datafile: DataFile) -> dict[str, Any]:
        columns = datafile.bytestring.decode().split(self.separator)
        return {"instrument": self.instrument, "columns": len(columns)}


class ShortForm(LongForm):
    """Writes the short form: config and the producer's topic, and both topics by name."""

    def __init__(self, config_file: Any, *args: Any, **kwargs: Any) -> None:
        instrument = kwargs.pop("instrument")
        consumer_topic_name, producer_topic_name = args
        super().__init__(config_file, consumer_topic_name, producer_topic_name, instrument, **kwargs)

    @classmethod
    def get_init_args_kwargs(cls, parsed_args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
        _, kwargs = super().get_init_args_kwargs(parsed_args)
        kwargs |= {
            "instrument": parsed_args.instrument,
            "consumer_topic_name": parsed_args.consumer_topic_name,
            "producer_topic_name": parsed_args.producer_topic_name,
        }
        return [parsed_args.config, parsed_args.producer_topic_name], kwargs


class WithState(MetadataJSONReproducer):
    """Prepares what it needs in its constructor, and leaves out of its pickle what can't travel."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.number = re.compile(r"\d+")
        self.units = {"K": 1.0, "mK": 1e-3}
        self.model = np.arange(250_000, dtype=np.float64)
        self._connect()

    def _connect(self) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self.seen: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["_db"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        global _unpickled  # noqa: PLW0603 - counts what happened in this process
        _unpickled += 1
        self.__dict__.update(state)
        self._connect()

    def _get_metadata_dict_for_file(self, datafile: DataFile) -> dict[str, Any]:
        with self.lock:
            self.seen.append(datafile.filename)
        value, unit = datafile.bytestring.decode().split()
        assert self.number.fullmatch(value)
        return {
            "kelvin": float(value) * self.units[unit],
            "model": self.model[int(value)],
            "database": self._db.execute("select 7").fetchone()[0],
            "process": os.getpid(),
            "unpickled": _unpickled,
            "seen_before": len(self.seen) - 1,
        }


class FromDisk(MetadataJSONReproducer):
    """Reads its file from disk, piece by piece, and logs where it is."""

    def _get_metadata_dict_for_file(self, datafile: DataFile) -> dict[str, Any]:
        digest, pieces = hashlib.sha512(), 0
        with Path(datafile.full_filepath).open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
                pieces += 1
        return {
            "pieces": pieces,
            "same": digest.digest() == datafile.check_file_hash,
            "below": str(datafile.full_filepath.relative_to(self._output_dir)),
            "bytes": len(datafile.bytestring),
        }


class WithHooks(MetadataJSONReproducer):
    """Overrides what can be overridden; what its hooks see in a worker, they log."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.driver: list[tuple[str, int, int]] = []

    def _get_metadata_dict_for_file(self, datafile: DataFile) -> dict[str, Any]:
        if datafile.filename.startswith("bad"):
            raise ValueError(f"{datafile.filename} is bad")
        if datafile.filename.startswith("odd"):
            return {"beyond 64 bits": 2**70}
        return {"process": os.getpid()}

    def _failed_computing_processing_result(self, datafile: DataFile, lock: threading.Lock) -> None:
        with lock:
            self.logger.error("failed with %d bytes", len(datafile.bytestring))
        if datafile.filename == "bad_hook.csv":
            raise RuntimeError("the hook is bad, too")

    def _mismatched_hash_callback(self, datafile: DataFile, lock: threading.Lock) -> None:
        with lock:
            self.logger.error("mismatch: %s", datafile.bytestring)

    def _on_check(self) -> None:
        self.driver.append(("check", self.n_msgs_read, self.n_results_produced_files))
        super()._on_check()

    def _on_shutdown(self) -> None:
        super()._on_shutdown()
        self.driver.append(("shutdown", self.n_msgs_read, self.n_results_produced_files))


class LongParse(MetadataJSONReproducer):
    """Parses with pandas, for some time, and returns what numpy and pandas give."""

    def _get_metadata_dict_for_file(self, datafile: DataFile) -> dict[str, Any]:
        frame = pd.read_csv(io.BytesIO(datafile.bytestring))
        values = frame["y"].to_numpy()
        for _ in range(30):
            np.linalg.svd(np.outer(values, values))
        return {
            "mean": values.mean(),
            "peak": frame["x"].iloc[values.argmax()],
            "histogram": np.histogram(values, bins=3)[0],
            "columns": list(frame.columns),
        }


class LoggerUser(MetadataJSONReproducer):
    """Says what it does, by every logger that it has."""

    def _get_metadata_dict_for_file(self, datafile: DataFile) -> dict[str, Any]:
        self.logger.debug("not shown")
        self.logger.info("reading %s", datafile.filename)
        datafile.logger.warning("from the datafile")
        MODULE_LOGGER.warning("from the module")
        try:
            return {"number": int(datafile.bytestring)}
        except ValueError as error:
            self.logger.warning("no number", exc_info=error)
            if datafile.filename == "raised.txt":
                self.logger.error("this can't go on", exc_info=error, reraise=True)  # noqa: TRY400 - their way
            if datafile.filename == "typed.txt":
                self.logger.error("of another type", exc_type=KeyError)  # noqa: TRY400 - their way
            return {"number": None}
