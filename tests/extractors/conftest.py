"""Files for extractors, without a topic."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.data_file import DataFile


@pytest.fixture
def make() -> Callable[..., DataFile]:
    """Make a data file of bytes, in as many pieces as wanted."""

    def made(content: bytes, path: str = "a.csv", pieces: int = 1, mtime: float | None = None) -> DataFile:
        subdir, _, name = path.rpartition("/")
        size = max(1, -(-len(content) // pieces))
        parts = [content[start : start + size] for start in range(0, len(content), size)]
        version = FileVersion(subdir, name, "", hashlib.sha512(content).digest(), max(1, len(parts)), mtime)
        return DataFile(version, parts, root=Path("/nowhere"))

    return made


@pytest.fixture(scope="session")
def samples() -> Path:
    """The directory of samples that is part of the repository."""
    return Path(__file__).parents[2] / "samples"
