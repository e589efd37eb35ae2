"""The command line of a class: OpenMSIStream's arguments and defaults, the class's own, and what stands after "--"."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ray_reproducer import DataFile, ExtractorError, MetadataJSONReproducer
from ray_reproducer.command_line import ReproducerArgumentParser
from ray_reproducer.openmsistream_run import construct

CONFIG = "[broker]\nbootstrap.servers = host:9092\n[consumer]\nauto.offset.reset = earliest\n"


class Plain(MetadataJSONReproducer):
    """Reads a file.

    And more about it.
    """

    def _get_metadata_dict_for_file(self, datafile: DataFile) -> Mapping[str, Any]:
        return {"name": datafile.filename}


class WithArguments(Plain):
    """Written as OpenMSIStream's users do: arguments of its own, positional and optional, in both places."""

    class Parser(ReproducerArgumentParser):
        ARGUMENTS = {  # noqa: RUF012 - how OpenMSIStream's users write it
            **ReproducerArgumentParser.ARGUMENTS,
            "instrument": ["positional", {"help": "which instrument"}],
            "threshold": ["optional", {"type": float, "default": 0.5}],
        }

    ARGUMENT_PARSER_TYPE = Parser

    def __init__(
        self, config: Any, consumer: str, producer: str, instrument: str = "-", *, threshold: float = 0, **kwargs: Any
    ) -> None:
        super().__init__(config, consumer, producer, **kwargs)
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


class WrittenFor1828(Plain):
    """Writes both forms of the arguments itself, with every keyword that OpenMSIStream's constructor has."""

    short = False

    def __init__(self, config_file: Any, *args: str, update_secs: float, mode: str, **kwargs: Any) -> None:
        super().__init__(config_file, *args, update_secs=update_secs, mode=mode, **kwargs)

    @classmethod
    def get_init_args_kwargs(cls, parsed_args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
        _, kwargs = super().get_init_args_kwargs(parsed_args)
        names = {
            "consumer_topic_name": parsed_args.consumer_topic_name,
            "producer_topic_name": parsed_args.producer_topic_name,
        }
        args = [parsed_args.config, parsed_args.producer_topic_name]
        return args if cls.short else [parsed_args.config, *names.values()], {**kwargs, **names}


class ShortForm(WrittenFor1828):
    short = True


@pytest.fixture(name="config", autouse=True)
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENMSISTREAM_CONFIG_FILE_DIR", raising=False)
    path = tmp_path / "test.config"
    path.write_text(CONFIG, encoding="utf-8")
    return path


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
        "logger_file": None,
        "streamlevel": logging.INFO,
        "filelevel": logging.WARNING,
        "update_secs": 300,
        "heartbeat_topic_name": None,
        "heartbeat_program_id": None,
        "heartbeat_interval_secs": 900,
        "log_topic_name": None,
        "log_program_id": None,
        "log_interval_secs": 60,
        "treat_undecryptable_as_plaintext": False,
        "max_wait_per_decrypt": 5.0,
        "max_initial_wait_per_decrypt": 60.0,
    }
    Plain(*args, **kwargs)


def test_every_argument_reaches_the_instance() -> None:
    line = """--topic_name t --consumer_topic_name raw --producer_topic_name meta --consumer_group_id g
        --n_consumer_threads 3 --n_producer_threads 4 --download_regex a/ --mode both --output_dir out
        --update_seconds -1 --logger_stream_level warning --logger_file_level 10 --logger_file_path logs
        --heartbeat_topic_name beats --heartbeat_program_id p1 --heartbeat_interval_secs 5
        --log_topic_name logged --log_program_id p2 --log_interval_secs 6.5 --treat_undecryptable_as_plaintext
        --max_wait_per_decrypt 1 --max_initial_wait_per_decrypt 2 --ray-address h:1
        -- run=drain extraction.timeout=60"""
    parsed = Plain.get_argument_parser().parse_args(line.split())
    made = construct(Plain, *Plain.get_init_args_kwargs(parsed))
    assert (made.consumer_topic_name, made.producer_topic_name, made.consumer_group_id) == ("raw", "meta", "g")
    assert (made.n_threads, made.mode, made.update_secs, made._output_dir) == (3, "both", -1, Path("out").absolute())
    said = made._settings
    assert (said.stream_level, said.file_level) == (logging.WARNING, 10)
    assert said.log_file == Path("logs/Plain.log").absolute()
    assert (said.heartbeat_topic, said.heartbeat_program_id, said.heartbeat_interval_s) == ("beats", "p1", 5)
    assert (said.log_topic, said.log_program_id, said.log_interval_s) == ("logged", "p2", 6.5)
    assert (said.ray_address, said.overrides) == ("h:1", ("run=drain", "extraction.timeout=60"))
    assert [note.partition(" ")[0] for note in said.notes] == ["n_producer_threads=4", "The"]


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
    assert (made.instrument, made.threshold, made.mode, made._settings.config_file) == ("XRD", 2.0, "disk", config)


