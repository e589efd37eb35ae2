"""The class that users extend: OpenMSIStream's interface, and the way to the workers."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import ray_reproducer
from ray_reproducer import ConfigurationError, DataFile, ExtractorError, MetadataJSONReproducer
from ray_reproducer.command_line import NOT_YET, ReproducerArgumentParser
from ray_reproducer.extractor_loading import ReproducerArguments, build, load, prepare
from ray_reproducer.openmsistream_config import OpenMSIStreamConfig, read_config
from ray_reproducer.openmsistream_run import construct, settings_of

REPOSITORY = Path(__file__).parent.parent
IMPORT_LIMIT_S = 0.3
CONFIG = """\
[broker]
bootstrap.servers = host:9092

[consumer]
auto.offset.reset = earliest
"""


class Plain(MetadataJSONReproducer):
    """Reads a file.

    And more about it.
    """

    def _get_metadata_dict_for_file(self, datafile: DataFile) -> Mapping[str, Any]:
        return {"name": datafile.filename, "topic": self.consumer_topic_name}


class WithArguments(MetadataJSONReproducer):
    class Parser(ReproducerArgumentParser):
        ARGUMENTS = {  # noqa: RUF012 - how OpenMSIStream's users write it
            **ReproducerArgumentParser.ARGUMENTS,
            "instrument": ["positional", {"help": "which instrument"}],
            "threshold": ["optional", {"type": float, "default": 0.5}],
        }

    ARGUMENT_PARSER_TYPE = Parser

    def __init__(
        self,
        config_file: Any,
        consumer: str,
        producer: str,
        instrument: str = "none",
        *,
        threshold: float = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(config_file, consumer, producer, **kwargs)
        self.instrument = instrument
        self.threshold = threshold

    @classmethod
    def get_command_line_arguments(cls) -> tuple[list[str], dict[str, Any]]:
        names, defaults = super().get_command_line_arguments()
        return [*names, "instrument", "threshold"], {**defaults, "n_consumer_threads": 5}

    @classmethod
    def get_init_args_kwargs(cls, parsed_args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
        args, kwargs = super().get_init_args_kwargs(parsed_args)
        return [*args, parsed_args.instrument], {**kwargs, "threshold": parsed_args.threshold}

    def _get_metadata_dict_for_file(self, datafile: DataFile) -> Mapping[str, Any]:
        return {"instrument": self.instrument}


class Unpicklable(Plain):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection = threading.Event()


class FakeFile:
    filename = "f.csv"


@pytest.fixture(name="config")
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENMSISTREAM_CONFIG_FILE_DIR", raising=False)
    path = tmp_path / "test.config"
    path.write_text(CONFIG, encoding="utf-8")
    return path


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


def test_arguments_that_nobody_knows_and_those_that_are_not_there_yet() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        Plain(None, "raw", "metadata", colour="red")
    Plain(None, "raw", "metadata", heartbeat_topic_name=None, logger_file=None)
    with pytest.raises(ConfigurationError, match="heartbeat_topic_name of OpenMSIStream is not supported yet"):
        Plain(None, "raw", "metadata", heartbeat_topic_name="beats")
    with pytest.raises(ConfigurationError, match="mode='tape'"):
        Plain(None, "raw", "metadata", mode="tape")
    with pytest.raises(ConfigurationError, match="datafile_type"):
        Plain(None, "raw", "metadata", datafile_type=dict)


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
        None, "raw", "metadata", output_dir=tmp_path, logger=logging.getLogger("mine"), streamlevel=logging.ERROR
    )
    copy = pickle.loads(pickle.dumps(plain))
    assert copy._get_metadata_dict_for_file(FakeFile()) == {"name": "f.csv", "topic": "raw"}
    assert copy.lock is not plain.lock
    assert copy._output_dir == tmp_path
    assert not copy.logger.isEnabledFor(logging.WARNING)


def test_what_can_not_travel_is_named() -> None:
    unpicklable = Unpicklable(None, "raw", "metadata")
    with pytest.raises(ExtractorError, match=r"self\.connection of Unpicklable \(a Event\)"):
        prepare(unpicklable._get_metadata_dict_for_file, "x")
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


def test_the_command_line_has_openmsistreams_defaults(config: Path) -> None:
    parsed = Plain.get_argument_parser().parse_args([])
    args, kwargs = Plain.get_init_args_kwargs(parsed)
    assert args == [config, "test", "test"]
    assert kwargs == {
        "output_dir": Path("Plain_output"),
        "mode": "memory",
        "n_producer_threads": 2,
        "n_consumer_threads": 2,
        "consumer_group_id": "create_new",
        "filepath_regex": None,
        "streamlevel": logging.INFO,
        "update_secs": 300,
    }


@pytest.mark.usefixtures("config")
def test_a_topic_that_is_not_named_is_the_common_one() -> None:
    parser = Plain.get_argument_parser()
    parsed = parser.parse_args(["--topic_name", "all", "--producer_topic_name", "out"])
    assert (parsed.consumer_topic_name, parsed.producer_topic_name) == ("all", "out")


def test_a_class_adds_arguments_and_defaults_and_its_caller_too(config: Path) -> None:
    parser = WithArguments.get_argument_parser()
    parser.add_argument("--extra", type=int)
    parsed = parser.parse_args(["XRD", "--threshold", "2", "--extra", "7", "--config", "test", "--mode", "disk"])
    assert (parsed.n_consumer_threads, parsed.extra) == (5, 7)
    made = construct(WithArguments, *WithArguments.get_init_args_kwargs(parsed))
    assert isinstance(made, WithArguments)
    assert (made.instrument, made.threshold, made.mode, made._config_file) == ("XRD", 2.0, "disk", config)


def test_both_forms_of_init_arguments_are_understood() -> None:
    names = {"consumer_topic_name": "raw", "producer_topic_name": "metadata"}
    for args, kwargs in (
        (["c", "raw", "metadata"], {}),
        (["c", "metadata"], names),
        (["c", "raw", "metadata"], names),
        (["c"], names),
        (["c", "raw"], {"producer_topic_name": "metadata"}),
    ):
        made = construct(Plain, args, {**kwargs, "mode": "both"})
        assert (made.consumer_topic_name, made.producer_topic_name, made.mode) == ("raw", "metadata", "both")
    with pytest.raises(ExtractorError, match="get_init_args_kwargs"):
        construct(Plain, ["c"], {})


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "nowhere"], "no configuration file nowhere.config"),
        (["--mode", "tape"], "invalid choice: 'tape'"),
        (["--n_consumer_threads", "0"], "at least 1"),
        (["--download_regex", "("], "no regular expression"),
        (["--logger_stream_level", "loud"], "no logging level"),
        *(([f"--{name}", "1"], f"--{name} of OpenMSIStream is not supported yet") for name in NOT_YET),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        Plain.run_from_command_line(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("config")
def test_help_lists_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    Plain.run_from_command_line(["--help"])
    shown = capsys.readouterr().out
    assert "Reads a file." in shown
    assert "--output_dir" in shown
    assert "Plain_output" in shown
    assert "heartbeat" not in shown


def test_a_configuration_is_looked_for_by_name(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "configs"
    directory.mkdir()
    (directory / "lab.config").write_text(CONFIG, encoding="utf-8")
    monkeypatch.setenv("OPENMSISTREAM_CONFIG_FILE_DIR", str(directory))
    parser = Plain.get_argument_parser()
    assert parser.parse_args(["--config", "lab"]).config == directory / "lab.config"
    assert parser.parse_args(["--config", str(config)]).config == config
    assert parser.parse_args([]).config == config


def read(config: Path, text: str) -> OpenMSIStreamConfig:
    config.write_text(text, encoding="utf-8")
    return read_config(config)


def test_a_configuration_file_is_read_as_openmsistream_does(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_PASSWORD", "$pa%%ss$hush")
    monkeypatch.setenv("LAB_DIR", "/keys")
    made = read(
        config,
        "[broker]\nBootstrap.Servers = host:9092\nsasl.password = $LAB_PASSWORD\nssl.key.location = ${LAB_DIR}/k\n"
        "sasl.username = 100%\nclient.id = a%%b\n"
        "[consumer]\ngroup.id = lab\nauto.offset.reset = smallest\nenable.auto.commit = False\nfetch.min.bytes = 5\n"
        "key.deserializer = StringDeserializer\nvalue.deserializer = DataFileChunkDeserializer\n"
        "[producer]\nlinger.ms = 7\nkey.serializer = StringSerializer\nvalue.serializer = StringSerializer\n"
        "[heartbeat]\nbootstrap.servers = $NOT_SET_BUT_NOT_READ\n",
    )
    assert (made.group_id, made.start, made.notes) == ("lab", "earliest", ())
    assert made.clients.common == {
        "bootstrap.servers": "host:9092",
        "sasl.password": "$pa%%ss$hush",
        "ssl.key.location": "/keys/k",
        "sasl.username": "100%",
        "client.id": "a%b",
    }
    assert made.clients.consumer["fetch.min.bytes"] == "5"
    assert made.clients.producer["linger.ms"] == "7"
    names = {*made.clients.common, *made.clients.consumer, *made.clients.producer}
    assert not {"group.id", "auto.offset.reset", "enable.auto.commit"} & names
    assert not {name for name in names if "serializer" in name}
    assert "hush" not in repr(made)


def test_what_a_configuration_file_can_not_have(config: Path) -> None:
    with pytest.raises(ConfigurationError, match="SURELY_NOT_SET, which is not set"):
        read(config, "[broker]\nbootstrap.servers = $SURELY_NOT_SET\n")
    with pytest.raises(ConfigurationError, match="names no broker"):
        read(config, "[consumer]\ngroup.id = lab\n")
    with pytest.raises(ConfigurationError, match="kafkacrypto"):
        read(config, f"{CONFIG}[kafkacrypto]\nnode_id = 1\n")
    with pytest.raises(ConfigurationError, match="no configuration file"):
        read(config, "bootstrap.servers = x\n")
    with pytest.raises(ConfigurationError, match=r"value\.deserializer = DoubleDeserializer"):
        read(config, f"{CONFIG}value.deserializer = DoubleDeserializer\n")
    with pytest.raises(ConfigurationError, match=r"auto\.offset\.reset = yesterday"):
        read(config, CONFIG.replace("earliest", "yesterday"))
    with pytest.raises(ConfigurationError, match="can't be read"):
        read_config(config.parent)


def test_what_is_not_used_is_said(config: Path) -> None:
    made = read(
        config, "[broker]\nbootstrap.servers = h\n[consumer]\nauto.offset.reset = none\nenable.auto.commit = True\n"
    )
    assert made.start == "latest"
    assert len(made.notes) == 2
    assert "begins at the end of the topic" in made.notes[0]
    assert "enable.auto.commit = True" in made.notes[1]


def test_an_instance_becomes_settings(config: Path, tmp_path: Path) -> None:
    plain = Plain(config, "raw", "metadata", mode="disk", n_consumer_threads=3, filepath_regex=re.compile("a/"))
    made = settings_of(plain, read_config(config))
    assert (made.source_topic, made.results_topic, made.dead_letters_topic) == (
        "raw",
        "metadata",
        "metadata.dead_letters",
    )
    assert (made.delivery, made.run_mode, made.start) == ("exactly_once", "stream", "earliest")
    assert (made.datafile_mode, made.consumers, made.filepath_regex) == ("disk", 3, "a/")
    assert made.output_dir == str(tmp_path / "Plain_output")
    assert made.extractor_name == "Plain"
    assert pickle.loads(made.extractor)(FakeFile()) == {"name": "f.csv", "topic": "raw"}
    other = settings_of(plain, read_config(config))
    assert made.group_id != other.group_id
    named = Plain(config, "raw", "metadata", consumer_group_id="lab")
    assert settings_of(named, read_config(config)).group_id == "lab"


def test_no_configuration_file_is_a_clear_error(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.unlink()
    with pytest.raises(SystemExit) as ended:
        Plain.run_from_command_line([])
    assert ended.value.code == 2
    assert "no configuration file test.config" in capsys.readouterr().err
