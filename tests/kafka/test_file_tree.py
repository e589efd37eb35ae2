"""Walking a tree. The rules are those at the head of ``kafka/file_tree.py``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ray_reproducer.kafka.file_tree import FoundFile, walk
from ray_reproducer.kafka.upload import measure

DEPTH = 1_100
"""Directories in each other: more than the 1,000 calls of Python's default limit; half of the path that Linux takes."""


def _no_problem(path: str, reason: str) -> None:
    pytest.fail(f"{path}: {reason}")


def _write(root: Path, *files: str) -> None:
    """Make files that hold their own path."""
    for relative in files:
        (root / relative).parent.mkdir(parents=True, exist_ok=True)
        (root / relative).write_text(relative, encoding="utf-8")


@pytest.fixture(name="deep")
def _deep(tmp_path: Path) -> Iterator[Path]:
    """A tree of one-letter directories in each other, with a file at its bottom."""
    root = tmp_path / "deep"
    directory = root.joinpath(*["d"] * DEPTH)
    subprocess.run(["mkdir", "-p", str(directory)], check=True)
    (directory / "bottom").write_bytes(b"four")
    yield root
    # Not left to pytest: shutil.rmtree recurses, up to Python 3.12.
    subprocess.run(["rm", "-r", str(root)], check=True)


@pytest.fixture(name="descriptors", autouse=True)
def _descriptors(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """How many descriptors of what is in ``tmp_path`` are open; after each test: none."""

    def number() -> int:
        return sum(_target(link).is_relative_to(tmp_path) for link in Path("/proc/self/fd").iterdir())

    yield number
    assert number() == 0


def _target(link: Path) -> Path:
    try:
        return link.readlink()
    except FileNotFoundError:  # closed meanwhile: that of the listing itself, or another thread's
        return Path()


def _to_link(path: Path) -> None:
    outside = path.parents[1] / "outside"
    outside.write_bytes(b"secret")
    path.symlink_to(outside)


def _to_socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as one:
        one.bind(os.path.relpath(path))  # a socket's path has 107 bytes at most


@pytest.mark.parametrize("become", [_to_link, os.mkfifo, _to_socket, Path.mkdir])
def test_rules_1_and_2_what_is_no_file_any_more_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, become: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "tree", "a", "b")
    with closing(walk(tmp_path / "tree", _no_problem)) as files:
        first, second = next(files), next(files)
        (tmp_path / "tree/b").unlink()
        become(tmp_path / "tree/b")
        for look in (FoundFile.open, FoundFile.size_bytes):
            with pytest.raises(OSError, match="it was listed as a file and is none any more"):
                look(second)
        with first.open() as file:
            assert file.read() == b"a"
            assert os.get_blocking(file.fileno())


LEASE = """
import fcntl, signal, sys
file = open(sys.argv[1], "rb+")
signal.signal(signal.SIGIO, lambda *_: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK))
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""
"""A file server's program: it has a lease on a file, and gives it back when it is asked to."""


def test_a_file_on_which_another_program_has_a_lease_is_waited_for(tmp_path: Path) -> None:
    _write(tmp_path, "a")
    command = [sys.executable, "-c", LEASE, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with closing(walk(tmp_path, _no_problem)) as files, next(files).open() as file:
            assert file.read() == b"a"
            assert os.get_blocking(file.fileno())
        assert holder.stdin is not None
        holder.stdin.close()


def test_rule_1_a_directory_on_the_way_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    _write(tmp_path / "tree", "a", "d/e/f/b", "z/c")
    _write(tmp_path / "outside", "e/f/secret")
    problems: list[str] = []
    read = []
    for found in walk(tmp_path / "tree", lambda path, reason: problems.append(f"{path} {reason}")):
        read.append(found.relative)
        if found.relative == "a":
            (tmp_path / "tree/d").rename(tmp_path / "tree/moved")
            (tmp_path / "tree/d").symlink_to(tmp_path / "outside", target_is_directory=True)
    assert (read, problems) == (["a", "z/c"], ["d/ can't be listed: Not a directory"])


def test_rule_1_the_root_may_be_a_link(tmp_path: Path) -> None:
    _write(tmp_path / "tree", "d/a")
    (tmp_path / "link").symlink_to(tmp_path / "tree", target_is_directory=True)
    for found in walk(tmp_path / "link", _no_problem):
        with found.open() as file:
            assert (found.relative, file.read()) == ("d/a", b"d/a")


def test_rule_3_few_descriptors_are_open_and_none_when_the_walk_is_closed(
    tmp_path: Path, descriptors: Callable[[], int]
) -> None:
    _write(tmp_path, "a/b/c/d/e/f/1", "a/b/c/d/e/f/2")
    with closing(walk(tmp_path, _no_problem)) as files:
        next(files)
        assert descriptors() == 2, "the root and the directory of the file"
    assert descriptors() == 0
    (tmp_path / "a/b/c/d/e/f").rename(tmp_path / "f")
    assert list(walk(tmp_path / "a", _no_problem)) == []
    assert descriptors() == 0


def test_rule_3_a_walk_that_fails_on_the_way_leaves_none_open(tmp_path: Path) -> None:
    _write(tmp_path, "1", "a/b/2")
    problems: list[str] = []
    for found in walk(tmp_path, lambda path, reason: problems.append(f"{path} {reason}")):
        if found.relative == "1":
            (tmp_path / "a/b/2").unlink()
            (tmp_path / "a/b").rmdir()
            (tmp_path / "a").rmdir()
    assert problems == ["a/ can't be listed: No such file or directory"]


def test_a_path_that_no_reader_takes_is_named(tmp_path: Path) -> None:
    name = "n" * 200
    problems: list[str] = []
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(21):  # 21 * 201 bytes: more than 4,095
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    assert list(walk(tmp_path, lambda _path, reason: problems.append(reason))) == []
    assert problems == ["can't be listed: File name too long"]


def test_a_tree_may_be_deeper_than_pythons_stack(deep: Path) -> None:
    assert [found.relative for found in walk(deep, _no_problem)] == ["d/" * DEPTH + "bottom"]
    assert measure(deep) == (1, 4)
