"""The live display: a stable panel on a terminal, plain lines elsewhere, floods cut."""

from __future__ import annotations

import io
import logging
from dataclasses import replace

import pytest
from rich.console import Console

from ray_reproducer.core.progress import Progress
from ray_reproducer.observability.display import Display, MessageGate

BUSY = Progress(
    messages_read=123_456,
    bytes_read=123_456_789_012,
    results=1_234_567,
    dead_letters=321,
    files_incomplete=12,
    files_waiting=34_567,
    files_in_flight=16,
    lag_messages=9_876_543,
    broker_trouble="host:9092 refuses the connection, and says so in a very long sentence that fits no terminal at all",
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def panel_lines(width: int, progress: Progress) -> list[str]:
    """The panel as it stands on a terminal of this width."""
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=40)
    display = Display("xrd_csv: a_topic_with_a_long_name → another_topic (drain, group g)", console, clock=clock)
    with display:
        clock.now_s = 83
        display.progress(progress)
        assert display._live is not None
        paper = Console(file=io.StringIO(), width=width)
        with paper.capture() as captured:
            paper.print(display._live.get_renderable())
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 300])
def test_the_panel_keeps_its_layout_whatever_the_numbers_and_the_width(width: int) -> None:
    busy, idle = panel_lines(width, BUSY), panel_lines(width, Progress())
    assert len(busy) == len(idle)
    assert max(map(len, busy)) <= width
    assert max(map(len, idle)) <= width


def test_the_clock_of_the_panel_goes_on_while_nothing_else_happens() -> None:
    clock, paper = Clock(), Console(file=io.StringIO(), width=80)
    with Display("title", Console(file=io.StringIO(), force_terminal=True, width=80), clock=clock) as display:
        clock.now_s = 7
        assert display._live is not None
        with paper.capture() as captured:
            paper.print(display._live.get_renderable())
    assert "title · 7.0 s" in captured.get()
    assert "starting..." in captured.get()


def test_the_panel_shows_every_number() -> None:
    text = "\n".join(panel_lines(100, BUSY))
    for shown in ("1,234,888", "321", "123 GB", "16", "34,567", "12", "9,876,543", "1 min 23 s", "host:9092"):
        assert shown in text


def test_without_a_terminal_there_is_a_line_every_few_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    with Display("title", Console(file=stream, width=40), line_interval_s=5, clock=clock) as display:
        for second in range(1, 12):
            clock.now_s = second
            display.progress(
                Progress(results=second * 10, dead_letters=1, bytes_read=second * 1_000_000, lag_messages=7)
            )
    assert stream.getvalue().splitlines() == [
        "title",
        "5.0 s: 51 files done (10.0/s), 1 failed, 5 MB read (1 MB/s), 0 in flight, 0 waiting, 0 incomplete, lag 7",
        "10.0 s: 101 files done (10.0/s), 1 failed, 10 MB read (1 MB/s), 0 in flight, 0 waiting, 0 incomplete, lag 7",
    ]


def test_counts_are_said_when_they_are_asked_for() -> None:
    paper = io.StringIO()
    with Display("title", Console(file=paper, width=200), clock=Clock()) as display:
        display.say_counts()
        display.progress(BUSY)
        display.say_counts()
    before, after = [line for line in paper.getvalue().splitlines() if "files done" in line]
    assert "0 files done" in before
    assert "1,234,888 files done" in after


def test_messages_are_shown_as_they_are() -> None:
    stream = io.StringIO()
    with Display("title", Console(file=stream, width=20)) as display:
        display.message(
            logging.ERROR, "[red]sub/[a].csv[/red] failed :smile:, in a line that is longer than the window"
        )
    assert "[red]sub/[a].csv[/red] failed :smile:, in a line that is longer than the window\n" in stream.getvalue()


def test_what_a_topic_says_does_not_steer_the_terminal() -> None:
    stream = io.StringIO()
    with Display("title", Console(file=stream, force_terminal=True, width=200)) as display:
        display.message(logging.ERROR, "a\x1b]0;mine\x07.csv: KeyError\n  File \x1b[2J")
        display.progress(replace(BUSY, broker_trouble="\x1b[2Jaway"))
    assert r"a\x1b]0;mine\x07.csv: KeyError" in stream.getvalue()
    assert "\x1b]0" not in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


def test_trouble_with_the_broker_is_said_once_when_it_begins_and_ends() -> None:
    stream = io.StringIO()
    with Display("title", Console(file=stream, width=200)) as display:
        for trouble in ("", "refused", "refused", "refused", "", ""):
            display.progress(Progress(broker_trouble=trouble))
    assert stream.getvalue().splitlines()[1:] == [
        "broker: refused (trying again until it answers)",
        "broker: answers again",
    ]


def test_each_kind_of_trouble_is_said_once_while_it_lasts() -> None:
    stream = io.StringIO()
    lost, refused, denied = "lost [_TRANSPORT]", "refused [_TRANSPORT]", "wrong password [_AUTHENTICATION]"
    with Display("title", Console(file=stream, width=200)) as display:
        for trouble in (lost, refused, denied, lost, denied, "", denied):
            display.progress(Progress(broker_trouble=trouble))
    assert [line.split(" (")[0] for line in stream.getvalue().splitlines()[1:]] == [
        f"broker: {lost}",
        f"broker: {denied}",
        "broker: answers again",
        f"broker: {denied}",
    ]


def test_a_flood_of_messages_is_cut_and_counted() -> None:
    clock, stream = Clock(), io.StringIO()
    with Display("title", Console(file=stream, width=200), clock=clock) as display:
        for number in range(1000):
            display.message(logging.ERROR, f"file {number}")
        clock.now_s = 2
        display.message(logging.ERROR, "later")
        display.message(logging.ERROR, "again")
        display.message(logging.ERROR, "too much")
    lines = stream.getvalue().splitlines()[1:]
    assert lines[:20] == [f"file {number}" for number in range(20)]
    assert lines[20:] == [
        "(980 more messages like these were left out)",
        "later",
        "again",
        "(1 more messages like these were left out)",
    ]


def test_a_flood_of_failures_does_not_hide_what_the_program_says_of_itself() -> None:
    stream = io.StringIO()
    with Display("title", Console(file=stream, width=200), clock=Clock()) as display:
        for number in range(1000):
            display.message(logging.ERROR, f"file {number}")
        display.message(logging.WARNING, "Ctrl-C: leaving now")
    assert "Ctrl-C: leaving now" in stream.getvalue()


def test_the_gate_opens_again_with_time() -> None:
    clock = Clock()
    gate = MessageGate(clock, burst=2, per_s=1)
    assert [gate.admit() for _ in range(3)] == [(True, 0), (True, 0), (False, 0)]
    clock.now_s = 1
    assert [gate.admit() for _ in range(2)] == [(True, 1), (False, 0)]
    clock.now_s = 100
    assert [gate.admit()[0] for _ in range(3)] == [True, True, False]