@pytest.mark.parametrize("cls", [WrittenFor1828, ShortForm])
def test_a_class_that_returns_either_form_is_constructed(cls: type[WrittenFor1828]) -> None:
    parsed = cls.get_argument_parser().parse_args(["--consumer_topic_name", "raw", "--producer_topic_name", "metadata"])
    made = construct(cls, *cls.get_init_args_kwargs(parsed))
    assert (made.consumer_topic_name, made.producer_topic_name) == ("raw", "metadata")


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


def test_a_constructor_that_knows_only_openmsistreams_keywords_is_given_no_others() -> None:
    kwargs = Plain.get_init_args_kwargs(Plain.get_argument_parser().parse_args([]))[1]
    assert not {"overrides", "ray_address"} & kwargs.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "nowhere"], "no configuration file nowhere.config"),
        (["--mode", "tape"], "invalid choice: 'tape'"),
        (["--n_consumer_threads", "0"], "at least 1"),
        (["--heartbeat_interval_secs", "0"], "no number of seconds above 0"),
        (["--log_interval_secs", "soon"], "no number of seconds above 0"),
        (["--download_regex", "("], "no regular expression"),
        (["--logger_stream_level", "loud"], "no logging level"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
        (["--", "drain"], "after -- stand settings of ray_reproducer, KEY=VALUE; 'drain' is none"),
        # What stands after "--" is checked as on the command line of the program itself.
        (["--", "extraction.timeuot=60"], "There is no key extraction.timeuot.\nDid you mean extraction.timeout?"),
        (["--", "extraction.timeout=-1"], "extraction.timeout=-1.0 is too small"),
        (["--", "kafka.sasl.password=hush"], "kafka.sasl.password is a secret and is given literally"),
        (["--", "run=walk"], "walk"),
        (["--", "ray.address=h:1"], "ray.address is for ray=cluster"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = ["--consumer_topic_name", "raw", "--producer_topic_name", "metadata"]
    with pytest.raises(SystemExit) as ended:
        Plain.run_from_command_line([*topics, *arguments])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert "hush" not in err


def test_help_lists_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    Plain.run_from_command_line(["--help"])
    shown = capsys.readouterr().out
    assert "Reads a file." in shown
    assert "--output_dir" in shown
    assert "Plain_output" in shown
    assert "--heartbeat_topic_name" in shown
    assert "--ray-address" in shown
    assert "[-- KEY=VALUE ...]" in shown


def test_a_configuration_is_looked_for_by_name(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "configs"
    directory.mkdir()
    (directory / "lab.config").write_text(CONFIG, encoding="utf-8")
    monkeypatch.setenv("OPENMSISTREAM_CONFIG_FILE_DIR", str(directory))
    parser = Plain.get_argument_parser()
    assert parser.parse_args(["--config", "lab"]).config == directory / "lab.config"
    assert parser.parse_args(["--config", str(config)]).config == config
    assert parser.parse_args([]).config == config


def test_no_configuration_file_is_a_clear_error(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.unlink()
    with pytest.raises(SystemExit) as ended:
        Plain.run_from_command_line([])
    assert ended.value.code == 2
    assert "no configuration file test.config" in capsys.readouterr().err
