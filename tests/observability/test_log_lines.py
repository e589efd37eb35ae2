"""Log lines: their format, their levels, and who waits for whom (nobody)."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import pytest

from ray_reproducer.observability.log_lines import LineBuffer, LogFile, log_line

FORMAT = re.compile(r"\[test\.lab\.file \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] WARNING: text")


def test_rule_1_the_format_is_the_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        assert log_line("Lab", logging.WARNING, "text", 1_795_452_492.9) == "[Lab 2026-11-23 16:48:12] WARNING: text"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_levels_and_tracebacks(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "deep" / "Lab.log", logging.WARNING, "Lab")
    logger = logging.getLogger("test.lab.file")
    logger.addHandler(log.buffer)
    logger.propagate = False
    logger.info("not this")
    logger.warning("text")
    try:
        raise KeyError("x")
    except KeyError:
        logger.exception("with its traceback")
    log.buffer.add("Lab", logging.INFO, "nor this")
    log.update(last=False)
    lines = (tmp_path / "deep" / "Lab.log").read_text().splitlines()
    assert FORMAT.fullmatch(lines[0])
    assert lines[1].endswith("] ERROR: with its traceback")
    assert lines[-1] == "KeyError: 'x'"


def test_the_log_may_be_deleted_and_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "Lab.log"
    path.write_text("of an earlier run\n")
    log = LogFile(path, logging.INFO, "Lab")
    log.buffer.add("Lab", logging.WARNING, "one")
    log.update(last=False)
    assert [line.rpartition(" ")[2] for line in path.read_text().splitlines()] == ["run", "one"]
    path.unlink()
    log.buffer.add("Lab", logging.WARNING, "\ud800 two")
    log.update(last=True)
    assert path.read_text(encoding="utf-8").endswith("WARNING: \\ud800 two\n")


def test_a_record_that_can_not_be_formatted_reaches_nobody_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LogFile(tmp_path / "Lab.log", logging.INFO, "Lab")
    log.buffer.handle(logging.LogRecord("Lab", logging.ERROR, __file__, 1, "%d", ("no number",), None))
    assert "Logging error" in capsys.readouterr().err
    assert log.buffer.take() == ([], 0)


def test_rule_2_a_flood_keeps_the_newest_and_says_how_many_are_missing(tmp_path: Path) -> None:
    buffer = LineBuffer(logging.INFO, 3)
    for number in range(5):
        buffer.add("Lab", logging.INFO, str(number))
    lines, left_out = buffer.take()
    assert [line[-1] for line in lines] == ["2", "3", "4"]
    assert left_out == 2
    assert buffer.take() == ([], 0)


def test_rule_2_lines_that_could_not_be_written_wait_as_far_as_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "in the way").write_text("")
    log = LogFile(tmp_path / "in the way" / "Lab.log", logging.INFO, "Lab")
    log.buffer.add("Lab", logging.INFO, "first")
    with pytest.raises(FileExistsError):
        log.update(last=False)
    (tmp_path / "in the way").unlink()
    log.buffer.add("Lab", logging.INFO, "second")
    log.update(last=False)
    written = (tmp_path / "in the way" / "Lab.log").read_text()
    assert [line.rpartition(" ")[2] for line in written.splitlines()] == ["first", "second"]
    buffer = LineBuffer(logging.INFO, 2)
    buffer.add("Lab", logging.INFO, "new")
    buffer.put_back(["a", "b"], 7)
    lines, left_out = buffer.take()
    assert ([line[-1] for line in lines], left_out) == (["b", "w"], 8)
