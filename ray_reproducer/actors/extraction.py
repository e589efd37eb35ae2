"""What runs in a worker: check the file, call the user's function, answer with JSON or with the reason why not.

Rules:

1. Whatever the user's function raises is an answer about its own file, never an error of the task: SystemExit and
   KeyboardInterrupt too (Ray blocks SIGINT in workers, and tasks are cancelled by force only). What is left are the
   ends of the process itself, which the committer sees as a crash.
2. A file's bytes are hashed once. Only if that hash is wrong are the chunks' own hashes looked at, to name the bad one.
3. Nothing is copied: a file is a row of views into shared memory. Repeated chunks are passed over, first come first
   served.
4. The extractor is unpickled once in each worker process, not once a file. Each file finds the process in the state
   that :mod:`process_state` describes.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import pyarrow as pa
import ray

from ray_reproducer.actors.extractor_hooks import FAILED, MISMATCHED, call_hook
from ray_reproducer.actors.process_state import ProcessState, give_up, is_worn_out
from ray_reproducer.actors.worker_log import FileLog, Said
from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.errors import ExtractorError, PathInTheWayError, ReproducerError, UnsafePathError
from ray_reproducer.core.metadata_json import encode_metadata
from ray_reproducer.core.outcome import MAX_TRACEBACK_CHARS, Failure
from ray_reproducer.core.segment import Entry, Segment, SegmentTable
from ray_reproducer.core.user_error import one_line
from ray_reproducer.data_file import DataFile

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = logging.getLogger("ray_reproducer.extraction")

_extractors: dict[str, Callable[[DataFile], Any]] = {}
"""Extractors of this worker process, by the key of their job."""
_jobs: dict[str, ExtractionJob] = {}
"""Jobs of this worker process, by their key."""
_states: dict[str, ProcessState] = {}
"""State of this worker process when it had loaded the extractor, by the key of the job; at most one."""


@dataclass(frozen=True, slots=True)
class ExtractionJob:
    """What all tasks of a run have in common.

    Attributes:
        key: tells this job from others that the same worker process may have had.
        extractor: pickle of the callable.
        sys_path: put first on the module search path before the extractor is unpickled.
        output_dir: where files are written, if they are.
        datafile_mode: whether they are.
        max_result_bytes: the largest result that the topic takes.
    """

    key: str
    extractor: bytes
    sys_path: tuple[str, ...]
    output_dir: str
    datafile_mode: Literal["memory", "disk", "both"]
    max_result_bytes: int


@dataclass(frozen=True, slots=True)
class JobReference:
    """Where a job is in the object store, so that it does not travel with every task."""

    key: str
    job: ray.ObjectRef[ExtractionJob]


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment in the object store, read without a copy.

    Attributes:
        rows: those of its table (``SegmentTable``).
        ends: where they end.
        buffers: its data.
    """

    rows: pa.Buffer
    ends: pa.Buffer
    buffers: Sequence[pa.Buffer]

    @classmethod
    def of(cls, segment: Segment) -> StoredSegment:
        """Wrap a segment so that pickle hands its buffers to the object store without a copy in between."""
        table = segment.table
        return cls(pa.py_buffer(table.rows), pa.py_buffer(table.ends), [pa.py_buffer(data) for data in segment.buffers])


class _OpenSegment(NamedTuple):
    table: SegmentTable
    buffers: Sequence[pa.Buffer]


Slices: TypeAlias = "Sequence[tuple[int, int, int]]"
"""Where the chunks of one file are: its ``SegmentSlice``s."""


@dataclass(frozen=True, slots=True)
class TaskAnswer:
    """What a task returns.

    Attributes:
        answers: one a file, in their order.
        seconds: how long the worker was busy.
        said: what was logged meanwhile.
    """

    answers: tuple[bytes | Failure, ...]
    seconds: float
    said: tuple[Said, ...] = ()


