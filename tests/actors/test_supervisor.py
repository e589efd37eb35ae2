"""How a run lives and ends, with actors that are not there; with real processes it is shown in ``tests/faults``.

The rules are those at the head of ``actors/supervisor.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import pytest
from ray.exceptions import RayActorError

from ray_reproducer.actors import head_watch, ray_cluster, supervisor
from ray_reproducer.actors.committer_settings import News
from ray_reproducer.actors.fleet import Fleet
from ray_reproducer.actors.head_watch import HeadGoneError
from ray_reproducer.actors.settings import PipelineSettings
from ray_reproducer.actors.stopping import StopFlag, StoppedError
from ray_reproducer.actors.supervisor import (
    EXIT_DEAD_LETTERS,
    EXIT_NOT_DRAINED,
    LONG_LIFE_S,
    LONGEST_PAUSE_S,
    LOOK_INTERVAL_S,
    MAX_FRUITLESS_LIVES,
    Summary,
    _exit_code,
)
from ray_reproducer.core.errors import (
    BrokerAwayError,
    BrokerError,
    ConfigurationError,
    ExtractorError,
    FencedError,
    PipelineError,
    TopicMissingError,
    TopicReplacedError,
)
from ray_reproducer.core.open_files import OpenFile
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.core.progress import Progress
from ray_reproducer.kafka.client_config import ClientConfigs

WELL = Progress(results=3, drained=True)
BEGAN_AT = {0: 7}
"""Where each of the actors' lives says that the group began."""
FINISHED = News(Progress(results=1), finished=True)
Step: TypeAlias = "News | Exception | Callable[[], News]"


class FakeFleet:
    """The actors of one life: each look finds the next step of a script, an error among them is raised."""

    def __init__(self, *steps: Step, start: Exception | None = None) -> None:
        self.began_at: Mapping[int, int] = BEGAN_AT
        self.calls: list[str] = []
        self._steps = iter(steps)
        self._start_error = start

    def start(self) -> None:
        if self._start_error is not None:
            raise self._start_error

    def news(self, *, want_open_files: bool = False) -> News:
        del want_open_files
        step = next(self._steps)
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, News) else step()

    def names(self) -> dict[str, str]:
        return {}

    def set_slots(self, slots: int) -> None:
        assert slots == 1

    def take_new_partitions(self) -> list[int]:
        return []

    def drain(self) -> None:
        self.calls.append("drain")

    def stop(self) -> None:
        self.calls.append("stop")

    def end(self) -> None:
        self.calls.append("end")


def lost(*before: Step) -> FakeFleet:
    """A life in which an actor is lost."""
    return FakeFleet(*before, RayActorError())


def failing(error: Exception) -> FakeFleet:
    """A life that does not begin."""
    return FakeFleet(start=error)


class Watching:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.restarts = 0
        self.seen: list[object] = []

    def progress(self, progress: Progress) -> None:
        pass

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        self.seen.append(tuple(outcomes))

    def left_out(self, since_ms: int) -> None:
        self.seen.append(since_ms)

    def open_files(self, files: Sequence[OpenFile]) -> None:
        pass

    def restarted(self) -> None:
        self.restarts += 1

    def message(self, level: int, text: str) -> None:
        self.said.append(text)


class Clock:
    """Stands for the clock that only goes on, and for waiting."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s

    def wait(self, timeout_s: float) -> None:
        self.now_s += timeout_s
        if timeout_s != LOOK_INTERVAL_S:
            self.pauses.append(timeout_s)


class Run:
    """A run whose lives are given."""

    def __init__(self, clock: Clock, lives: Iterable[FakeFleet], settings: Mapping[str, Any]) -> None:
        self.clock = clock
        self.observer = Watching()
        self.stop = StopFlag()
        self.began_at: list[dict[int, int]] = []
        self.starts: list[str] = []
        self.made: list[FakeFleet] = []
        self._lives = iter(lives)
        self._settings = PipelineSettings(
            "raw", "results", "letters", create_topics=False, group_id="group", clients=ClientConfigs({}),
            extractor=b"", extractor_name="none", **settings,
        )  # fmt: skip

    def __call__(self) -> Summary:
        return supervisor.run(self._settings, self.observer, self.stop, self._make)

    def _make(self, settings: PipelineSettings, _stop: StopFlag, began_at: Mapping[int, int]) -> Fleet:
        self.began_at.append(dict(began_at))
        self.starts.append(settings.start)
        self.made.append(next(self._lives))
        return cast("Fleet", self.made[-1])


Runs: TypeAlias = "Callable[..., Run]"


@pytest.fixture
def run_of(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Make a run of some lives, with further settings by keyword."""
    clock = Clock()
    monkeypatch.setattr(supervisor, "time", clock)
    monkeypatch.setattr(StopFlag, "wait", clock.wait)
    monkeypatch.setattr(StopFlag, "wait_for_next", clock.wait)
    monkeypatch.setattr(ray_cluster, "revive", lambda: False)
    monkeypatch.setattr(ray_cluster, "slots", lambda _: 1)
    monkeypatch.setattr(ray_cluster, "is_local", lambda: True)
    monkeypatch.setattr(ray_cluster, "head_listens", lambda: True)
    monkeypatch.setattr(ray_cluster, "is_same_head", lambda: True)
    monkeypatch.setattr(ray_cluster, "head_address", lambda: "HEAD:1")
    monkeypatch.setattr(head_watch, "time", clock)

    def made(*lives: FakeFleet, **settings: Any) -> Run:
        return Run(clock, lives, settings)

    return made


