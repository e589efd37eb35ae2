"""The class that users extend: OpenMSIStream's interface, and the way to the workers."""

from __future__ import annotations

import logging
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import ray_reproducer
from ray_reproducer import ConfigurationError, DataFile, ExtractorError, MetadataJSONReproducer
from ray_reproducer.extractor_loading import ReproducerArguments, build, load, prepare

REPOSITORY = Path(__file__).parent.parent
IMPORT_LIMIT_S = 0.3


class Plain(MetadataJSONReproducer):
    """Reads a file.

    And more about it.
    """

    def _get_metadata_dict_for_file(self, datafile: DataFile) -> Mapping[str, Any]:
        return {"name": datafile.filename, "topic": self.consumer_topic_name}


class WithArguments(Plain):
    def __init__(self, *args: Any, instrument: str = "none", threshold: float = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.instrument = instrument
        self.threshold = threshold


class Unpicklable(Plain):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._db = sqlite3.connect(":memory:")


class WithStateOfItsOwn(Plain):
    """Writes both halves of pickling itself, without a thought for what the base class holds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.logger.info("before the base class's constructor")
        super().__init__(*args, **kwargs)
        self._db = sqlite3.connect(":memory:")

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_db"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._db = sqlite3.connect(":memory:")


class FakeFile:
    filename = "f.csv"


def test_importing_it_is_quick_and_brings_no_framework() -> None:
    program = (
        "import time; t = time.process_time(); import ray_reproducer, sys; print(time.process_time() - t, *sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    shown = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    seconds, *modules = shown.stdout.split()
    assert float(seconds) < IMPORT_LIMIT_S
    assert not {"ray", "hydra", "omegaconf", "confluent_kafka", "pyarrow", "rich"} & set(modules)


def test_the_package_names_what_users_need() -> None:
    assert ray_reproducer.MetadataJSONReproducer is MetadataJSONReproducer
    assert all(hasattr(ray_reproducer, name) for name in ray_reproducer.__all__)
    assert f'version = "{ray_reproducer.__version__}"' in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def test_it_has_the_attributes_that_subclasses_use(tmp_path: Path) -> None:
    plain = Plain(None, "raw", "metadata", output_dir=tmp_path, consumer_group_id="g", filepath_regex="a/")
    assert (plain.consumer_topic_name, plain.producer_topic_name, plain.consumer_group_id) == ("raw", "metadata", "g")
    assert plain._output_dir == tmp_path
    assert Plain(None, "raw", "metadata")._output_dir == Path("Plain_output").absolute()
    assert (plain.LOG_SUBDIR_NAME, plain.N_RECENT_FILES, plain.n_threads) == ("LOGS", 50, 2)
    with plain.lock:
        plain.logger.info("%s is here", "the lock")


def test_the_one_method_must_be_written() -> None:
    with pytest.raises(TypeError, match="_get_metadata_dict_for_file"):
        MetadataJSONReproducer(None, "raw", "metadata")  # type: ignore[abstract]


def test_arguments_that_nobody_knows_and_values_that_are_not_possible() -> None:
    arguments: dict[str, Any] = {"colour": "red"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        Plain(None, "raw", "metadata", **arguments)
    with pytest.raises(ConfigurationError, match="mode='tape'"):
        Plain(None, "raw", "metadata", mode="tape")
    with pytest.raises(ConfigurationError, match="datafile_type=dict"):
        Plain(None, "raw", "metadata", datafile_type=dict)
    with pytest.raises(ConfigurationError, match="heartbeat_interval_secs=0"):
        Plain(None, "raw", "metadata", heartbeat_interval_secs=0)
    with pytest.raises(ConfigurationError, match="filepath_regex='\\('"):
        Plain(None, "raw", "metadata", filepath_regex="(")


def test_what_means_nothing_here_is_accepted_and_said() -> None:
    class DownloadDataFileToMemory:
        pass

    assert not Plain(None, "raw", "metadata", datafile_type=DataFile)._settings.notes
    made = Plain(
        None,
        "raw",
        "metadata",
        datafile_type=DownloadDataFileToMemory,
        n_producer_threads=7,
        max_wait_per_decrypt=1.0,
    )
    assert [note.partition(" ")[0] for note in made._settings.notes] == [
        "datafile_type=DownloadDataFileToMemory",
        "n_producer_threads=7",
        "The",
    ]


def test_the_registry_is_a_view_and_says_what_it_has() -> None:
    registry = Plain(None, "raw", "metadata").file_registry
    assert (registry.n_files_in_progress, registry.results_produced, registry.failed) == (0, (), {})
    with pytest.raises(AttributeError, match="the state is in Kafka"):
        registry.register_file  # noqa: B018


def test_a_logger_of_the_users_gets_the_keywords_too(caplog: pytest.LogCaptureFixture) -> None:
    mine = logging.getLogger("lab.mine")
    plain = Plain(None, "raw", "metadata", logger=mine)
    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match="bad"):
        plain.logger.error("bad", exc_type=ValueError)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("lab.mine", "bad")]
    assert mine.level == logging.NOTSET


def test_an_instance_that_pickles_itself_carries_nothing_of_its_process() -> None:
    made = WithStateOfItsOwn(None, "raw", "metadata")
    made.control_command_queue.put("q")
    with made.lock:
        copy = pickle.loads(pickle.dumps(made))
    assert copy.lock.acquire(blocking=False)
    assert copy.control_command_queue.empty()
    copy.logger.info("here, too")
    assert copy._db.execute("select 1").fetchone() == (1,)
    assert prepare(made._get_metadata_dict_for_file, "x").name == "x"


def test_the_logger_takes_the_keywords_that_users_know(caplog: pytest.LogCaptureFixture) -> None:
    logger = Plain(None, "raw", "metadata").logger
    error = KeyError("k")
    with caplog.at_level(logging.DEBUG):
        logger.debug("not shown at this level")
        logger.info("100%")
        logger.warning("careful", exc_info=error)
        logger.error("went wrong", exc_info=error)
        with pytest.raises(ValueError, match="file 7 is bad"):
            logger.error("file %d is bad", 7, exc_type=ValueError)
        with pytest.raises(KeyError):
            logger.error("again", exc_info=error, reraise=True)
    assert [record.getMessage() for record in caplog.records] == [
        "100%",
        "careful",
        "went wrong",
        "file 7 is bad",
        "again",
    ]
    assert {record.filename for record in caplog.records} == {"test_reproducer.py"}
    assert caplog.records[2].exc_info
    logger.setLevel(logging.DEBUG)
    assert pickle.loads(pickle.dumps(logger)).isEnabledFor(logging.DEBUG)


def test_an_instance_travels_and_gets_a_lock_and_a_logger_of_its_own(tmp_path: Path) -> None:
    plain = Plain(
        None,
        "raw",
        "metadata",
        output_dir=tmp_path,
        logger=logging.getLogger("mine"),
        streamlevel=logging.ERROR,
        filelevel=logging.ERROR,
    )
    copy = pickle.loads(pickle.dumps(plain))
    assert copy._get_metadata_dict_for_file(FakeFile()) == {"name": "f.csv", "topic": "raw"}
    assert copy.lock is not plain.lock
    assert copy._output_dir == tmp_path
    assert not copy.logger.isEnabledFor(logging.WARNING)


def test_what_can_not_travel_is_named() -> None:
    unpicklable = Unpicklable(None, "raw", "metadata")
    with pytest.raises(ExtractorError, match=r"self\._db of Unpicklable \(a Connection\)") as refused:
        prepare(unpicklable._get_metadata_dict_for_file, "x")
    assert "__getstate__" in refused.value.hint
    lock = threading.Lock()

    def extract(datafile: object) -> dict[str, Any]:
        return {"locked": lock.locked(), "datafile": str(datafile)}

    with pytest.raises(ExtractorError, match=r"the variable lock \(a lock\)"):
        prepare(extract, "x")


def test_a_configuration_names_a_class_with_arguments() -> None:
    context = ReproducerArguments("raw", "metadata", {"output_dir": "/out", "mode": "disk", "consumer_group_id": "g"})
    extract: Any = build(WithArguments, "lab.WithArguments", {"instrument": "XRD", "threshold": 2.0}, context)
    reproducer = extract.__self__
    assert (reproducer.instrument, reproducer.threshold, reproducer.mode) == ("XRD", 2.0, "disk")
    assert (reproducer.consumer_topic_name, reproducer._output_dir) == ("raw", Path("/out"))
    with pytest.raises(ExtractorError, match="unexpected keyword argument 'colour'"):
        build(WithArguments, "lab.WithArguments", {"colour": 1}, context)
    with pytest.raises(ExtractorError, match="lacks _get_metadata_dict_for_file"):
        build(MetadataJSONReproducer, "ray_reproducer.MetadataJSONReproducer", {}, context)
    with pytest.raises(ExtractorError, match="instances can't be called"):
        build(Path, "pathlib.Path", {}, context)


def test_a_shipped_function_is_loaded_by_name() -> None:
    context = ReproducerArguments("raw", "metadata", {})
    loaded = load({"_target_": "ray_reproducer.extractors.file_info.file_info"}, "", context)
    assert loaded.name == "file_info"
    assert loaded.module_file == Path(ray_reproducer.__file__).parent / "extractors" / "file_info.py"
    with pytest.raises(ExtractorError, match="_target_"):
        load({}, "mine", context)
