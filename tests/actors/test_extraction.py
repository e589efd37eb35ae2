"""What a task answers for its files: in this process, without Ray."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pytest
from ray import cloudpickle

from ray_reproducer.actors import extraction
from ray_reproducer.actors.extraction import ExtractionJob, StoredSegment, extract
from ray_reproducer.core.assembly import SegmentSlice
from ray_reproducer.core.chunk import Chunk, FileVersion
from ray_reproducer.core.errors import ExtractorError, OutputDirectoryError
from ray_reproducer.core.outcome import MAX_TRACEBACK_CHARS, Failure
from ray_reproducer.core.segment import OWN_BUFFER_BYTES, SegmentTable, pack

SEGMENT = 1
Extractor = Callable[[Any], Any]
Run = Callable[..., "tuple[bytes | Failure, ...]"]
RunFile = Callable[..., "bytes | Failure"]


def chunks_of(path: str, parts: list[bytes]) -> list[Chunk]:
    subdir, _, name = path.rpartition("/")
    version = FileVersion(subdir, name, "", hashlib.sha512(b"".join(parts)).digest(), len(parts), None)
    starts = [sum(map(len, parts[:number])) for number in range(len(parts))]
    return [
        Chunk(version, number, start, hashlib.sha512(part).digest(), part)
        for number, (start, part) in enumerate(zip(starts, parts, strict=True), start=1)
    ]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[..., ExtractionJob]]:
    """Make the job of an extractor; a test has one extractor only."""
    key = os.urandom(8).hex()

    def made(extractor: Extractor, mode: Any = "memory") -> ExtractionJob:
        return ExtractionJob(key, cloudpickle.dumps(extractor), (), str(tmp_path / "out"), mode, 1000)

    yield made
    for state in extraction._states.values():
        state.forget()
    for of_process in (extraction._states, extraction._extractors):
        of_process.clear()


@pytest.fixture
def run(job: Callable[..., ExtractionJob]) -> Run:
    """Run an extractor on files of one chunk: ``run(function, "a.csv", "b/c.csv")``."""

    def made(extractor: Extractor, *paths: str, mode: Any = "memory") -> tuple[bytes | Failure, ...]:
        chunks = [chunk for path in paths for chunk in chunks_of(path, [path.encode()])]
        files = [(SegmentSlice(SEGMENT, n, 1),) for n in range(len(chunks))]
        return extract(job(extractor, mode), files, {SEGMENT: StoredSegment.of(pack(chunks))}).answers

    return made


@pytest.fixture
def run_file(job: Callable[..., ExtractionJob]) -> RunFile:
    """Run an extractor on one file, whose chunks lie in these segments."""

    def made(extractor: Extractor, *segments: StoredSegment) -> bytes | Failure:
        slices = [
            SegmentSlice(number, 0, len(SegmentTable(segment.rows, segment.ends)))
            for number, segment in enumerate(segments)
        ]
        (answer,) = extract(job(extractor), [slices], dict(enumerate(segments))).answers
        return answer

    return made


def stored(*chunks: Chunk) -> StoredSegment:
    return StoredSegment.of(pack(chunks))


def failure(answer: bytes | Failure) -> Failure:
    assert isinstance(answer, Failure), answer
    return answer


def content(datafile: Any) -> dict[str, str]:
    return {"content": datafile.bytestring.decode()}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[memoryview, ...]]:
    """What :func:`looking` has seen."""
    pieces: list[tuple[memoryview, ...]] = []
    # By a name: an extractor travels as a copy, and with it what it holds.
    monkeypatch.setitem(sys.modules, "seen", pieces)
    return pieces


def looking(datafile: Any) -> dict[str, str]:
    """An extractor that keeps the pieces that it is given."""
    sys.modules["seen"].append(datafile.pieces)
    return {}


def places(pieces: Sequence[memoryview], *segments: StoredSegment) -> list[tuple[int, int, int]]:
    """In which of the segments' buffers, counted through, each piece is, where it starts there, and its length."""
    buffers = [buffer for segment in segments for buffer in segment.buffers]
    found: list[tuple[int, int, int]] = []
    for piece in pieces:
        address = pa.py_buffer(piece).address
        (number,) = [n for n, buffer in enumerate(buffers) if 0 <= address - buffer.address < buffer.size]
        found.append((number, address - buffers[number].address, len(piece)))
    return found


