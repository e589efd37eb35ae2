"""Whatever path a file has, and whatever links stand in the output directory: nothing is written anywhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.errors import OutputDirectoryError, UnsafePathError
from ray_reproducer.output_directory import OutputDirectory
from tests.fuzz.budget import fuzz
from tests.fuzz.hostile import names, remove_deep

PRECIOUS = b"precious"
parts = st.sampled_from(["a", "b", "c", "link", "..", ".", ""]) | names
paths = st.lists(parts, min_size=1, max_size=5).map("/".join) | names
inside = st.lists(st.sampled_from(["a", "b", "c", "link"]), min_size=1, max_size=3).map("/".join)
targets = st.sampled_from(
    [
        "..",
        "../..",
        ".",
        "../outside",
        "../../outside",
        "../outside/file",
        "../outside/new",
        "a",
        "link",
        "/",
        "/tmp",
        "@outside",
    ]
)
kinds = st.sampled_from(["link", "link", "directory", "file", "hard link", "pipe", "read-only"])


def plant(root: Path, outside: Path, path: str, kind: str, target: str) -> None:
    """Put something into the output directory before, or while, files are written."""
    place = root / path
    try:
        if not place.parent.resolve().is_relative_to(root.resolve()) or place.is_symlink() or place.exists():
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            place.symlink_to(target.replace("@outside", str(outside)))
        elif kind == "directory":
            place.mkdir()
        elif kind == "hard link":
            os.link(outside / "file", place)
        elif kind == "pipe":
            os.mkfifo(place)
        else:
            place.write_bytes(b"old")
            if kind == "read-only":
                place.chmod(0o400)
    except (OSError, ValueError, RuntimeError):  # what was planted before is in the way, or links that go in circles
        return


def seen(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(directory)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in directory.rglob("*")
    }


@given(
    planted=st.lists(st.tuples(inside, kinds, targets), max_size=5),
    written=st.lists(st.tuples(paths, st.binary(max_size=20), st.none() | st.floats()), min_size=1, max_size=4),
    later=st.tuples(inside, kinds, targets),
)
@fuzz("output_path")
def test_nothing_outside_changes_whatever_is_planted(
    tmp_path_factory: pytest.TempPathFactory,
    planted: list[tuple[str, str, str]],
    written: list[tuple[str, bytes, float | None]],
    later: tuple[str, str, str],
) -> None:
    top = tmp_path_factory.mktemp("top")
    root, outside = top / "root", top / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "file").write_bytes(PRECIOUS)
    (outside / "directory").mkdir()
    before = seen(outside)
    try:
        for path, kind, target in planted:
            plant(root, outside, path, kind, target)
        for number, (path, content, mtime) in enumerate(written):
            if number == 1:
                plant(root, outside, *later)
            try:
                descriptor = OutputDirectory(root).write(path, [memoryview(content)], mtime)
            except (OutputDirectoryError, UnsafePathError):
                continue
            try:
                assert os.pread(descriptor, 100, 0) == content
                status = os.fstat(descriptor)
                assert stat.S_ISREG(status.st_mode)
                assert (root / path).lstat().st_ino == status.st_ino
                assert (root / path).resolve() == root.resolve() / path
            finally:
                os.close(descriptor)
        assert seen(outside) == before
        assert sorted(place.name for place in top.iterdir()) == ["outside", "root"]
        assert not [name for name in seen(root) if name.endswith(".part") and len(Path(name).name) == 30]
    finally:
        remove_deep(top)
