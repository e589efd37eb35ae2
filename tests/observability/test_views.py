"""All views together: who is told what, and that the failure of one reaches nobody else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ray_reproducer.core.errors import BrokerError
from ray_reproducer.core.outcome import Facts, Outcome
from ray_reproducer.core.progress import Progress
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.observability import side_channel, views
from ray_reproducer.observability.registries import RegistryNames
from ray_reproducer.observability.view_settings import ViewSettings
from ray_reproducer.observability.views import Views
from tests.observability.test_registries import rows

NOWHERE = ClientConfigs.from_settings({"bootstrap.servers": "127.0.0.1:9"})
NAMES = RegistryNames("raw", "metadata", "dead", "group", clients=None)
RESULT = Outcome("a.csv", "result", "k", b"", facts=Facts(done_ms=1_795_452_492_000))


class Screen:
    """What is shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, str]] = []

    def show(self, level: int, text: str) -> None:
        self.shown.append((level, text))


@pytest.fixture
def screen() -> Screen:
    return Screen()


def views_of(settings: ViewSettings, screen: Screen) -> Views:
    return Views(settings, "mine", NOWHERE, NAMES, screen.show)


def test_without_settings_there_is_only_the_screen(
    screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with views_of(ViewSettings(), screen) as seen:
        seen.message(logging.WARNING, "text")
        seen.outcomes([RESULT])
        seen.open_files([])
        seen.progress(Progress(results=1))
        seen.restarted()
        seen.left_out(1)
    assert screen.shown == [(logging.WARNING, "text")]
    assert seen.log_handlers == []
    assert list(tmp_path.iterdir()) == []


def test_files_are_complete_when_the_run_has_ended(screen: Screen, tmp_path: Path) -> None:
    settings = ViewSettings(program_name="Lab", logs_dir=str(tmp_path / "LOGS"))
    with views_of(settings, screen) as seen:
        seen.message(logging.INFO, "not in the log")
        seen.message(logging.WARNING, "in the log")
        seen.outcomes([RESULT])
    assert [row[1] for row in rows(tmp_path / "LOGS" / "results_produced_to_metadata.csv")] == ["a.csv"]
    log = (tmp_path / "LOGS" / "Lab.log").read_text()
    assert log.startswith("[Lab ")
    assert log.endswith("] WARNING: in the log\n")
    assert [text for _, text in screen.shown] == ["not in the log", "in the log"]


def test_the_error_that_ends_the_run_is_logged_and_goes_on_its_way(screen: Screen, tmp_path: Path) -> None:
    settings = ViewSettings(log_file_path=str(tmp_path / "elsewhere" / "my.log"))
    with pytest.raises(BrokerError), views_of(settings, screen):
        raise BrokerError("no broker", hint="Start one.")
    log = (tmp_path / "elsewhere" / "my.log").read_text()
    assert "[mine " in log
    assert log.endswith("ERROR: BrokerError: no broker\nStart one.\n")


def test_what_fails_is_said_once_also_in_the_log_and_the_others_go_on(
    screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_channel, "TOPIC_TIMEOUT_S", 0.1)
    for module in (side_channel, "ray_reproducer.observability.heartbeats", "ray_reproducer.observability.log_topic"):
        monkeypatch.setattr(f"{getattr(module, '__name__', module)}.FLUSH_S", 0.1)
    monkeypatch.setattr(views, "MESSAGES_INTERVAL_S", 0.01)
    (tmp_path / "LOGS" / "results_produced_to_metadata.csv").mkdir(parents=True)  # in the way
    settings = ViewSettings(logs_dir=str(tmp_path / "LOGS"), heartbeat_topic="hb", log_topic="log")
    with views_of(settings, screen) as seen:
        seen.outcomes([RESULT])
        seen.message(logging.WARNING, "for the log topic")
    said = [text for level, text in screen.shown if level == logging.WARNING]
    about = [text.partition(" ")[0] for text in said]
    assert sorted(about) == ["Heartbeats", "Log", "for", "the"]
    log = (tmp_path / "LOGS" / "mine.log").read_text()
    assert all(text in log for text in said)
