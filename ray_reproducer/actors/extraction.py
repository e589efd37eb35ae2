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

import msgpack
import pyarrow as pa
import ray

from ray_reproducer.actors.extractor_hooks import FAILED, MISMATCHED, call_hook
from ray_reproducer.actors.process_state import ProcessState, give_up, is_worn_out
from ray_reproducer.actors.worker_log import FileLog, Said
from ray_reproducer.core.errors import ExtractorError, PathInTheWayError, ReproducerError, UnsafePathError
from ray_reproducer.core.events import FileWork
from ray_reproducer.core.metadata_json import encode_metadata
from ray_reproducer.core.outcome import MAX_TRACEBACK_CHARS, Failure
from ray_reproducer.core.segment import Entry, Segment
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
    """A segment in the object store.

    Attributes:
        table: its entries, as msgpack: pickling thousands of small objects would cost more than their data.
        buffers: its data, read without a copy.
    """

    table: bytes
    buffers: Sequence[pa.Buffer]

    @classmethod
    def of(cls, segment: Segment) -> StoredSegment:
        """Wrap a segment so that pickle hands its buffers to the object store without a copy in between."""
        return cls(msgpack.packb(segment.entries), [pa.py_buffer(buffer) for buffer in segment.buffers])

    def entries(self) -> list[Entry]:
        """Read the table."""
        return [Entry(*row) for row in msgpack.unpackb(self.table)]


class _OpenSegment(NamedTuple):
    entries: list[Entry]
    buffers: Sequence[pa.Buffer]


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


def extract(job: ExtractionJob, files: Sequence[FileWork], segments: dict[int, StoredSegment]) -> TaskAnswer:
    """Run the extractor on some files, one after the other.

    Args:
        job: what all tasks have in common.
        files: which files, and where their chunks are.
        segments: the segments that hold them, by id.

    Raises:
        ExtractorError: the extractor can't be loaded in this worker.
        OutputDirectoryError: a file can't be written.
    """
    extractor = load_extractor(job)
    process = _state(job)
    began = time.perf_counter()
    opened = {number: _OpenSegment(stored.entries(), stored.buffers) for number, stored in segments.items()}
    log = FileLog()
    answers: list[bytes | Failure] = []
    try:
        for file in files:
            with log.of(file.version.relative_path):
                answers.append(_answer(extractor, job, file, opened, process))
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


def _answer(
    extractor: Callable[[DataFile], Any],
    job: ExtractionJob,
    file: FileWork,
    segments: dict[int, _OpenSegment],
    process: ProcessState,
) -> bytes | Failure:
    whole = _pieces(file, segments)
    if isinstance(whole, Failure):
        return whole
    mismatch = _mismatch(file, *whole)
    root = Path(job.output_dir)
    if mismatch is not None:
        # In memory in any mode: what is not what it should be is not written.
        with DataFile(file.version, whole[0], root=root, logger=_LOG) as datafile:
            _tell(extractor, MISMATCHED, datafile, process)
        return mismatch
    datafile = DataFile(file.version, whole[0], root=root, mode=job.datafile_mode, logger=_LOG)
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


_Chunks: TypeAlias = "Sequence[tuple[Entry, _OpenSegment]]"


def _pieces(file: FileWork, segments: dict[int, _OpenSegment]) -> tuple[list[memoryview], _Chunks] | Failure:
    """Find the file's bytes and its chunks, in order."""
    chunks: dict[int, tuple[Entry, _OpenSegment]] = {}
    for part in file.slices:
        segment = segments[part.segment]
        for entry in segment.entries[part.first : part.first + part.n_entries]:
            chunks.setdefault(entry.chunk, (entry, segment))
    in_order = sorted(chunks.values(), key=lambda chunk: chunk[0].write_offset)
    pieces: list[memoryview] = []
    expected = 0
    before: pa.Buffer | None = None
    end = 0
    for entry, segment in in_order:
        if entry.write_offset != expected:
            return _inconsistent(entry, expected)
        expected += entry.size
        start, buffer = entry.start, segment.buffers[entry.buffer]
        if buffer is before and start == end:
            # It follows the one before in the same buffer: one view for both.
            start -= len(pieces.pop())
        before, end = buffer, entry.start + entry.size
        pieces.append(memoryview(buffer)[start:end])
    return pieces, in_order


def _inconsistent(entry: Entry, expected: int) -> Failure:
    where = "overlaps the one before it" if entry.write_offset < expected else "leaves a hole before it"
    return Failure(
        "inconsistent_chunks",
        f"chunk {entry.chunk} begins at byte {entry.write_offset}, but {expected} was expected: it {where}",
        attempts=0,
    )


def _mismatch(file: FileWork, pieces: list[memoryview], chunks: _Chunks) -> Failure | None:
    """Check the file's bytes; None if they are what its sender's hash says."""
    digest = hashlib.sha512()
    for piece in pieces:
        digest.update(piece)
    if digest.digest() == file.version.file_hash:
        return None
    bad = [
        str(entry.chunk)
        for entry, segment in chunks
        if hashlib.sha512(memoryview(segment.buffers[entry.buffer])[entry.start : entry.start + entry.size]).digest()
        != entry.chunk_hash
    ]
    if bad:
        named = ", ".join(bad[:10]) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
        which = f"of its {len(chunks)} chunks, these do not match their own hash: {named}"
    else:
        which = f"each of its {len(chunks)} chunks matches its own hash, so the hash of the file is wrong"
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
