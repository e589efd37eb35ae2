"""The command line: one clear message for each mistake, help that helps, nothing written, nothing secret."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ray_reproducer import app, hydra_command
from ray_reproducer.actors.settings import PipelineSettings, RaySettings
from ray_reproducer.config_checks import known_keys
from ray_reproducer.config_schema import AppConfig, ReplayAppConfig, UploadAppConfig
from ray_reproducer.core.errors import BrokerError, FencedError
from ray_reproducer.observability.view_settings import ViewSettings

REPOSITORY = Path(__file__).parent.parent
BROKER = ["kafka.bootstrap.servers=host:9092", "topics.source=raw", "topics.results=metadata"]
PROGRAM_TIMEOUT_S = 60.0


@dataclass
class Ended:
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture(name="directory", autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, and a sys.path and modules as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("lab_"):
            del sys.modules[name]


@pytest.fixture(name="run")
def _run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_here(*arguments: str) -> Ended:
        code = app.main(arguments)
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return run_here


@pytest.fixture(name="launched")
def _launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[PipelineSettings, RaySettings]]:
    """What would have been launched; the exit code is what the group id ends with, if that is a number."""
    launched: list[tuple[PipelineSettings, RaySettings]] = []

    def launch(settings: PipelineSettings, ray_settings: RaySettings, _views: ViewSettings) -> int:
        launched.append((settings, ray_settings))
        if settings.extractor_name == "tabular" and settings.group_id == "fenced":
            raise FencedError("Another instance has taken over.", hint="Look for it.")
        return 3 if settings.extractor_name == "xrd_csv" else 0

    monkeypatch.setattr(app, "launch", launch)
    return launched


def program(*arguments: str, cwd: Path, **environment: str) -> Ended:
    paths = [str(REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    ended = subprocess.run(
        [sys.executable, "-m", "ray_reproducer", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT_S,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def test_without_extractor_the_program_says_which_there_are_and_how_to_write_one(directory: Path) -> None:
    write(directory, {"conf/extractor/mine.yaml": "# Counts lines.\n_target_: lab.lines\n"})
    ended = program(cwd=directory)
    assert ended.code == 2
    assert ended.out == ""
    for word in (
        "file_info",
        "guessed type, modification time.",
        "xrd_csv",
        "tabular",
        "mine  Counts lines.",
        "conf/extractor/mine.yaml",
        "def lines",
    ):
        assert word in ended.err
    assert "Traceback" not in ended.err
    assert sorted(path.name for path in directory.iterdir()) == ["conf"]


@pytest.mark.parametrize("override", ["=5", "=1.5", "=true", "=null", "=[1]", "={a:1}", "+=", "++="])
def test_a_setting_without_a_name_is_no_defect_of_the_program(run: Run, override: str) -> None:
    ended = run("+extractor=file_info", *BROKER, override)
    assert ended.code == 2
    assert "defect" not in ended.err
    assert "Traceback" not in ended.err


def test_the_extractor_that_the_message_shows_works(directory: Path, run: Run) -> None:
    shown = run().err
    body = shown.partition("my_lab.py\n")[2]
    function, _, rest = body.partition("  conf/extractor/mine.yaml\n")
    lines = [line[4:] for line in function.splitlines()]
    namespace: dict[str, Callable[[object], object]] = {}
    exec("\n".join(lines), namespace)  # noqa: S102 - what the program tells people to type

    class File:
        bytestring = b"a\nb\n"
        filename = "f.csv"

    assert namespace["lines"](File()) == {"file": "f.csv", "lines": 2}
    assert rest.splitlines()[0].strip() == "_target_: my_lab.lines"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["topics.sorce=raw"], ["no key topics.sorce", "Did you mean topics.source?"]),
        (["run.mod=drain"], ["no key run.mod", "Did you mean run.mode?"]),
        (["run.x=drain"], ["no key run.x", "Keys of run: mode, print_results"]),
        (["run.mode=drian"], ["run.mode", "drian", "stream, drain"]),
        (["consumers=many"], ["consumers", "many"]),
        (["kafka=embeded"], ["no kafka called embeded", "Did you mean embedded?"]),
        (["+kafka=embedded"], ["kafka=... without a plus"]),
        (["a=["], ["'a=['", "key=value"]),
        (["kafka.sasl.password=hunter2"], ["kafka.sasl.password is a secret", "${oc.env:NAME}"]),
    ],
)
def test_a_mistake_is_one_message(run: Run, arguments: Sequence[str], said: Sequence[str]) -> None:
    ended = run("+extractor=file_info", *arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert all(words in ended.err for words in said), ended.err
    assert "hunter2" not in ended.err
    assert "Traceback" not in ended.err
    assert len(ended.err.splitlines()) <= 3


def test_an_extractor_that_does_not_exist(run: Run) -> None:
    ended = run("+extractor=file_inf")
    assert ended.code == 2
    assert "Did you mean file_info?" in ended.err
    assert "./conf/extractor/file_inf.yaml" in ended.err
    assert "+extractor=" in run("extractor=file_info").err


def test_a_traceback_only_if_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    ended = run("+extractor=file_info", "run.mod=drain")
    assert ended.code == 2
    assert "Traceback" in ended.err
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


def test_a_defect_says_that_it_is_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(settings: PipelineSettings, ray_settings: RaySettings, _views: ViewSettings) -> int:
        raise ZeroDivisionError("unexpected")

    monkeypatch.setattr(app, "launch", launch)
    ended = run("+extractor=file_info", *BROKER)
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "defect" in ended.err


def test_an_error_of_ours_has_its_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(settings: PipelineSettings, ray_settings: RaySettings, _views: ViewSettings) -> int:
        raise BrokerError("No broker answers at host:9092.", hint="Is it running?")

    monkeypatch.setattr(app, "launch", launch)
    ended = run("+extractor=file_info", *BROKER)
    assert ended.code == 1
    assert ended.err == "ray_reproducer: No broker answers at host:9092.\nIs it running?\n"


def test_a_mistake_in_a_file_names_the_file(directory: Path, run: Run) -> None:
    write(
        directory,
        {
            "conf/run/mine.yaml": "mode: drain\nprint_result: true\n",
            "conf/extractor/broken.yaml": "_target_: [a\n",
            "conf/kafka/lab.yaml": "sasl:\n  password: hunter2\n",
        },
    )
    ended = run("+extractor=file_info", "run=mine")
    assert ended.code == 2
    assert "print_result" in ended.err
    assert "run/mine.yaml" in ended.err
    ended = run("+extractor=broken")
    assert ended.code == 2
    assert "broken.yaml" in ended.err
    for arguments in (["kafka=lab", *BROKER], ["kafka=lab", "-m", "run=drain,stream", *BROKER]):
        ended = run("+extractor=file_info", *arguments)
        assert ended.code == 2
        assert "kafka.sasl.password is a secret" in ended.err
        assert "hunter2" not in ended.err + ended.out


def test_the_users_function_is_found_in_the_working_directory(
    directory: Path, run: Run, launched: list[tuple[PipelineSettings, RaySettings]]
) -> None:
    write(
        directory,
        {
            "conf/extractor/mine.yaml": "_target_: lab_mine.lines\nfactor: 2\n",
            "lab_mine.py": "def lines(datafile, factor=1):\n    return {'lines': factor}\n",
        },
    )
    ended = run("+extractor=mine", "extractor.factor=5", *BROKER)
    assert ended.code == 0, ended.err
    [(settings, ray)] = launched
    assert settings.extractor_name == "mine"
    assert settings.group_id == "ray_reproducer.raw.mine"
    assert str(directory) in settings.sys_path
    assert ray.runtime_env == {}


def test_a_cluster_gets_the_working_directory_unless_it_has_code_already(
    directory: Path,
    run: Run,
    launched: list[tuple[PipelineSettings, RaySettings]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(
        directory,
        {
            "conf/extractor/mine.yaml": "_target_: lab_sent.lines\n",
            "lab_sent.py": "def lines(datafile):\n    return {}\n",
        },
    )
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    on_cluster = ["ray=cluster", *BROKER]
    assert run("+extractor=mine", *on_cluster).code == 0
    assert run("+extractor=mine", "ray.runtime_env.working_dir=/elsewhere", *on_cluster).code == 0
    assert run("+extractor=file_info", *on_cluster).code == 0
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert run("+extractor=mine", "ray.runtime_env.env_vars.A=b", *on_cluster).code == 0
    assert [ray.runtime_env for _, ray in launched] == [
        {"working_dir": str(directory)},
        {"working_dir": "/elsewhere"},
        {},
        {"env_vars": {"A": "b"}},
    ]


def test_the_users_conf_comes_first_but_not_its_primary_configuration(
    directory: Path, run: Run, launched: list[tuple[PipelineSettings, RaySettings]]
) -> None:
    write(
        directory,
        {
            "conf/config.yaml": "another: program\n",
            "conf/kafka/default.yaml": "bootstrap.servers: lab:9092\n",
            "conf/site/lab.yaml": "# @package _global_\ntopics:\n  source: raw\n  results: metadata\n",
        },
    )
    ended = run("+extractor=file_info", "+site=lab")
    assert ended.code == 0, ended.err
    assert launched[0][0].clients.servers == "lab:9092"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"lab_line.py": ""}, ["module lab_lines doesn't exist", "Did you mean lab_line?"]),
        ({}, ["module lab_lines doesn't exist", "There is no Python module there"]),
        ({"lab_lines.py": "def linse(datafile): pass\n"}, ["has no lines", "Did you mean linse?"]),
        ({"lab_lines.py": "import surely_not_there\n"}, ["surely_not_there", "lab_lines.py:1"]),
        ({"lab_lines.py": "def (:\n"}, ["SyntaxError", "lab_lines.py:1"]),
        ({"lab_lines.py": "\n1/0\n"}, ["ZeroDivisionError", "lab_lines.py:2"]),
        ({"lab_lines.py": "lines = 5\n"}, ["is a int and can't be called"]),
        ({"lab_lines.py": "def lines(): pass\n"}, ["lab_lines.lines()", "datafile"]),
        (
            {"lab_lines.py": "lines = 5\n", "conf/extractor/mine.yaml": "_target_: lab_lines.lines.of\n"},
            ["lab_lines.lines has no of"],
        ),
    ],
)
def test_an_extractor_that_cannot_be_imported(
    directory: Path, run: Run, files: dict[str, str], said: Sequence[str]
) -> None:
    write(directory, {"conf/extractor/mine.yaml": "_target_: lab_lines.lines\n", **files})
    ended = run("+extractor=mine", *BROKER)
    assert ended.code == 2
    assert all(words in ended.err for words in said), ended.err
    assert "Traceback" not in ended.err


def test_hooks_that_only_a_run_of_the_class_itself_would_call_are_named(
    directory: Path, run: Run, launched: list[tuple[PipelineSettings, RaySettings]], caplog: pytest.LogCaptureFixture
) -> None:
    module = (
        "import functools\n"
        "from ray_reproducer import MetadataJSONReproducer\n"
        "class Lines(MetadataJSONReproducer):\n"
        "    _on_check = functools.partial(print, 'checked')\n"
        "    def _get_metadata_dict_for_file(self, datafile): return {}\n"
        "    def _failed_computing_processing_result(self, datafile, lock): pass\n"
        "    def _on_result_produced(self, relative_filepath, metadata): pass\n"
    )
    write(directory, {"lab_class.py": module, "conf/extractor/mine.yaml": "_target_: lab_class.Lines\n"})
    assert run("+extractor=mine", *BROKER).code == 0
    assert launched
    said = [record.getMessage() for record in caplog.records if record.name == "ray_reproducer.app"]
    only = "is called only if the class runs by its own command line (python -m MODULE), not here."
    assert said == [f"Lines._on_check {only}", f"Lines._on_result_produced {only}"]


def test_a_multirun_runs_every_job_and_ends_with_the_worst_code(
    directory: Path, run: Run, launched: list[tuple[PipelineSettings, RaySettings]]
) -> None:
    ended = run("-m", "+extractor=xrd_csv,file_info,tabular", "run=drain", *BROKER)
    assert ended.code == 3
    assert [settings.group_id for settings, _ in launched] == [
        "ray_reproducer.raw.xrd_csv",
        "ray_reproducer.raw.file_info",
        "ray_reproducer.raw.tabular",
    ]
    assert "Job 2: +extractor=file_info" in ended.err
    launched.clear()
    ended = run("-m", "+extractor=tabular,xrd_csv", "group_id=fenced", *BROKER)
    assert ended.code == 4
    assert len(launched) == 2
    assert list(directory.iterdir()) == []


def test_help_names_every_key_and_choice(run: Run) -> None:
    ended = run("--help")
    assert ended.code == 0
    for key in known_keys(AppConfig):
        assert f"{key.rpartition('.')[2]}:" in ended.out or key == "extractor", key
    assert "extractor: file_info, tabular, xrd_csv" in ended.out
    assert "kafka: default, embedded" in ended.out
    assert "${oc.env:KAFKA_PASSWORD}" in ended.out
    assert "Exit codes" in ended.out
    assert "ray_reproducer.help" not in ended.out


@pytest.mark.parametrize(
    ("name", "schema"), [("ray_reproducer_upload", UploadAppConfig), ("ray_reproducer_replay", ReplayAppConfig)]
)
def test_help_of_the_other_commands_names_every_key(name: str, schema: type) -> None:
    text = hydra_command.CONF_DIRECTORY.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    text += hydra_command.CONF_DIRECTORY.joinpath("ray/local.yaml").read_text(encoding="utf-8")
    for key in known_keys(schema):
        assert f"{key.rpartition('.')[2]}:" in text or key in {"kafka", "extractor"}


def test_info_and_cfg_are_readable_and_keep_secrets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_PASSWORD", "hunter2")
    monkeypatch.setenv("THE_USER", "ann")
    assert "ray_reproducer/conf" in run("--info", "searchpath").out
    secret = ["kafka.sasl.password=${oc.env:THE_PASSWORD}", "kafka.sasl.username=${oc.env:THE_USER}"]
    shown = run("+extractor=file_info", *BROKER, *secret, "--cfg", "job", "--resolve")
    assert shown.code == 0
    assert "ann" in shown.out
    assert "hunter2" not in shown.out + shown.err
    assert "${oc.env:THE_PASSWORD}" in run("+extractor=file_info", *secret, "--cfg", "job").out


@pytest.mark.parametrize("given", ["a:1,b:2", "a:1, b:2", "'a:1,b:2'", '"a:1,b:2"', "[a:1,b:2]"])
@pytest.mark.parametrize("sweep", [(), ("-m",)], ids=["one run", "multirun"])
def test_several_brokers_stand_with_commas_between_them(
    run: Run, launched: list[tuple[PipelineSettings, RaySettings]], given: str, sweep: tuple[str, ...]
) -> None:
    ended = run("+extractor=file_info", f"kafka.bootstrap.servers={given}", *BROKER[1:], *sweep)
    assert ended.code == 0, ended.err
    ((settings, _),) = launched
    assert settings.clients.servers.replace(" ", "") == "a:1,b:2"


def test_a_sweep_over_brokers_is_one_if_it_says_so(
    run: Run, launched: list[tuple[PipelineSettings, RaySettings]]
) -> None:
    ended = run("+extractor=file_info", "kafka.bootstrap.servers=choice(a:1,b:2)", *BROKER[1:], "-m")
    assert ended.code == 0, ended.err
    assert [settings.clients.servers for settings, _ in launched] == ["a:1", "b:2"]


def test_other_commas_are_a_sweep_as_before(run: Run, launched: list[tuple[PipelineSettings, RaySettings]]) -> None:
    ended = run("+extractor=file_info,tabular", "kafka.bootstrap.servers=a:1,b:2", *BROKER[1:], "-m")
    assert ended.code == 0, ended.err
    assert [settings.clients.servers for settings, _ in launched] == ["a:1,b:2"] * 2