def extract(job: ExtractionJob, files: Sequence[Slices], segments: dict[int, StoredSegment]) -> TaskAnswer:
    """Run the extractor on some files, one after the other.

    Args:
        job: what all tasks have in common.
        files: where their chunks are; which files they are stands in the segments.
        segments: the segments that hold them, by id.

    Raises:
        ExtractorError: the extractor can't be loaded in this worker.
        OutputDirectoryError: a file can't be written.
    """
    extractor = load_extractor(job)
    process = _state(job)
    began = time.perf_counter()
    opened = {n: _OpenSegment(SegmentTable(stored.rows, stored.ends), stored.buffers) for n, stored in segments.items()}
    root = Path(job.output_dir)
    answers: list[bytes | Failure] = []
    try:
        with FileLog() as log:
            for slices in files:
                version, chunks = _chunks(slices, opened)
                log.begin(version.relative_path)
                answers.append(_answer(extractor, job, _File(version, chunks, root), process))
    except Exception as error:
        # What earlier files left behind (no descriptors, no memory, a patched library) may be why it is our own code
        # that fails. In a process that nobody has used before it is our own fault.
        if process.files and (is_worn_out(error.__cause__ or error) or not isinstance(error, ReproducerError)):
            give_up(error)
        raise
    return TaskAnswer(tuple(answers), time.perf_counter() - began, tuple(log.said))


def load_job(reference: JobReference) -> ExtractionJob:
    """Fetch a job from the object store, once in each worker process."""
    job = _jobs.get(reference.key)
    if job is None:
        job = _jobs[reference.key] = ray.get(reference.job)
    return job


def load_extractor(job: ExtractionJob) -> Callable[[DataFile], Any]:
    """Unpickle the user's function, once in each worker process.

    Raises:
        ExtractorError: that is not possible here.
    """
    extractor = _extractors.get(job.key)
    if extractor is None:
        for directory in reversed(job.sys_path):
            if directory not in sys.path:
                sys.path.insert(0, directory)
        try:
            extractor = pickle.loads(job.extractor)  # noqa: S301 - made by the driver of this very run
        # Unpickling runs the imports of the user's modules, which may fail in any way.
        except Exception as error:  # noqa: BLE001
            raise ExtractorError(
                f"a worker can't load the extractor: {type(error).__name__}: {error}",
                hint="Its module must be importable on every node: install it there, or submit the job with its "
                "directory as working directory.",
            ) from None
        _extractors[job.key] = extractor
    return extractor


def _state(job: ExtractionJob) -> ProcessState:
    state = _states.get(job.key)
    if state is None:
        for earlier in _states.values():
            earlier.forget()
        _states.clear()
        state = _states[job.key] = ProcessState()
    return state


class _File(NamedTuple):
    """One whole file: its version, its chunks in their order, and the directory that its path is relative to."""

    version: FileVersion
    chunks: Sequence[tuple[Entry, _OpenSegment]]
    root: Path


def _answer(
    extractor: Callable[[DataFile], Any], job: ExtractionJob, file: _File, process: ProcessState
) -> bytes | Failure:
    pieces = _pieces(file)
    if isinstance(pieces, Failure):
        return pieces
    mismatch = _mismatch(file, pieces)
    if mismatch is not None:
        # In memory in any mode: what is not what it should be is not written.
        with DataFile(file.version, pieces, root=file.root, logger=_LOG) as datafile:
            _tell(extractor, MISMATCHED, datafile, process)
        return mismatch
    datafile = DataFile(file.version, pieces, root=file.root, mode=job.datafile_mode, logger=_LOG)
    try:
        if job.datafile_mode != "memory":
            datafile.write()
    except (PathInTheWayError, UnsafePathError) as error:
        return Failure("not_writable", error.message, attempts=0)
    answer, raised = _ask(extractor, datafile, job.max_result_bytes)
    try:
        process.restore()
    # An alarm of the user's rang at this very moment. The second time there is none left that could.
    except BaseException as error:  # noqa: BLE001
        raised = raised or error
        process.restore()
    if raised is not None:
        if process.files > 1 and is_worn_out(raised):
            give_up(raised)
        answer = _raised(raised)
    if isinstance(answer, Failure):
        _tell(extractor, FAILED, datafile, process)
    datafile.close()
    return answer


