"""Commands on stdin: what is obeyed, what is listened to, and that nothing waits for it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_reproducer.observability.console import ConsoleCommands
from ray_reproducer.observability.view_settings import ConsoleMode
from tests.waiting import wait_until

DEADLINE_S = 20.0
REPOSITORY = Path(__file__).parents[2]


class Heard:
    """Takes note of what was heard."""

    def __init__(self, mode: ConsoleMode, descriptor: int) -> None:
        self.words: list[str] = []
        self.commands = ConsoleCommands(
            mode,
            lambda: self.words.append("quit"),
            lambda: self.words.append("check"),
            lambda line: self.words.append(f"?{line}"),
            descriptor,
        )


@pytest.fixture(name="pipe")
def _pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def test_commands_in_any_case_and_in_pieces(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    heard = Heard("terminal_or_pipe", reading)
    with heard.commands:
        for piece in (b"c\nCHE", b"CK\r\n\n  q \n", b"quit\nstop\nhalt\nc"):
            os.write(writing, piece)
        wait_until(lambda: len(heard.words) == 5, DEADLINE_S, "the commands")
        os.close(writing)
        wait_until(lambda: len(heard.words) == 6, DEADLINE_S, "the last line, which has no newline")
    assert heard.words == ["check", "check", "quit", "quit", "?stop", "check"]


def test_rule_2_the_end_of_a_pipe_ends_the_listening_and_nothing_else(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(writing)
    heard = Heard("terminal_or_pipe", reading)
    with heard.commands:
        thread = heard.commands._thread
        assert thread is not None
        wait_until(lambda: not thread.is_alive(), DEADLINE_S, "the listening to end")
    assert heard.words == []


@pytest.mark.parametrize("mode", ["off", "terminal"])
def test_rule_2_a_pipe_is_left_alone_unless_asked_for(pipe: tuple[int, int], mode: ConsoleMode) -> None:
    reading, writing = pipe
    os.write(writing, b"q\n")
    with Heard(mode, reading).commands as commands:
        assert not commands.listens
    assert os.read(reading, 10) == b"q\n"
    os.close(writing)


def test_rule_2_files_and_devices_are_not_listened_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("q\n")
    for path in (tmp_path / "file", Path(os.devnull)):
        with path.open() as file:
            assert not Heard("terminal_or_pipe", file.fileno()).commands.listens
    assert not Heard("terminal_or_pipe", 999_999).commands.listens


def test_rule_3_listening_keeps_nothing_from_ending(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    before = threading.active_count()
    with Heard("terminal_or_pipe", reading).commands as commands:
        assert commands.listens
        os.write(writing, b"x" * 5000)  # no line yet
    assert threading.active_count() == before
    os.close(writing)


LEADER = """
import os, signal, sys
from pathlib import Path
from ray_reproducer.observability import console
from tests.observability.test_console import DEADLINE_S, Heard, made_group
from tests.waiting import wait_until

terminal, directory = sys.argv[1], Path(sys.argv[2])
os.dup2(os.open(terminal, os.O_RDWR), 0)  # the first that a session's leader opens is the session's
console.BACKGROUND_LOOK_S = 0.05
heard = Heard("terminal", 0)
with heard.commands:
    wait_until(lambda: heard.words == ["check"], DEADLINE_S, "c")
    # Another group has the terminal: reading from it now would stop this process (SIGTTIN).
    other = os.fork()
    if other == 0:
        os.setpgid(0, 0)
        signal.pause()
    wait_until(lambda: made_group(other), DEADLINE_S, "the other group")
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, other)
    (directory / "heard").write_text("background")
    wait_until((directory / "typed").exists, DEADLINE_S, "something typed")
    os.tcsetpgrp(0, os.getpgrp())
    wait_until(lambda: heard.words == ["check", "quit"], DEADLINE_S, "q")
    os.kill(other, signal.SIGKILL)
(directory / "heard").write_text("all heard")
"""
"""A program with a terminal of its own: it listens; then in another process group, behind it."""


def test_rule_1_a_terminal_in_the_foreground_is_heard_and_in_the_background_is_not_read(tmp_path: Path) -> None:
    answer = tmp_path / "heard"
    master, slave = pty.openpty()
    # A new interpreter: a fork of this one, with threads of the libraries that other tests have loaded, may hang.
    command = [sys.executable, "-c", LEADER, os.ttyname(slave), str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, start_new_session=True) as leader:
        os.write(master, b"c\n")
        wait_until(lambda: answer.exists() and answer.read_text() == "background", DEADLINE_S, "the background")
        os.write(master, b"q\n")
        (tmp_path / "typed").touch()
        wait_until(lambda: answer.read_text() == "all heard", DEADLINE_S, "the foreground again")
        assert leader.wait(DEADLINE_S) == 0
    for descriptor in (master, slave):
        os.close(descriptor)


def made_group(child: int) -> bool:
    """Whether a child has a process group of its own by now."""
    return os.getpgid(child) == child
