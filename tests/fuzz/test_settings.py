"""Whatever is typed after the program's name: it runs, or says what is wrong in one message that repeats no secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer import app
from ray_reproducer.actors.settings import PipelineSettings, RaySettings
from ray_reproducer.config_checks import known_keys
from ray_reproducer.config_schema import AppConfig
from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.observability.view_settings import ViewSettings
from tests.fuzz.budget import fuzz

SECRET = "hunter2-and-no-more"  # noqa: S105 - what nobody may repeat
NEEDED = ("+extractor=file_info", "topics.source=raw", "topics.results=out", "kafka.bootstrap.servers=localhost:1")
SECRET_KEYS = (
    "kafka.sasl.password",
    "consumer.sasl.password",
    "producer.ssl.key.password",
    "kafka.ssl.key.pem",
    "kafka.SASL_PASSWORD",
)
OTHERS = (
    "extractor", "extractor.password", "ray", "run", "kafka", "kafka.acks", "kafka.group.id", "kafka.fetch.min.bytes",
    "consumer",
    "producer.linger.ms", "ray.runtime_env", "ray.runtime_env.env_vars.TOKEN", "topics", "upload", "nothing", "a.b.c",
    "topics.sourec", "",
)  # fmt: skip
VALUES = (
    "", "null", "???", "0", "-1", "1e400", "nan", "inf", "-inf", "1_000", "0x10", "99999999999999999999", "true",
    "yes", "drain", "local", "cluster",
    "embedded", "file_info", "earliest", "exactly_once", "hold", "reprocess", "[", "]", "{", "}", "[1,2", "{a:1}",
    "{a: {b: [1, {c: 2}]}}", "[1,2,3]",
    "a,b", "'", '"', "\\", "$", "${", "${}", "${oc.env:RR_UNSET}", "${oc.env:RR_SECRET}", "${topics.source}",
    "${nothing}", "${.}", "${..}",
    "${oc.env}", "${oc.decode:${oc.env:RR_SECRET}}", "${ray_reproducer.help:}", "${output_dir}", "(", ")", "(?P<",
    "*", "a" * 5_000, "☃", "\0", "\n",
    "../..", "/", "~", ".", "%s", "{0}", "=", "==", "@", "a b", " ", "range(1,3)", "glob(*)", "choice(a,b)", "int(x)",
    "sort(1,2)", "shuffle(1)",
)  # fmt: skip
FORMS = (
    "{}",
    "'{}'",
    '"{}"',
    "[{}]",
    "x{}",
    "{}\n",
    " {}",
    "${{oc.decode:{}}}",
    "${{oc.env:{}}}x",
    "${{oc.env:NO,{}}}",
)
"""How a secret may be written down literally."""
FLAGS = (
    "--help",
    "-h",
    "--cfg",
    "job",
    "--resolve",
    "-m",
    "--multirun",
    "--info",
    "--version",
    "--nothing",
    "-c",
    "--package",
    "--",
    "-",
    "--hydra-help",
)

keys = st.sampled_from([*known_keys(AppConfig), *OTHERS]) | st.text(max_size=10)
typed = st.sampled_from(VALUES) | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)
overrides = st.builds(
    lambda sign, key, value: f"{sign}{key}={value}", st.sampled_from(["", "", "", "+", "++", "~"]), keys, typed
)
# What these name is made, or run, by Hydra before we are asked: that is the user's own machine and wish.
harmless = (overrides | st.text(max_size=15) | st.sampled_from(FLAGS)).filter(
    lambda argument: (
        not re.match(r"[+~]*(hydra\b|extractor\._|--(config|exp|shell|run))", argument) and "_target_" not in argument
    )
)


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, a secret in the environment, and nothing that is launched."""

    def launch(settings: PipelineSettings, _ray: RaySettings, _views: ViewSettings) -> int:
        settings.clients.check()
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app, "launch", launch)
    monkeypatch.setenv("RR_SECRET", SECRET)
    monkeypatch.delenv("RR_UNSET", raising=False)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


def said_by(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str]:
    capfd.readouterr()
    code = app.main(arguments)
    out, err = capfd.readouterr()
    assert not list(Path.cwd().iterdir()), "something was written into the working directory"
    return code, out + err


@given(st.lists(harmless, max_size=4), st.booleans())
@fuzz("settings")
def test_any_command_line_runs_or_is_refused_in_words(
    capfd: pytest.CaptureFixture[str], arguments: list[str], needed: bool
) -> None:
    code, said = said_by(capfd, [*(NEEDED if needed else ()), *arguments])
    assert code in (0, ConfigurationError.exit_code), said
    assert "Traceback" not in said
    assert "defect" not in said
    assert code == 0 or said.strip()
    assert SECRET not in said or any("oc.env:RR_SECRET" in argument for argument in arguments)


@given(
    st.sampled_from(SECRET_KEYS),
    st.sampled_from(["", "+", "++"]),
    st.sampled_from(FORMS),
    st.lists(harmless, max_size=2),
)
@fuzz("command_line")
def test_no_secret_is_repeated(
    capfd: pytest.CaptureFixture[str], key: str, sign: str, form: str, others: list[str]
) -> None:
    code, said = said_by(capfd, [*NEEDED, f"{sign}{key}={form.format(SECRET)}", *others])
    assert SECRET not in said
    assert "Traceback" not in said
    assert code == ConfigurationError.exit_code or {*others} & {*FLAGS}, said


def test_the_needed_settings_are_enough(capfd: pytest.CaptureFixture[str]) -> None:
    assert said_by(capfd, list(NEEDED)) == (0, "")