def _ask(
    extractor: Callable[[DataFile], Any], datafile: DataFile, max_bytes: int
) -> tuple[bytes | Failure, BaseException | None]:
    """Call the user's function; return its answer, or what it raised, at once: its alarms may still ring."""
    try:
        # Reading what is returned may run code of the user's, too.
        return encode_metadata(extractor(datafile), max_bytes), None
    except BaseException as error:  # noqa: BLE001 - rule 1
        return b"", error


def _tell(extractor: Callable[[DataFile], Any], hook: str, datafile: DataFile, process: ProcessState) -> None:
    """Call a hook of the user's class, and put back what it has changed in the process, too."""
    try:
        if call_hook(extractor, hook, datafile):
            process.restore()
    except BaseException as error:  # noqa: BLE001 - an alarm of the hook's, as above
        _LOG.error("%s raised %s", hook, type(error).__name__, exc_info=error)
        process.restore()


def _raised(error: BaseException) -> Failure:
    return Failure("extractor_raised", one_line(error), _user_traceback(error))


def _chunks(slices: Slices, segments: dict[int, _OpenSegment]) -> tuple[FileVersion, list[tuple[Entry, _OpenSegment]]]:
    """Say which file it is, and find its chunks, in their order."""
    chunks: list[tuple[Entry, _OpenSegment]] = []
    versions: list[FileVersion] = []
    for number, first, n_entries in slices:
        segment = segments[number]
        version, entries = segment.table.read(first, n_entries)
        versions.append(version)
        chunks += [(entry, segment) for entry in entries]
    if len(chunks) > 1:
        first_come: dict[int, tuple[Entry, _OpenSegment]] = {}
        for chunk in chunks:
            first_come.setdefault(chunk[0].chunk, chunk)
        chunks = sorted(first_come.values(), key=lambda chunk: chunk[0].write_offset)
    return versions[0], chunks


def _pieces(file: _File) -> list[memoryview] | Failure:
    """Find the file's bytes."""
    pieces: list[memoryview] = []
    expected = 0
    before: pa.Buffer | None = None
    end = 0
    for entry, segment in file.chunks:
        if entry.write_offset != expected:
            return _inconsistent(entry, expected)
        expected += entry.size
        start, buffer = entry.start, segment.buffers[entry.buffer]
        if buffer is before and start == end:
            # It follows the one before in the same buffer: one view for both.
            start -= len(pieces.pop())
        before, end = buffer, entry.start + entry.size
        pieces.append(memoryview(buffer)[start:end])
    return pieces


def _inconsistent(entry: Entry, expected: int) -> Failure:
    where = "overlaps the one before it" if entry.write_offset < expected else "leaves a hole before it"
    return Failure(
        "inconsistent_chunks",
        f"chunk {entry.chunk} begins at byte {entry.write_offset}, but {expected} was expected: it {where}",
        attempts=0,
    )


def _mismatch(file: _File, pieces: list[memoryview]) -> Failure | None:
    """Check the file's bytes; None if they are what its sender's hash says."""
    digest = hashlib.sha512()
    for piece in pieces:
        digest.update(piece)
    if digest.digest() == file.version.file_hash:
        return None
    bad = [
        str(entry.chunk)
        for entry, segment in file.chunks
        if hashlib.sha512(memoryview(segment.buffers[entry.buffer])[entry.start : entry.start + entry.size]).digest()
        != entry.chunk_hash
    ]
    if bad:
        named = ", ".join(bad[:10]) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
        which = f"of its {len(file.chunks)} chunks, these do not match their own hash: {named}"
    else:
        which = f"each of its {len(file.chunks)} chunks matches its own hash, so the hash of the file is wrong"
    return Failure("hash_mismatch", f"the content does not match the file's SHA-512; {which}", attempts=0)


def _user_traceback(error: BaseException) -> str:
    """Format the traceback from the first frame that is the user's."""
    frames = error.__traceback__
    here = __file__
    while frames is not None and frames.tb_frame.f_code.co_filename == here:
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    # The user's exception may not even be able to say what it is.
    except BaseException:  # noqa: BLE001
        text = "".join(traceback.format_tb(frames))
    return text[-MAX_TRACEBACK_CHARS:]
