"""What the supervisor passes on of what the actors tell, and how it ends; ``tests/faults`` has real processes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ray_reproducer.actors import ray_cluster, supervisor
from ray_reproducer.actors.committer_settings import News
from ray_reproducer.actors.fleet import Fleet
from ray_reproducer.actors.settings import PipelineSettings
from ray_reproducer.actors.stopping import StopFlag
from ray_reproducer.actors.supervisor import EXIT_DEAD_LETTERS, EXIT_NOT_DRAINED, _exit_code
from ray_reproducer.core.open_files import OpenFile
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.core.progress import Progress
from ray_reproducer.kafka.client_config import ClientConfigs

RESULT = Outcome("a", "result", "k", b"")
LEFT_OUT_SINCE_MS = 1_795_452_492_000


class FakeFleet:
    """Actors that tell something, and are done."""

    def __init__(self, *news: News) -> None:
        self.told = list(news)
        self.began_at: dict[int, int] = {}

    def start(self) -> None:
        pass

    def set_slots(self, slots: int) -> None:
        pass

    def take_new_partitions(self) -> list[int]:
        return []

    def news(self, *, want_open_files: bool) -> News:
        del want_open_files
        return self.told.pop(0)

    def end(self) -> None:
        pass


class Seen:
    """An observer that takes note of what it is told about outcomes."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def progress(self, progress: Progress) -> None:
        pass

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        self.told.append(tuple(outcomes))

    def restarted(self) -> None:
        self.told.append("restarted")

    def left_out(self, since_ms: int) -> None:
        self.told.append(since_ms)

    def open_files(self, files: Sequence[OpenFile]) -> None:
        pass

    def message(self, level: int, text: str) -> None:
        pass


def test_outcomes_that_were_left_out_are_told_after_those_that_were_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "slots", lambda _: 1)
    settings = PipelineSettings(
        source_topic="raw",
        results_topic="results",
        dead_letters_topic="letters",
        create_topics=False,
        group_id="group",
        clients=ClientConfigs.from_settings({"bootstrap.servers": "127.0.0.1:9"}),
        extractor=b"",
        extractor_name="none",
        registries=True,
    )
    fleet = FakeFleet(News(outcomes=(RESULT,), left_out_since_ms=LEFT_OUT_SINCE_MS), News(finished=True))
    seen = Seen()
    supervisor.run(settings, seen, StopFlag(), lambda *_: cast("Fleet", fleet))
    assert seen.told == [(RESULT,), LEFT_OUT_SINCE_MS]


WELL = Progress(results=3, drained=True)


@pytest.mark.parametrize(
    ("run_mode", "progress", "upload_failures", "code"),
    [
        ("drain", WELL, 0, 0),
        ("drain", WELL, 1, 1),
        ("drain", Progress(dead_letters=1, drained=True), 0, EXIT_DEAD_LETTERS),
        ("drain", Progress(held=1, drained=True), 1, EXIT_DEAD_LETTERS),
        ("drain", Progress(offsets_lost=1, drained=True), 0, EXIT_DEAD_LETTERS),
        ("drain", Progress(results=3), 0, EXIT_NOT_DRAINED),
        ("drain", Progress(dead_letters=1), 1, EXIT_NOT_DRAINED),
        ("stream", Progress(dead_letters=1), 0, 0),
        ("stream", Progress(), 1, 1),
    ],
)
def test_the_exit_code_says_whether_all_is_done(
    run_mode: str, progress: Progress, upload_failures: int, code: int
) -> None:
    settings = cast("Any", SimpleNamespace(run_mode=run_mode))
    assert _exit_code(settings, progress, upload_failures) == code
