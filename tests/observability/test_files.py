"""Writing views' files: all of it or nothing, whatever the disk says."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ray_reproducer.observability import files

MODIFIED_MS = 1_795_452_492_123


def test_lines_are_added(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.append(path, "eins\n")
    files.append(path, "zwei ä\n")
    files.append(path, "")
    assert path.read_text(encoding="utf-8") == "eins\nzwei ä\n"
    files.append(path, "\ud800\n")  # no UTF-8, and still no error
    assert path.read_text(encoding="utf-8").endswith("\\ud800\n")


def test_a_disk_that_fills_up_leaves_no_half_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    files.append(path, "before\n")
    real = os.write
    written: list[int] = []

    def fills_up(descriptor: int, data: bytes | memoryview) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(real(descriptor, data[:3]))
        return 3

    monkeypatch.setattr(os, "write", fills_up)
    with pytest.raises(OSError, match="No space left"):
        files.append(path, "after\n")
    assert path.read_text() == "before\n"


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with path.open() as reader:
        files.replace(path, "new\n", MODIFIED_MS)
        assert reader.read() == "old"
    assert path.read_text() == "new\n"
    assert files.modified_ms(path) == MODIFIED_MS
    files.set_modified(path, 0)
    assert files.modified_ms(path) == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_replacement_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        files.replace(path, "new\n", MODIFIED_MS)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "line", "ended"),
    [("", "", True), ("a\n", "a", True), ("a\nb", "b", False), ("torn", "torn", False), ("a\nb\n", "b", True)],
)
def test_the_last_line(tmp_path: Path, content: str, line: str, ended: bool) -> None:
    path = tmp_path / "a"
    path.write_text(content)
    assert files.last_line(path) == (line, ended)


@pytest.mark.parametrize(("content", "left"), [("a\nb", "a\n"), ("torn", ""), ("a\n", "a\n"), ("", "")])
def test_a_torn_line_is_cut_off(tmp_path: Path, content: str, left: str) -> None:
    path = tmp_path / "a"
    path.write_text(content)
    files.cut_last_line(path)
    assert path.read_text() == left