def test_outcomes_that_were_left_out_are_told_after_those_that_were_not(run_of: Runs) -> None:
    result, since_ms = Outcome("a", "result", "k", b""), 1_795_452_492_000
    run = run_of(FakeFleet(News(outcomes=(result,), left_out_since_ms=since_ms), FINISHED), registries=True)
    run()
    assert run.observer.seen == [(result,), since_ms]


# ---------------------------------------------------------------- rule 1


def test_rule_1_lives_that_finish_nothing_one_after_the_other_end_the_run(run_of: Runs) -> None:
    run = run_of(*(lost() for _ in range(MAX_FRUITLESS_LIVES + 5)))
    with pytest.raises(PipelineError, match="a part of the program was lost"):
        run()
    assert len(run.made) == MAX_FRUITLESS_LIVES + 1
    assert run.observer.restarts == MAX_FRUITLESS_LIVES
    assert run.clock.pauses == [1.0, 2.0, 4.0, 8.0, LONGEST_PAUSE_S]
    assert all(life.calls == ["end"] for life in run.made)


def test_rule_1_where_the_group_began_is_handed_on_to_the_next_life(run_of: Runs) -> None:
    run = run_of(lost(), lost(), FakeFleet(FINISHED))
    run()
    assert run.began_at == [{}, BEGAN_AT, BEGAN_AT]


def test_rule_1_a_life_that_finished_a_file_begins_the_count_anew_and_counters_add_up(run_of: Runs) -> None:
    lives = 2 * MAX_FRUITLESS_LIVES
    run = run_of(*(lost(News(Progress(results=1, held=1))) for _ in range(lives)), FakeFleet(FINISHED))
    summary = run()
    assert (summary.progress.results, summary.progress.held) == (lives + 1, 0)
    assert (run.observer.restarts, run.clock.pauses) == (lives, [])


def test_rule_1_so_does_a_long_life_without_anything_to_do(run_of: Runs) -> None:
    def long_silence() -> News:
        run.clock.now_s += LONG_LIFE_S
        return News()

    run = run_of(*(lost(long_silence) for _ in range(2 * MAX_FRUITLESS_LIVES)), FakeFleet(FINISHED))
    assert run().progress.results == 1


def test_rule_1_an_embedded_broker_is_lost_with_what_it_held(run_of: Runs) -> None:
    run = run_of(lost(), FakeFleet(FINISHED), embedded=True)
    with pytest.raises(PipelineError, match="a part of the program was lost") as raised:
        run()
    assert raised.value.hint == "The embedded broker keeps nothing: start again from the beginning."


# ---------------------------------------------------------------- rule 2


