"""What an extractor is given: the same content by every way of asking, and nothing copied in vain."""

from __future__ import annotations

import gc
import hashlib
import io
import logging
import mmap
import random
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.errors import OutputDirectoryError
from ray_reproducer.data_file import DataFile, DataFileMode

ROOT = Path("/nowhere/at/all")


def version(content: bytes, name: str = "a.csv", subdir: str = "sub/dir", append: str = "") -> FileVersion:
    return FileVersion(subdir, name, append, hashlib.sha512(content).digest(), n_chunks=3, mtime=1_700_000_000.5)


def split(content: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted(min(cut, len(content)) for cut in cuts)
    return [content[a:b] for a, b in zip([0, *ends], [*ends, len(content)], strict=True)]


def apart(content: bytes, cuts: list[int]) -> list[memoryview | bytes]:
    return list(split(content, cuts))


def side_by_side(content: bytes, cuts: list[int]) -> list[memoryview | bytes]:
    whole, views, start = memoryview(content), [], 0
    for part in split(content, cuts):
        views.append(whole[start : start + len(part)])
        start += len(part)
    return list(views)


Layout = Callable[[bytes, list[int]], list[memoryview | bytes]]

contents = st.binary(max_size=300)
cut_lists = st.lists(st.integers(0, 300), max_size=8)
layouts = st.sampled_from([apart, side_by_side])


@given(contents, cut_lists, layouts, st.permutations(["bytestring", "buffer", "open", "pieces"]))
def test_every_way_of_asking_gives_the_same_content_in_any_order(
    content: bytes, cuts: list[int], layout: Layout, order: list[str]
) -> None:
    ask: dict[str, Callable[[DataFile], bytes]] = {
        "bytestring": lambda d: d.bytestring,
        "buffer": lambda d: d.buffer.to_pybytes(),
        "open": lambda d: d.open().read(),
        "pieces": lambda d: b"".join(d.pieces),
    }
    datafile = DataFile(version(content), layout(content, cuts), root=ROOT)
    assert [ask[way](datafile) for way in order] == [content] * 4
    assert datafile.size_bytes == len(content)


@given(
    contents,
    cut_lists,
    st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(-1, 400)),
            st.tuples(st.just("read1"), st.integers(0, 400)),
            st.tuples(st.just("readinto"), st.integers(0, 400)),
            st.tuples(st.just("readline"), st.just(-1)),
            st.tuples(st.just("seek"), st.integers(0, 400)),
            st.tuples(st.just("end"), st.integers(-300, 100)),
            st.tuples(st.just("move"), st.integers(-100, 100)),
        )
    ),
)
def test_open_behaves_like_a_file_of_the_same_content(
    content: bytes, cuts: list[int], steps: list[tuple[str, int]]
) -> None:
    ours: io.BufferedIOBase = DataFile(version(content), apart(content, cuts), root=ROOT).open()
    theirs = io.BytesIO(content)
    for step, number in steps:
        assert _do(ours, step, number) == _do(theirs, step, number)
        assert ours.tell() == theirs.tell()


def _do(file: io.BufferedIOBase, step: str, number: int) -> object:
    if step == "seek":
        return file.seek(number)
    if step in ("end", "move"):
        base = file.seek(0, io.SEEK_END) if step == "end" else file.tell()
        return file.seek(max(number, -base), io.SEEK_END if step == "end" else io.SEEK_CUR)
    if step == "readinto":
        target = bytearray(number)
        return file.readinto(target), target
    if step == "read1":
        return len(file.read(number)) if number else 0
    return getattr(file, step)(number)


def test_open_refuses_what_no_file_allows() -> None:
    file = DataFile(version(b"abc"), [b"abc"], root=ROOT).open()
    raw = cast("io.RawIOBase", file.raw)
    with pytest.raises(ValueError, match="before the start"):
        raw.seek(-1)
    with pytest.raises(ValueError, match="whence is 7"):
        raw.seek(0, 7)
    with pytest.raises(io.UnsupportedOperation):
        file.write(b"x")
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_open_suits_parsers_that_jump() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("a.txt", b"a" * 1000)
        written.writestr("b.txt", b"b" * 1000)
    content = archive.getvalue()
    datafile = DataFile(version(content), apart(content, [10, 100, 150]), root=ROOT)
    with zipfile.ZipFile(datafile.open()) as read:
        assert read.read("b.txt") == b"b" * 1000


