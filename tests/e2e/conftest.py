"""What the end-to-end tests share: the program as a subprocess, and what a reader of its topics sees."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import program as programs
from tests import topics
from tests.program import Program
from tests.topics import RecordSeen, committed_and_ends

__all__ = ["Program", "RecordSeen", "committed_and_ends"]

MY_LAB = '''
"""The module of a user."""
import hashlib


def digest(datafile):
    data = datafile.bytestring
    return {
        "path": str(datafile.relative_filepath),
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "lines": data.count(b"\\n"),
    }
'''


Files = dict[str, bytes]
"""Relative path -> content."""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A user's directory that holds nothing but ``my_lab.py`` and ``conf/extractor/mine.yaml``."""
    directory = tmp_path / "lab"
    (directory / "conf" / "extractor").mkdir(parents=True)
    (directory / "my_lab.py").write_text(MY_LAB)
    (directory / "conf" / "extractor" / "mine.yaml").write_text("_target_: my_lab.digest\n")
    return directory


@pytest.fixture
def start_program(workspace: Path) -> Iterator[Callable[..., Program]]:
    """Start the program in the workspace: ``start_program("+extractor=mine", "run=drain")``."""
    running: list[Program] = []

    def start(*arguments: str, module: str = "ray_reproducer", **environment: str) -> Program:
        log = workspace.parent / f"stderr{len(running)}.txt"
        running.append(programs.start_program(workspace, log, *arguments, module=module, environment=environment))
        return running[-1]

    yield start
    for started in running:
        started.kill()


@pytest.fixture
def read_committed(bootstrap_servers: str) -> Callable[[str], list[RecordSeen]]:
    """Read a topic from its beginning to its end as a reader with read_committed sees it."""
    return partial(topics.read_committed, bootstrap_servers)


def write_files(root: Path, files: Files) -> list[Path]:
    """Write files below a directory; return where they are."""
    paths = [root / name for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return paths


def function_of(workspace: Path, name: str) -> Callable[[Any], dict[str, Any]]:
    """Import a function of the user's module, to be called here."""
    spec = importlib.util.spec_from_file_location("my_lab", workspace / "my_lab.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[Any], dict[str, Any]] = getattr(module, name)
    return function


def local_results(root: Path, function: Callable[[Any], dict[str, Any]], paths: Sequence[Path]) -> dict[str, Any]:
    """Run a user's function on files as they are on disk: relative path -> what it returns."""
    from ray_reproducer.core.chunk import FileVersion
    from ray_reproducer.data_file import DataFile

    results: dict[str, Any] = {}
    for path in paths:
        relative = path.relative_to(root)
        subdir = "" if relative.parent == Path() else relative.parent.as_posix()
        version = FileVersion(subdir, path.name, "", bytes(64), 1, path.stat().st_mtime)
        results[relative.as_posix()] = function(DataFile(version, [path.read_bytes()], root=root))
    return results
