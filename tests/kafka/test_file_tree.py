"""Walking a tree. The rules are those at the head of ``kafka/file_tree.py``."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_reproducer.kafka.file_tree import walk
from ray_reproducer.kafka.upload import measure

DEPTH = 1_100
"""Directories in each other: more than the 1,000 calls of Python's default limit; half of the path that Linux takes."""


def _no_problem(path: str, reason: str) -> None:
    pytest.fail(f"{path}: {reason}")


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


def test_a_tree_may_be_deeper_than_pythons_stack(deep: Path) -> None:
    assert [found.relative for found in walk(deep, _no_problem)] == ["d/" * DEPTH + "bottom"]
    assert measure(deep) == (1, 4)