def test_open_gives_lines_to_text_parsers() -> None:
    datafile = DataFile(version(b""), [b"one\r", b"\ntw", b"o\n"], root=ROOT)
    assert list(io.TextIOWrapper(datafile.open(), encoding="utf-8")) == ["one\n", "two\n"]


def test_rule_1_a_file_in_one_piece_is_not_copied() -> None:
    content = b"x" * 100_000
    datafile = DataFile(version(content), [content], root=ROOT)
    assert datafile.bytestring is content
    assert datafile.buffer.address == pa.py_buffer(content).address


def test_rule_1_pieces_that_lie_side_by_side_become_one_buffer_without_a_copy() -> None:
    content = b"0123456789" * 1000
    datafile = DataFile(version(content), side_by_side(content, [3, 3, 5000]), root=ROOT)
    buffer = datafile.buffer
    assert buffer.address == pa.py_buffer(content).address
    assert buffer.size == len(content)
    assert not buffer.is_mutable


def test_rule_1_pieces_that_only_seem_to_follow_each_other_are_joined() -> None:
    content = memoryview(b"0123456789")
    datafile = DataFile(version(b""), [content[5:], content[:5]], root=ROOT)
    assert datafile.buffer.to_pybytes() == b"5678901234"
    datafile = DataFile(version(b""), [content[:5], content[6:]], root=ROOT)
    assert datafile.buffer.to_pybytes() == b"012346789"


def test_a_buffer_keeps_its_memory_alive() -> None:
    memory = mmap.mmap(-1, 8192)
    memory.write(b"z" * 8192)
    gone = weakref.ref(memory)
    view = memoryview(memory)
    buffer = DataFile(version(b""), [view[:4096], view[4096:]], root=ROOT).buffer
    del memory, view
    gc.collect()
    assert gone() is not None
    assert buffer.to_pybytes() == b"z" * 8192
    del buffer
    gc.collect()
    assert gone() is None


def test_rule_2_joining_happens_once_and_lets_the_pieces_go() -> None:
    memory = mmap.mmap(-1, 4096)
    gone = weakref.ref(memory)
    datafile = DataFile(version(b""), [b"ab", memoryview(memory)], root=ROOT)
    del memory
    content = datafile.bytestring
    gc.collect()
    assert gone() is None
    assert datafile.bytestring is content
    assert datafile.buffer.address == pa.py_buffer(content).address


def test_views_are_read_only_bytes_whatever_was_given() -> None:
    array = bytearray(b"abcd")
    given_pieces = [memoryview(array), memoryview(b"efgh").cast("I"), memoryview(pa.py_buffer(b"ij"))]
    pieces = DataFile(version(b""), given_pieces, root=ROOT).pieces
    assert [(p.readonly, p.format, bytes(p)) for p in pieces] == [
        (True, "B", b"abcd"),
        (True, "B", b"efgh"),
        (True, "B", b"ij"),
    ]


def test_paths_and_names() -> None:
    datafile = DataFile(version(b"", "a.b.csv", "x/ÿ ☃", "_new"), [b"1"], root=Path("/out"))
    assert datafile.filename == "a.b_new.csv"
    assert datafile.subdir_str == "x/ÿ ☃"
    assert datafile.relative_filepath == Path("x/ÿ ☃/a.b_new.csv")
    assert datafile.filepath == datafile.full_filepath == Path("/out/x/ÿ ☃/a.b_new.csv")
    assert datafile.n_total_chunks == 3
    assert datafile.check_file_hash == hashlib.sha512(b"").digest()
    assert datafile.mtime == 1_700_000_000.5
    assert repr(datafile) == "DataFile('x/ÿ ☃/a.b_new.csv', 1 bytes, mode='memory')"


def test_a_relative_root_gives_absolute_paths() -> None:
    assert DataFile(version(b""), [b"1"], root=Path("out")).full_filepath == Path.cwd() / "out/sub/dir/a.csv"


def test_logger_is_the_given_one_or_one_for_extractors() -> None:
    mine = logging.getLogger("mine")
    assert DataFile(version(b""), [], root=ROOT, logger=mine).logger is mine
    assert DataFile(version(b""), [], root=ROOT).logger.name == "ray_reproducer.extractor"