@pytest.mark.parametrize(
    "error",
    [FencedError("gone"), BrokerError("refused"), ExtractorError("no module"), ConfigurationError("no"),
     BrokerAwayError("no answer"), TopicMissingError("no topic")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_rule_2_what_a_new_start_can_not_mend_ends_it_at_once(run_of: Runs, error: Exception) -> None:
    run = run_of(failing(error), FakeFleet(FINISHED))
    with pytest.raises(type(error)) as raised:
        run()
    assert raised.value is error
    assert [life.calls for life in run.made] == [["end"]]


@pytest.mark.parametrize("error", [FencedError("gone"), BrokerError("refused")], ids=["fenced", "refused"])
def test_rule_2_also_after_it_has_begun(run_of: Runs, error: Exception) -> None:
    run = run_of(FakeFleet(News(Progress(results=5)), error), FakeFleet(FINISHED))
    with pytest.raises(type(error)):
        run()
    assert len(run.made) == 1


def test_rule_2_a_broker_that_is_away_is_waited_for_once_the_run_has_begun(run_of: Runs) -> None:
    times = 4 * MAX_FRUITLESS_LIVES
    away = [failing(BrokerAwayError("no answer", hint="start it")) for _ in range(times)]
    run = run_of(FakeFleet(BrokerAwayError("it is gone")), *away, FakeFleet(FINISHED))
    assert run().progress.results == 1
    assert run.observer.said == ["it is gone; it is waited for.", *["no answer; it is waited for."] * times]
    assert run.clock.pauses == [LONGEST_PAUSE_S] * (times + 1)


def test_rule_2_a_topic_that_is_gone_is_waited_for_only_if_it_is_to_come_back(run_of: Runs) -> None:
    gone = TopicMissingError("no topic")
    with pytest.raises(TopicMissingError):
        run_of(lost(), failing(gone), FakeFleet(FINISHED))()
    run = run_of(lost(), failing(gone), failing(gone), FakeFleet(FINISHED), topic_recreated="start_anew")
    assert run().progress.results == 1
    assert run.observer.said.count("no topic; it is waited for.") == 2


def test_rule_2_a_topic_that_was_made_anew_is_read_from_its_beginning_if_that_is_wanted(run_of: Runs) -> None:
    replaced = TopicReplacedError("another topic")
    with pytest.raises(TopicReplacedError):
        run_of(FakeFleet(replaced), FakeFleet(FINISHED))()
    run = run_of(FakeFleet(replaced), FakeFleet(FINISHED), topic_recreated="start_anew", start="latest")
    run()
    assert run.began_at == [{}, {}]
    assert run.starts == ["latest", "earliest"]


# ---------------------------------------------------------------- rule 3


def away_for(looks: int, run: Run, stop_at: int = -1) -> Callable[[], bool]:
    """A head that does not listen when it is looked at for the second time, and some times more."""
    count = iter(range(1_000))

    def listens() -> bool:
        look = next(count)
        if look == stop_at:
            run.stop.request()
        return not 0 < look <= looks

    return listens


def test_rule_3_a_head_that_comes_back_is_waited_for_before_anything_else_is_asked_of_ray(
    run_of: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(lost(), FakeFleet(FINISHED))
    monkeypatch.setattr(ray_cluster, "is_local", lambda: False)
    monkeypatch.setattr(ray_cluster, "head_listens", away_for(50, run))
    run()
    assert len(run.made) == 2
    assert run.observer.said[1:] == [
        "Ray's head at HEAD:1 does not answer; it is waited for, for 30 s.", "Ray's head is there again.",
    ]  # fmt: skip


def test_rule_3_slots_are_not_asked_of_a_head_that_is_away(run_of: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(FakeFleet(FINISHED))
    monkeypatch.setattr(ray_cluster, "is_local", lambda: False)
    monkeypatch.setattr(ray_cluster, "head_listens", lambda: False)
    monkeypatch.setattr(ray_cluster, "slots", lambda _: pytest.fail("Ray was asked"))
    run()


@pytest.mark.parametrize("life", [lost(), FakeFleet(*[News()] * 1_000)], ids=["lost", "going on"])
def test_rule_3_a_cluster_whose_head_is_gone_ends_the_run(
    run_of: Runs, monkeypatch: pytest.MonkeyPatch, life: FakeFleet
) -> None:
    run = run_of(life, FakeFleet(FINISHED))
    monkeypatch.setattr(ray_cluster, "is_local", lambda: False)
    monkeypatch.setattr(ray_cluster, "head_listens", away_for(1_000, run))
    with pytest.raises(HeadGoneError, match="HEAD:1 has not answered for 30 s"):
        run()
    assert len(run.made) == 1


def test_rule_3_a_request_to_stop_ends_the_waiting(run_of: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(lost(), FakeFleet(FINISHED))
    monkeypatch.setattr(ray_cluster, "is_local", lambda: False)
    monkeypatch.setattr(ray_cluster, "head_listens", away_for(1_000, run, stop_at=20))
    run()
    assert len(run.made) == 1
    assert run.observer.said[-1] == "Stopped. What was in flight will be done by the next start."


def test_rule_3_a_ray_of_our_own_whose_head_has_died_is_made_anew(
    run_of: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(FakeFleet(*[News()] * 1_000), FakeFleet(FINISHED))
    alive = [True, True]
    monkeypatch.setattr(ray_cluster, "head_listens", lambda: alive.pop() if alive else bool(run.observer.restarts))
    monkeypatch.setattr(ray_cluster, "revive", lambda: True)
    run()
    assert run.observer.said == [
        "A part of the program was lost (Ray's head process has died); it goes on from what is committed.",
        "Ray itself had died on this machine; it was started again.",
    ]


def test_rule_3_who_stops_needs_no_head(run_of: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of()
    run._lives = iter([FakeFleet(asking(run), *[News()] * 100, FINISHED)])
    monkeypatch.setattr(ray_cluster, "head_listens", lambda: not run.stop.graceful)
    assert run().stopped
    assert run.made[0].calls == ["stop", "end"]


def test_rule_3_an_embedded_broker_on_a_cluster_is_lost_with_it(run_of: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(FakeFleet(*[News()] * 1_000), embedded=True)
    monkeypatch.setattr(ray_cluster, "is_local", lambda: False)
    monkeypatch.setattr(ray_cluster, "head_listens", away_for(1_000, run))
    with pytest.raises(PipelineError, match="has not answered") as raised:
        run()
    assert "embedded broker keeps nothing" in str(raised.value.hint)


# ---------------------------------------------------------------- rule 4


def asking(run: Run, times: int = 1) -> Callable[[], News]:
    """A look at which the run is asked to stop."""

    def ask() -> News:
        for _ in range(times):
            run.stop.request()
        return News()

    return ask


def test_rule_4_the_first_request_lets_what_is_in_flight_finish(run_of: Runs) -> None:
    run = run_of()
    run._lives = iter([FakeFleet(asking(run), News(), News(), FINISHED)])
    summary = run()
    assert (summary.stopped, summary.progress.results) == (True, 1)
    assert run.made[0].calls == ["stop", "end"], "it is asked once"
    assert run.observer.said == []


def test_rule_4_for_a_limited_time(run_of: Runs) -> None:
    run = run_of(shutdown_timeout_s=5.0)
    looks = iter(range(1_000))

    def going_on() -> News:
        next(looks)
        return News()

    run._lives = iter([FakeFleet(asking(run), *[going_on] * 1_000)])
    assert run().stopped
    assert next(looks) == pytest.approx(5.0 / LOOK_INTERVAL_S, abs=2)
    assert run.made[0].calls == ["stop", "end"]
    assert run.observer.said == [
        "What was in flight did not finish within shutdown_timeout=5 seconds; the next start will do it."
    ]


def test_rule_4_the_second_ends_everything_now(run_of: Runs) -> None:
    run = run_of()
    run._lives = iter([FakeFleet(asking(run), asking(run), FINISHED)])
    assert run().stopped
    assert run.made[0].calls == ["stop", "end"]
    assert run.observer.said == ["Stopped at once. What was in flight will be done by the next start."]


def test_rule_4_a_request_while_it_begins_ends_it_too(run_of: Runs) -> None:
    run = run_of(failing(StoppedError()))
    run()
    assert run.made[0].calls == ["end"]
    assert run.observer.said == ["Stopped. What was in flight will be done by the next start."]


def test_rule_4_a_part_that_is_lost_after_the_request_is_not_made_anew(run_of: Runs) -> None:
    run = run_of()
    run._lives = iter([lost(asking(run)), FakeFleet(FINISHED)])
    with pytest.raises(PipelineError, match="lost"):
        run()
    assert len(run.made) == 1


# ---------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("run_mode", "stopped", "progress", "upload_failures", "code"),
    [
        ("drain", False, WELL, 0, 0),
        ("drain", False, WELL, 1, 1),
        ("drain", False, Progress(dead_letters=1, drained=True), 0, EXIT_DEAD_LETTERS),
        ("drain", False, Progress(held=1, drained=True), 1, EXIT_DEAD_LETTERS),
        ("drain", False, Progress(offsets_lost=1, drained=True), 0, EXIT_DEAD_LETTERS),
        ("drain", False, Progress(results=3, outcomes_pending=2), 0, EXIT_DEAD_LETTERS),
        ("drain", True, WELL, 0, 0),
        ("drain", True, Progress(results=3), 0, EXIT_NOT_DRAINED),
        ("drain", True, Progress(dead_letters=1), 1, EXIT_NOT_DRAINED),
        ("stream", True, Progress(dead_letters=1), 0, 0),
        ("stream", True, Progress(), 1, 1),
    ],
)
def test_the_exit_code_says_whether_all_is_done(
    run_mode: str, stopped: bool, progress: Progress, upload_failures: int, code: int
) -> None:
    settings = cast("Any", SimpleNamespace(run_mode=run_mode))
    assert _exit_code(settings, progress, upload_failures, stopped=stopped) == code