# ---------------------------------------------------------------- rule 1


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class SulkyError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class WrongError(Exception):
    __str__ = object.__sizeof__  # type: ignore[assignment]


class PanicError(BaseException):
    """As the panics of libraries that are written in Rust."""


RAISED: dict[str, tuple[BaseException, str]] = {
    "an error": (ValueError("bad\nvalue"), "ValueError: bad value"),
    "without a text": (KeyError(), "KeyError"),
    "an exit": (SystemExit(3), "SystemExit: 3"),
    "an interrupt": (KeyboardInterrupt(), "KeyboardInterrupt"),
    "an end of a generator": (GeneratorExit(), "GeneratorExit"),
    "a panic": (PanicError("index out of bounds"), "PanicError: index out of bounds"),
    "mute": (MuteError(), "MuteError: (its text can't be made)"),
    "sulky": (SulkyError(), "SulkyError: (its text can't be made)"),
    "no text as its text": (WrongError(), "WrongError: (its text can't be made)"),
}


@pytest.mark.parametrize(("error", "text"), RAISED.values(), ids=RAISED.keys())
def test_rule_1_what_user_code_raises_is_an_answer_about_its_own_file(
    run: Run, error: BaseException, text: str
) -> None:
    def raising(datafile: Any) -> dict[str, str]:
        if datafile.filename == "bad":
            raise error
        return content(datafile)

    good, bad, after = run(raising, "good", "bad", "after")
    assert (good, after) == (b'{"content":"good"}', b'{"content":"after"}')
    assert (failure(bad).reason, failure(bad).error) == ("extractor_raised", text)
    assert "in raising" in failure(bad).traceback
    assert extraction.__file__ not in failure(bad).traceback, "it begins with the user's own frame"


def test_rule_1_an_error_that_says_too_much_is_cut_here_and_does_not_travel(run: Run) -> None:
    def raising(datafile: Any) -> NoReturn:
        raise ValueError("x" * 10**7)

    (answer,) = run(raising, "a")
    assert len(failure(answer).error) < 20_000
    assert len(failure(answer).traceback) == MAX_TRACEBACK_CHARS


def test_rule_1_an_alarm_that_rings_late_is_its_own_files_matter(run: Run) -> None:
    def ring(*_: object) -> NoReturn:
        raise TimeoutError("late")

    def alarming(datafile: Any) -> dict[str, str]:
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + int(datafile.filename)))
        return content(datafile)

    for _ in range(20):
        for answer in run(alarming, *map(str, range(100))):
            assert isinstance(answer, bytes) or answer.error in (
                "TimeoutError: late",
                "reading what the extractor returned failed: TimeoutError: late",
            )


def test_rule_1_an_extractor_that_a_worker_can_not_load_ends_the_run(tmp_path: Path) -> None:
    job = ExtractionJob("broken", b"no pickle", (), str(tmp_path), "memory", 1000)
    with pytest.raises(ExtractorError, match="a worker can't load the extractor"):
        extract(job, [], {})


# ---------------------------------------------------------------- rule 2