def test_memory_mode_touches_no_disk(tmp_path: Path) -> None:
    datafile = DataFile(version(b"abc"), [b"abc"], root=tmp_path / "out")
    assert datafile.bytestring == b"abc"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["memory", "disk", "both"])
def test_write_makes_the_file_and_leaves_the_content_what_it_was(tmp_path: Path, mode: DataFileMode) -> None:
    content = random.Random(1).randbytes(300_000)
    datafile = DataFile(version(content), apart(content, [1000, 200_000]), root=tmp_path / "out", mode=mode)
    datafile.write()
    assert datafile.full_filepath.read_bytes() == content
    assert datafile.full_filepath.stat().st_mtime == 1_700_000_000.5
    assert datafile.bytestring == datafile.buffer.to_pybytes() == datafile.open().read() == content
    datafile.write()  # again is nothing new


def test_disk_mode_writes_at_the_first_look_and_reads_from_the_file(tmp_path: Path) -> None:
    datafile = DataFile(version(b"abc"), [b"a", b"bc"], root=tmp_path, mode="disk")
    assert datafile.bytestring == b"abc"
    with datafile.full_filepath.open("r+b") as file:  # changed in place: the content is read again each time
        file.write(b"X")
    assert datafile.bytestring == datafile.open().read() == datafile.buffer.to_pybytes() == b"Xbc"


def test_rule_3_another_version_of_the_path_does_not_change_what_is_seen(tmp_path: Path) -> None:
    old = DataFile(version(b"old"), [b"old"], root=tmp_path, mode="disk")
    old.write()
    DataFile(version(b"newer"), [b"newer"], root=tmp_path, mode="disk").write()
    assert old.full_filepath.read_bytes() == b"newer"
    assert old.bytestring == old.open().read() == old.buffer.to_pybytes() == b"old"


def test_disk_mode_lets_the_memory_go(tmp_path: Path) -> None:
    memory = mmap.mmap(-1, 4096)
    gone = weakref.ref(memory)
    datafile = DataFile(version(b""), [memoryview(memory)], root=tmp_path, mode="disk")
    del memory
    datafile.write()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("mode", ["memory", "disk", "both"])
def test_an_empty_file_is_a_file(tmp_path: Path, mode: DataFileMode) -> None:
    datafile = DataFile(version(b""), [b"", b""], root=tmp_path, mode=mode)
    datafile.write()
    assert datafile.full_filepath.read_bytes() == b""
    assert datafile.bytestring == datafile.buffer.to_pybytes() == datafile.open().read() == b""


def test_an_output_directory_that_cannot_be_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    datafile = DataFile(version(b"abc"), [b"abc"], root=tmp_path / "out", mode="disk")
    with pytest.raises(OutputDirectoryError, match=r"can't write '.*/out': Not a directory") as raised:
        _ = datafile.bytestring
    assert type(raised.value) is OutputDirectoryError, "it concerns all files, not this path only"


def test_close_lets_the_content_go_and_keeps_what_was_given(tmp_path: Path) -> None:
    with DataFile(version(b"abc"), [b"a", b"bc"], root=tmp_path, mode="both") as datafile:
        datafile.write()
        buffer, file = datafile.buffer, datafile.open()
    for look in (lambda: datafile.bytestring, lambda: datafile.buffer, datafile.open, lambda: datafile.pieces):
        with pytest.raises(ValueError, match="is closed"):
            look()
    assert buffer.to_pybytes() == file.read() == b"abc"
    assert datafile.full_filepath.read_bytes() == b"abc"


def test_a_closed_file_is_not_written(tmp_path: Path) -> None:
    datafile = DataFile(version(b"abc"), [b"abc"], root=tmp_path, mode="disk")
    datafile.close()
    with pytest.raises(ValueError, match="is closed"):
        datafile.write()


def test_from_path_is_what_the_topic_would_give(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "b.csv"
    path.write_bytes(b"abc")
    datafile = DataFile.from_path(path, root=tmp_path)
    assert (datafile.subdir_str, datafile.filename, datafile.bytestring) == ("a", "b.csv", b"abc")
    assert datafile.full_filepath == path
    assert datafile.mtime == path.stat().st_mtime
    assert DataFile.from_path(path).relative_filepath == Path("b.csv")
    with pytest.raises(ValueError, match="not in the subpath"):
        DataFile.from_path(path, root=tmp_path / "other")
