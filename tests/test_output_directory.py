"""Files are written whole, below the root, and nowhere else."""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_reproducer.core.errors import OutputDirectoryError, PathInTheWayError, UnsafePathError
from ray_reproducer.output_directory import COMPARE_BYTES, OutputDirectory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    return tmp_path / "outside"


def write(root: Path, path: str, *pieces: bytes, mtime: float | None = None) -> bytes:
    """Write, and return what the descriptor shows."""
    descriptor = OutputDirectory(root).write(path, [memoryview(piece) for piece in pieces], mtime)
    try:
        return os.pread(descriptor, 10_000_000, 0)
    finally:
        os.close(descriptor)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def everything(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_parents_are_made_and_nothing_else_is_left(root: Path) -> None:
    assert write(root, "a/ü/☃.txt", b"ab", b"", b"c") == b"abc"
    assert everything(root) == ["a", "a/ü", "a/ü/☃.txt"]


def test_permissions_are_those_of_any_new_file(root: Path) -> None:
    before = os.umask(0o027)
    try:
        write(root, "a/b", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o640
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o750


def test_modification_time_is_the_source_s(root: Path) -> None:
    write(root, "a", b"x", mtime=1_234_567_890.25)
    assert (root / "a").stat().st_mtime == 1_234_567_890.25


@pytest.mark.parametrize("mtime", [1e300, float("nan"), float("-inf")])
def test_a_modification_time_that_no_clock_shows_loses_no_file(root: Path, mtime: float) -> None:
    assert write(root, "a", b"x", mtime=mtime) == b"x"


@pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a/../x", "a//x", "./x", "a/", "a/..", "x\0y"])
def test_rule_1_a_path_that_is_not_below_the_root_is_refused(root: Path, path: str) -> None:
    with pytest.raises(UnsafePathError):
        write(root, path, b"x")
    assert not root.exists()


def test_rule_1_a_linked_directory_is_not_followed(root: Path, outside: Path) -> None:
    root.mkdir()
    (root / "a").symlink_to(outside)
    with pytest.raises(OutputDirectoryError, match="symbolic link"):
        write(root, "a/b.txt", b"x")
    with pytest.raises(OutputDirectoryError, match="symbolic link"):
        write(root, "a/b/c.txt", b"x")
    assert everything(outside) == []


def test_rule_1_a_link_that_dangles_is_not_followed(root: Path, outside: Path) -> None:
    root.mkdir()
    (root / "a").symlink_to(outside / "made")
    with pytest.raises(OutputDirectoryError):
        write(root, "a/b.txt", b"x")
    assert everything(outside) == []


@pytest.mark.parametrize("same", [True, False])
def test_rule_1_a_link_with_the_file_s_name_is_replaced_not_followed(root: Path, outside: Path, same: bool) -> None:
    root.mkdir()
    (outside / "precious").write_bytes(b"x" if same else b"precious")
    before = (outside / "precious").read_bytes()
    (root / "a").symlink_to(outside / "precious")
    assert write(root, "a", b"x") == b"x"
    assert not (root / "a").is_symlink()
    assert (outside / "precious").read_bytes() == before


def test_rule_1_the_root_may_be_a_link(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "root").symlink_to(outside)
    write(tmp_path / "root", "a/b", b"x")
    assert (outside / "a/b").read_bytes() == b"x"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    path=st.lists(st.sampled_from(["a", "b", "..", ".", "", "link", "file", "loop"]), min_size=1, max_size=5),
    data=st.data(),
)
def test_rule_1_nothing_outside_changes_whatever_the_path(
    tmp_path_factory: pytest.TempPathFactory, path: list[str], data: st.DataObject
) -> None:
    top = tmp_path_factory.mktemp("top")
    root, outside = top / "root", top / "outside"
    root.mkdir()
    outside.mkdir()
    for place in (root, root / "a"):
        place.mkdir(exist_ok=True)
        (place / "link").symlink_to(data.draw(st.sampled_from(["..", "../..", str(outside), "../outside"])))
        (place / "loop").symlink_to("loop")
        (place / "file").write_bytes(b"old")
    try:
        write(root, "/".join(path), b"x")
    except (OutputDirectoryError, UnsafePathError):
        pass
    else:
        assert root.joinpath(*path).read_bytes() == b"x"
    assert everything(outside) == []
    assert sorted(place.name for place in top.iterdir()) == ["outside", "root"]
    assert [name for name in everything(root) if name.endswith(".part")] == []


def test_rule_2_a_file_that_was_there_is_replaced_whole(root: Path) -> None:
    write(root, "a", b"old and longer")
    with (root / "a").open("rb") as reader:
        write(root, "a", b"new")
        assert reader.read() == b"old and longer"
    assert (root / "a").read_bytes() == b"new"


def test_rule_2_the_descriptor_shows_what_was_written_whatever_happens_to_the_name(root: Path) -> None:
    descriptor = OutputDirectory(root).write("a", [memoryview(b"old")])
    write(root, "a", b"new")
    assert os.pread(descriptor, 10, 0) == b"old"
    os.close(descriptor)


def test_rule_3_the_same_content_is_not_written_again(root: Path) -> None:
    write(root, "a", b"abc", mtime=1.0)
    before = (root / "a").stat()
    assert write(root, "a", b"a", b"bc", mtime=2.0) == b"abc"
    after = (root / "a").stat()
    assert (before.st_ino, before.st_mtime) == (after.st_ino, after.st_mtime)


@pytest.mark.parametrize("position", [0, COMPARE_BYTES - 1, COMPARE_BYTES, 2 * COMPARE_BYTES + 4])
def test_rule_3_other_content_of_the_same_size_is_written(root: Path, position: int) -> None:
    content = bytearray(2 * COMPARE_BYTES + 5)
    write(root, "a", bytes(content))
    content[position] = 1
    assert write(root, "a", bytes(content[:7]), bytes(content[7:])) == content


def test_a_pipe_with_the_file_s_name_is_replaced_and_not_waited_for(root: Path) -> None:
    root.mkdir()
    os.mkfifo(root / "a")
    assert write(root, "a", b"x") == b"x"


def test_rule_4_a_file_where_a_directory_must_be(root: Path) -> None:
    write(root, "a", b"x")
    with pytest.raises(OutputDirectoryError) as caught:
        write(root, "a/b", b"x")
    assert str(root / "a/b") in caught.value.message
    assert "ENOTDIR" in caught.value.message
    assert "remove it" in caught.value.hint


def test_rule_4_a_directory_where_the_file_must_be(root: Path) -> None:
    (root / "a").mkdir(parents=True)
    with pytest.raises(OutputDirectoryError, match="EISDIR"):
        write(root, "a", b"x")
    assert everything(root) == ["a"]


def test_rule_4_a_file_whose_whole_path_nobody_could_open(root: Path) -> None:
    path = "/".join(["d" * 255] * 16)
    with pytest.raises(PathInTheWayError, match="ENAMETOOLONG"):
        write(root, path, b"x")
    assert not root.exists()
    room = 4095 - len(os.fsencode(root)) - 1
    assert write(root, path[: room - 5] + "/name", b"x") == b"x"


def test_rule_4_a_root_that_is_a_file(root: Path) -> None:
    root.write_bytes(b"")
    for attempt in (lambda: write(root, "a", b"x"), OutputDirectory(root).check):
        with pytest.raises(OutputDirectoryError, match="ENOTDIR"):
            attempt()


def test_rule_4_a_root_that_is_a_link_to_nowhere(root: Path, outside: Path) -> None:
    root.symlink_to(outside / "missing")
    with pytest.raises(OutputDirectoryError, match="EEXIST") as caught:
        OutputDirectory(root).check()
    assert "remove it" in caught.value.hint


def test_rule_4_a_file_larger_than_allowed(root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputDirectoryError, match="EFBIG"):
            write(root, "a", bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything(root) == []


def test_rule_4_a_full_disk_names_the_path_and_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputDirectoryError) as caught:
        OutputDirectory(root).check()
    assert str(root) in caught.value.message
    assert "disk is full" in caught.value.hint
    assert everything(root) == []


def test_rule_4_a_directory_without_permission(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> int:  # root, whom containers run as, may write everywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(OutputDirectoryError, match="EACCES") as caught:
        OutputDirectory(root).check()
    assert "write permission" in caught.value.hint


def test_check_makes_the_directory_and_leaves_it_empty(root: Path) -> None:
    OutputDirectory(root / "deep" / "er").check()
    assert everything(root) == ["deep", "deep/er"]


def test_no_descriptor_is_left_open(root: Path, outside: Path) -> None:
    root.mkdir()
    (root / "link").symlink_to(outside)
    before = open_descriptors()
    write(root, "a/b/c", b"x")
    write(root, "a/b/c", b"x")
    write(root, "a/b/c", b"y")
    for path in ("link/x", "a/b/c/d", "a/b"):
        with pytest.raises(OutputDirectoryError):
            write(root, path, b"x")
    assert open_descriptors() == before