def test_rule_2_the_bytes_of_a_file_that_is_well_are_hashed_once(
    run_file: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = stored(*chunks_of("a", [b"one ", b"two ", b"three"]))
    sha512, calls = hashlib.sha512, Counter[str]()

    def counting(*data: Any) -> Any:
        calls["sha512"] += 1
        return sha512(*data)

    monkeypatch.setattr(hashlib, "sha512", counting)
    assert run_file(content, segment) == b'{"content":"one two three"}'
    assert calls["sha512"] == 1


@pytest.mark.parametrize(("chunks", "bad", "named"), [(3, [2], "2"), (3, [1, 3], "1, 3"), (14, range(1, 13), None)])
def test_rule_2_chunks_that_do_not_match_their_own_hash_are_named(
    run_file: RunFile, chunks: int, bad: Sequence[int], named: str | None
) -> None:
    sent = chunks_of("a", [b"%02d" % number for number in range(1, chunks + 1)])
    came = [replace(chunk, data=b"xx") if chunk.index in bad else chunk for chunk in sent]
    answer = failure(run_file(content, stored(*came)))
    assert (answer.reason, answer.attempts) == ("hash_mismatch", 0)
    named = named or "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more"
    assert answer.error.endswith(f"; of its {chunks} chunks, these do not match their own hash: {named}")


def test_rule_2_if_they_all_do_the_hash_of_the_file_is_wrong(run_file: RunFile) -> None:
    chunks = chunks_of("a", [b"aa", b"bb"])
    wrong = replace(chunks[0].version, file_hash=bytes(64))
    answer = failure(run_file(content, stored(*(replace(chunk, version=wrong) for chunk in chunks))))
    assert (answer.reason, answer.attempts) == ("hash_mismatch", 0)
    assert answer.error.endswith("; each of its 2 chunks matches its own hash, so the hash of the file is wrong")


@pytest.mark.parametrize(("at", "said"), [(1, "overlaps the one before it"), (3, "leaves a hole before it")])
def test_chunks_that_do_not_follow_one_another_are_told(run_file: RunFile, at: int, said: str) -> None:
    first, second = chunks_of("a", [b"aa", b"bb"])
    answer = failure(run_file(content, stored(first, replace(second, write_offset=at))))
    assert (answer.reason, answer.attempts) == ("inconsistent_chunks", 0)
    assert answer.error == f"chunk 2 begins at byte {at}, but 2 was expected: it {said}"


# ---------------------------------------------------------------- processes that are worn out


class GaveUpError(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def gave_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(error: BaseException) -> NoReturn:
        raise GaveUpError(str(error))

    monkeypatch.setattr(extraction, "give_up", give_up)


WORN_OUT = {
    "no descriptors": OSError(errno.EMFILE, "Too many open files"),
    "no threads": RuntimeError("can't start new thread"),
}


@pytest.mark.usefixtures("gave_up")
@pytest.mark.parametrize("error", WORN_OUT.values(), ids=WORN_OUT.keys())
def test_what_earlier_files_may_have_leaked_is_not_blamed_on_a_later_one(run: Run, error: Exception) -> None:
    def leaking(datafile: Any) -> dict[str, str]:
        if datafile.filename == "victim":
            raise error
        return content(datafile)

    (answer,) = run(leaking, "victim")
    assert failure(answer).reason == "extractor_raised", "alone in a process of its own it is its own fault"
    with pytest.raises(GaveUpError):
        run(leaking, "earlier", "victim")


@pytest.mark.usefixtures("gave_up")
def test_our_own_code_that_fails_after_a_guest_was_there_ends_the_process(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By a name: an extractor travels as a copy, and with it what it holds.
    monkeypatch.setitem(sys.modules, "patch", lambda: monkeypatch.setattr(hashlib, "sha512", None))

    def patching(datafile: Any) -> dict[str, str]:
        sys.modules["patch"]()  # type: ignore[operator]
        return content(datafile)

    with pytest.raises(GaveUpError, match="not callable"):
        run(patching, "a", "b")


def test_our_own_code_that_fails_where_no_guest_was_before_is_a_defect(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "DataFile", None)
    with pytest.raises(TypeError):
        run(content, "a")


@pytest.mark.usefixtures("gave_up")
def test_a_file_that_can_not_be_written_for_want_of_descriptors_ends_the_process(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setitem(sys.modules, "patch", lambda: monkeypatch.setattr(os, "open", refusing))

    def leaking(datafile: Any) -> dict[str, str]:
        sys.modules["patch"]()  # type: ignore[operator]
        return content(datafile)

    with pytest.raises(GaveUpError, match="Too many"):
        run(leaking, "a", "b", mode="disk")


# ---------------------------------------------------------------- files on disk


def test_something_in_the_way_of_one_path_costs_this_file_only(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / "a.csv").mkdir(parents=True)
    (tmp_path / "out" / "sub").write_text("a file where a directory must be")
    (tmp_path / "out" / "link").symlink_to(tmp_path)

    def on_disk(datafile: Any) -> dict[str, str]:
        return {"content": datafile.full_filepath.read_text()}

    a, b, c, good = run(on_disk, "a.csv", "sub/b.csv", "link/c.csv", "good.csv", mode="disk")
    assert good == b'{"content":"good.csv"}'
    for answer, path in ((a, "a.csv"), (b, "sub/b.csv"), (c, "link/c.csv")):
        assert (failure(answer).reason, failure(answer).attempts) == ("not_writable", 0)
        assert str(tmp_path / "out" / path) in failure(answer).error
    assert not (tmp_path / "c.csv").exists()


def test_an_output_directory_that_nobody_can_write_in_concerns_all(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("no directory")
    with pytest.raises(OutputDirectoryError) as raised:
        run(content, "a.csv", mode="disk")
    assert type(raised.value) is OutputDirectoryError, "not one of a single path"


@pytest.mark.parametrize("mode", ["disk", "both"])
def test_a_guest_that_deletes_the_output_directory_does_no_harm_to_the_next(run: Run, mode: str) -> None:
    def deleting(datafile: Any) -> dict[str, str]:
        before = datafile.full_filepath.read_text()
        shutil.rmtree(datafile.full_filepath.parent.parent)
        return {"before": before, **content(datafile)}

    a, b = run(deleting, "sub/a", "sub/b", mode=mode)
    assert (a, b) == (b'{"before":"sub/a","content":"sub/a"}', b'{"before":"sub/b","content":"sub/b"}')


# ---------------------------------------------------------------- rules 3 and 4


BIG = OWN_BUFFER_BYTES


@pytest.mark.parametrize(
    ("sizes", "views"),
    [
        ([5], [(0, 0, 5)]),
        ([2, 3, 4], [(0, 0, 9)]),
        ([BIG, BIG], [(0, 0, BIG), (1, 0, BIG)]),
        ([2, 3, BIG, 4], [(0, 0, 5), (1, 0, BIG), (2, 0, 4)]),
    ],
)
def test_rule_3_a_file_is_views_of_its_segments_buffers_one_for_chunks_side_by_side(
    run_file: RunFile, seen: list[tuple[memoryview, ...]], sizes: list[int], views: list[tuple[int, int, int]]
) -> None:
    segment = stored(*chunks_of("a", [bytes([number]) * size for number, size in enumerate(sizes)]))
    run_file(looking, segment)
    (pieces,) = seen
    assert places(pieces, segment) == views


def test_rule_3_chunks_that_came_in_another_order_are_views_too_in_the_order_of_the_file(
    run_file: RunFile, seen: list[tuple[memoryview, ...]]
) -> None:
    first, second, third, fourth = chunks_of("a", [b"1", b"22", b"333", b"4444"])
    segments = stored(third, fourth, first), stored(second)
    run_file(looking, *segments)
    (pieces,) = seen
    assert b"".join(pieces) == b"1223334444"
    assert places(pieces, *segments) == [(0, 7, 1), (1, 0, 2), (0, 0, 7)]


def test_rule_3_of_repeated_chunks_the_first_to_come_counts(run_file: RunFile) -> None:
    (first,) = chunks_of("a", [b"first"])
    later = replace(first, data=b"later", chunk_hash=hashlib.sha512(b"later").digest())
    assert run_file(content, stored(first), stored(later)) == b'{"content":"first"}'
    assert failure(run_file(content, stored(later), stored(first))).reason == "hash_mismatch"


def test_rule_3_what_is_kept_of_a_file_stays_as_it_was_and_can_not_be_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    monkeypatch.setitem(sys.modules, "kept", kept)

    def keeping(datafile: Any) -> dict[str, bool]:
        earlier = sys.modules["kept"]
        earlier.append((datafile, datafile.buffer, datafile.pieces[0], datafile.open()))
        return {"read_only": memoryview(datafile.buffer).readonly and datafile.pieces[0].readonly}

    assert set(run(keeping, "a", "b")) == {b'{"read_only":true}'}
    for (datafile, buffer, piece, stream), name in zip(kept, (b"a", b"b"), strict=True):
        assert bytes(buffer) == bytes(piece) == stream.read() == name
        with pytest.raises(ValueError, match="is closed"):
            _ = datafile.bytestring


def test_rule_4_each_file_finds_the_process_as_it_was(run: Run, tmp_path: Path) -> None:
    here = Path.cwd()

    def changing(datafile: Any) -> dict[str, str]:
        found = {"directory": os.getcwd(), "left": os.environ.get("LEFT", "")}  # noqa: PTH109
        os.chdir(tmp_path)
        os.environ["LEFT"] = datafile.filename
        if datafile.filename == "bad":
            raise ValueError
        return found

    first, _, last = run(changing, "first", "bad", "last")
    assert first == last == f'{{"directory":"{here}","left":""}}'.encode()
    assert Path.cwd() == here
    assert "LEFT" not in os.environ
