"""What a replay says. The rules are those at the head of ``observability/replay_report.py``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import cast

import pytest
from rich.console import Console

from ray_reproducer.core.dead_letter import parse
from ray_reproducer.core.live_letters import Letter, Place
from ray_reproducer.core.outcome import Failure, Origin, dead_letter
from ray_reproducer.core.progress import Progress
from ray_reproducer.core.reasons import Reason
from ray_reproducer.core.replay_plan import FailedFile, Refusal, ReplayPlan
from ray_reproducer.observability import replay_report
from ray_reproducer.observability.replay_report import MAX_LISTED, MAX_NAMED, plan_lines
from tests.core.test_replay_plan import version

NAMES = {"extractor": "mine", "results": "metadata", "dead_letters": "metadata.dead_letters"}


def failed(path: str, reason: str = "timeout", error: str = "slow", minute: int = 0, offset: int = 7) -> FailedFile:
    origin = Origin("raw", bytes(16), "mine", "test")
    time = f"2026-01-02T03:{minute:02}:00Z"
    # On a topic there may be any reason.
    failure = Failure(cast("Reason", reason), error)
    outcome = dead_letter(version(path), failure, {0: [offset]}, origin, time)
    return FailedFile((Letter(Place(0, 0), outcome.key, parse(outcome.value)),))


def shown(files: Sequence[FailedFile], *, width: int = 0, details: bool = False) -> str:
    """A list, on a terminal of so many columns; 0: not on a terminal."""
    out = io.StringIO()
    terminal = Console(file=out, width=width, force_terminal=True, color_system=None)
    console = terminal if width else Console(file=out, width=replay_report.PLAIN_WIDTH)
    (replay_report.print_files if details else replay_report.print_reasons)(console, files)
    return out.getvalue()


def summary(progress: Progress, plan: ReplayPlan, left: Sequence[FailedFile] = (), *, stopped: bool = False) -> str:
    lines = replay_report.summary_lines(progress, 2.0, plan, left, names=NAMES, stopped=stopped)
    return "\n".join(lines)


def test_rule_1_what_can_not_be_replayed_is_named_one_by_one() -> None:
    gone = [
        Refusal(failed("a"), "offsets are no longer on raw", "[0] 3-5, [1] 7"),
        Refusal(failed("b"), "the message is no chunk of a file"),
    ]
    files = {version("c").id: failed("c")}
    plan = ReplayPlan(files, {0: ((2, 5),), 1: ((1, 2),)}, tuple(gone), {"raw2": 1})
    reasons = "1: offsets are no longer on raw, 1: the message is no chunk of a file"
    assert list(plan_lines(plan, "mine", "raw")) == [
        f"mine: 1 file to replay, 4 messages of raw to read; 2 files can't be replayed ({reasons}).",
        "  can't replay dir/a: offsets are no longer on raw: [0] 3-5, [1] 7",
        "  can't replay dir/b: the message is no chunk of a file",
        "  1 file of another topic left out: topics.source=raw2 replays them.",
    ]
    many = list(plan_lines(ReplayPlan(refusals=(gone[1],) * (MAX_NAMED + 5)), "mine", "raw"))
    assert len(many) == MAX_NAMED + 2
    assert many[-1] == "  ... and 5 more"


def test_the_summary_says_what_was_done_and_what_is_left() -> None:
    progress = Progress(9, 4_000, results=5, dead_letters=1, dead_letters_by_reason={"timeout": 1})
    plan = ReplayPlan(refusals=(Refusal(failed("a"), "chunks are missing"),))
    assert summary(progress, plan, [failed("b")]).splitlines() == [
        "mine: replay done after 2.0 s. 5 results on metadata, 1 file failed again; 9 messages read (4 kB).",
        "          1  timeout: the extractor took longer than extraction.timeout",
        "  1 file can't be replayed: said above, one by one.",
        "  1 file not whole on the source topic; the dead letters stay on metadata.dead_letters:",
        "    dir/b",
    ]
    assert "  1 file not done yet; the dead letters stay" in summary(progress, plan, [failed("b")], stopped=True)
    assert len(summary(progress, ReplayPlan(), [failed("b")] * 500).splitlines()) == MAX_NAMED + 4
    assert len(summary(progress, ReplayPlan()).splitlines()) == 2


def test_that_there_is_nothing_is_said_with_the_reason() -> None:
    said = replay_report.nothing_lines([], {}, "letters", "mine")
    assert list(said) == ["No live dead letters on letters."]
    said = replay_report.nothing_lines([failed("a"), failed("b")], {"other": 3}, "letters", "mine")
    assert list(said) == [
        "None of the 2 failed files on letters matches.",
        "  There are: 2 timeout. --list shows them.",
        "  3 files failed in another extractor: replay.extractor=other",
    ]

    evil = failed("\x1b]0;x\x07", reason="\x1b[31m", error="\x1b[2J[bold]x[/bold]\nline")
    for text in (shown([evil]), shown([evil], details=True), shown([evil], width=100, details=True)):
        assert "\x1b" not in text
        assert "[bold]x[/bold] line" in text


@pytest.mark.parametrize("details", [False, True])
def test_rule_2_what_could_steer_a_terminal_is_shown(details: bool) -> None:
    steering = failed("\x1b[2Jü\n\u202eabc.csv", "time\x07out", "\x1b]0;slow")
    text = shown([steering], details=details) + "\n".join(
        plan_lines(ReplayPlan(refusals=(Refusal(steering, "no"),)), "m", "r")
    )
    assert r"\x1b[2Jü" in text
    assert not set(text) & set("\x1b\x07\u202e")


@pytest.mark.parametrize("details", [False, True])
def test_rule_2_long_texts_are_cut(details: bool) -> None:
    text = shown([failed("p" * 200, error="e" * 2_000)], details=details)
    assert "e" * 10 in text
    assert "e" * 200 not in text
    assert "p" * 120 not in text


def test_rule_3_without_a_terminal_each_line_is_whole() -> None:
    files = [failed(f"f{number}", "timeout" if number % 3 else "not_json", minute=number) for number in range(7)]
    lines = shown(files).splitlines()
    assert [line.split() for line in lines] == [
        ["reason", "files", "newest", "(UTC)", "example", "error"],
        ["timeout", "4", "2026-01-02", "03:05:00", "dir/f5", "slow"],
        ["not_json", "3", "2026-01-02", "03:06:00", "dir/f6", "slow"],
    ]
    lines = shown(files, details=True).splitlines()
    assert lines[1].split() == ["timeout", "2026-01-02", "03:01:00", "1", "mine", "raw", "[0]", "7", "dir/f1", "slow"]
    assert len(lines) == 1 + len(files)
    assert len({line.index("raw") for line in lines[1:]}) == 1


@pytest.mark.parametrize("width", [60, 80, 200])
def test_rule_3_on_a_terminal_a_list_fits(width: int) -> None:
    files = [failed(f"a long directory/{number}/" + "x" * 80, error="why " * 30) for number in range(3)]
    for details in (False, True):
        assert max(map(len, shown(files, width=width, details=details).splitlines())) <= width
    text = shown([failed("a"), failed("b", "unheard_of")], width=width, details=True)
    assert "timeout: the extractor took longer" in text
    assert "unheard_of (1 file)" in text
    assert "raw [0] 7 · mine" in text


def test_a_list_ends_somewhere() -> None:
    files = [failed(f"f{number}") for number in range(MAX_LISTED + 1)]
    text = shown(files, details=True)
    assert "... and 1 older ones" in text
    assert "dir/f0 " not in text
