"""Whatever is typed after the name of another command: it runs, or says what is wrong in one message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer import convert_config, replay, upload
from ray_reproducer.config_checks import known_keys
from ray_reproducer.config_schema import ReplayAppConfig, UploadAppConfig
from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.core.replay_plan import ReplayPlan
from ray_reproducer.kafka import admin
from ray_reproducer.kafka.replaying import Replay
from ray_reproducer.kafka.upload import UploadSummary
from tests.fuzz.budget import fuzz
from tests.fuzz.test_settings import OTHERS, SECRET, VALUES, harmless

BROKER = "kafka.bootstrap.servers=localhost:1"
REPLAY = ("+extractor=file_info", "topics.source=raw", "topics.results=out", BROKER)
UPLOAD = ("topics.source=raw", "upload.path=.", BROKER)
CONDITIONS = ("path", "reason", "since", "until", "list", "details", "extractor")
TIMES = ("2026-03-01", "2026-03-01T25:00", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00+14:00", "now", "timeout")


class NoLetters(Replay):
    """A replay whose topic is empty: no broker is asked."""

    def refresh(self) -> None:
        """Find nothing new."""

    def look(self, source_topic: str) -> ReplayPlan:
        """Find nothing to do."""
        del source_topic
        return self.plan


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, a secret in the environment, and nobody who is asked or sent anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RR_SECRET", SECRET)
    monkeypatch.delenv("RR_UNSET", raising=False)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(replay, "Replay", NoLetters)
    monkeypatch.setattr(admin, "ensure_topic", lambda *_: None)
    monkeypatch.setattr(admin, "describe_topic", lambda *_: None)
    monkeypatch.setattr(upload, "_send", lambda *_: UploadSummary())


def overrides_for(schema: type, *more: str) -> st.SearchStrategy[list[str]]:
    keys = st.sampled_from([*known_keys(schema), *OTHERS, *more])
    values = st.sampled_from([*VALUES, *TIMES]) | st.text(max_size=12)
    typed = st.builds(
        lambda sign, key, value: f"{sign}{key}={value}", st.sampled_from(["", "", "+", "~"]), keys, values
    )
    return st.lists(typed.filter(lambda argument: "_target_" not in argument) | harmless, max_size=4)


def check(capfd: pytest.CaptureFixture[str], main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> str:
    """Run a command; return what it has said."""
    capfd.readouterr()
    code = main(arguments)
    out, err = capfd.readouterr()
    said = out + err
    assert not list(Path.cwd().iterdir()), "something was written into the working directory"
    assert code in (0, ConfigurationError.exit_code), said
    assert "Traceback" not in said
    assert "defect" not in said
    assert SECRET not in said or any("oc.env:RR_SECRET" in argument for argument in arguments)
    return said


@given(overrides_for(ReplayAppConfig, *(f"replay.{name}" for name in CONDITIONS)), st.booleans(), st.booleans())
@fuzz("replay")
def test_a_replay_runs_or_is_refused_in_words(
    capfd: pytest.CaptureFixture[str], arguments: list[str], needed: bool, listed: bool
) -> None:
    given = [*(REPLAY if needed else ()), *(["--list"] if listed else []), *arguments]
    check(capfd, replay.main, given)


@given(overrides_for(UploadAppConfig), st.booleans())
@fuzz("upload")
def test_an_upload_runs_or_is_refused_in_words(
    capfd: pytest.CaptureFixture[str], arguments: list[str], needed: bool
) -> None:
    check(capfd, upload.main, [*(UPLOAD if needed else ()), *arguments])


@given(
    st.lists(st.sampled_from(["--help", "--output", "-", "--", "test", "lab.config"]) | st.text(max_size=9), max_size=3)
)
@fuzz("convert_config")
def test_a_file_is_converted_or_it_is_said_why_not(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    check(capfd, convert_config.main, arguments)


def test_what_is_needed_is_enough(capfd: pytest.CaptureFixture[str]) -> None:
    assert "No live dead letters on out.dead_letters." in check(capfd, replay.main, REPLAY)
    assert "0 files sent to the topic raw" in check(capfd, upload.main, UPLOAD)
