"""Sends the files of a directory tree as chunks, in OpenMSIStream's format.

Rules:

1. The tree is walked in order: the files of a directory by name, then its subdirectories by name. Links are not
   followed, also if one takes a file's place meanwhile (``file_tree``). A file is sent if its path relative to the
   root matches the beginning of the regular expression.
2. A file is read twice, once for its hash and once to be sent, never whole into memory (a file of one chunk: once).
   If it was changed in between, it counts as failed.
3. A file is complete when the broker has acknowledged all of its chunks. What can't be read, named or delivered
   is a failure with its reason, and the others go on.
4. Empty files give no message in this format: they are counted, not sent.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ray_reproducer.core.chunk import Chunk, FileVersion, encode, message_key
from ray_reproducer.core.errors import BrokerError, ReproducerError
from ray_reproducer.kafka import faults, file_tree
from ray_reproducer.kafka.client_config import ClientConfigs, open_producer
from ray_reproducer.kafka.file_tree import FoundFile

DEFAULT_CHUNK_BYTES: Final = 524_288
"""What OpenMSIStream cuts by default."""
_BLOCK_BYTES: Final = 1024 * 1024
"""How much is read at a time for the hash."""
_QUEUE_KBYTES: Final = 64 * 1024
"""What may wait for the broker in the client library, or one message, if that is more; its own limit is 1 GB."""
_KBYTE: Final = 1024
"""Bytes of what the client library calls a kbyte."""
_OVERHEAD_BYTES: Final = 12 * 1024
"""Room in a message for all that is not the chunk's data: two hashes, a path of at most 4 kB, the key with it again."""
_TOO_LARGE_FOR_QUEUE: Final = (
    "was not delivered: a message of it is larger than the client's whole queue; "
    "raise producer.queue.buffering.max.kbytes, or lower the chunk size"
)
_LIBRARY_MESSAGE_BYTES: Final = 1_000_000
"""The client library's own limit for one message."""
_PROGRESS_S: Final = 0.1
"""How often progress is told at most."""
_WAIT_S: Final = 0.1
"""How long to wait for the broker before looking whether to stop."""
_STOP_S: Final = 10.0
"""How long, after a stop, to wait for acknowledgements of what is on its way."""


class UploadCancelledError(ReproducerError):
    """To be raised by a ``window`` that wants no more to be sent; what is on its way is dropped."""


@dataclass(frozen=True, slots=True)
class UploadFailure:
    """A file, or a directory, that was not sent.

    Attributes:
        path: relative to the root, printable whatever its bytes are.
        reason: one line.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(slots=True)
class UploadSummary:
    """What became of the files; also the progress while it goes on.

    Attributes:
        files: complete on the broker.
        size_bytes: content of those files.
        messages: acknowledged by the broker.
        acknowledged_bytes: content of those messages, also of files that are not complete.
        files_empty: without content, not sent.
        files_filtered: not matched by the regular expression.
        links: symbolic links, not followed, and whatever is neither file nor directory.
        failures: what could not be sent, and why.
        stopped: whether it was stopped before the end; then ``files_unfinished`` had not been acknowledged.
        files_unfinished: begun, but not complete and not failed.
        seconds: how long it took so far.
        current: the file that is being sent.
    """

    files: int = 0
    size_bytes: int = 0
    messages: int = 0
    acknowledged_bytes: int = 0
    files_empty: int = 0
    files_filtered: int = 0
    links: int = 0
    failures: list[UploadFailure] = field(default_factory=list)
    stopped: bool = False
    files_unfinished: int = 0
    seconds: float = 0.0
    current: str = ""


def upload_directory(  # noqa: PLR0913 - callbacks, all by keyword
    clients: ClientConfigs,
    topic: str,
    path: Path,
    *,
    chunk_size_bytes: int = DEFAULT_CHUNK_BYTES,
    filepath_regex: str | None = None,
    on_progress: Callable[[UploadSummary], None] | None = None,
    on_trouble: Callable[[str], None] | None = None,
    window: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> UploadSummary:
    """Send the files of a tree; returns when all that was sent is acknowledged or has failed.

    Args:
        clients: the user's client settings.
        topic: where to; it must exist.
        path: the root.
        chunk_size_bytes: how much of a file goes into one message.
        filepath_regex: matched against the beginning of each relative path; None: all files.
        on_progress: called a few times a second with the summary so far; must not keep it.
        on_trouble: called with a line of text when the broker is in trouble, with "" when it is well again.
        window: called before each message with the bytes of messages sent so far and this one; may block, for flow
            control, and may raise ``UploadCancelledError``.
        should_stop: asked between chunks; True ends the upload after what is on its way has arrived.

    Raises:
        UploadCancelledError: ``window`` raised it.
        BrokerError: the broker does not let us write to the topic.
        ConfigurationError: the client library refuses a setting.
    """
    upload = _Upload(clients, topic, path, chunk_size_bytes, on_trouble)
    upload.on_progress = on_progress
    upload.window = window
    upload.should_stop = should_stop
    return upload.run(re.compile(filepath_regex) if filepath_regex else None)


def measure(path: Path, filepath_regex: str | None = None) -> tuple[int, int]:
    """Count the files that would be sent, and their bytes, to know how far an upload is."""
    pattern = re.compile(filepath_regex) if filepath_regex else None
    files = size_bytes = 0
    for found in file_tree.walk(path, lambda _path, _reason: None):
        if pattern is None or pattern.match(found.relative):
            with suppress(OSError):  # the upload itself will say it
                size = found.size_bytes()
                files += size > 0
                size_bytes += size
    return files, size_bytes


class _StoppedError(Exception):
    """Asked to stop."""


@dataclass(slots=True)
class _Pending:
    """A file whose chunks are on their way."""

    relative: str
    size_bytes: int
    unacknowledged: int = 0
    all_sent: bool = False
    failed: bool = False


class _Upload:
    on_progress: Callable[[UploadSummary], None] | None = None
    window: Callable[[int], None] | None = None
    should_stop: Callable[[], bool] | None = None

    def __init__(
        self,
        clients: ClientConfigs,
        topic: str,
        root: Path,
        chunk_size_bytes: int,
        on_trouble: Callable[[str], None] | None,
    ) -> None:
        self._topic = topic
        self._root = root
        self._chunk_size_bytes = chunk_size_bytes
        self._health = faults.Health(on_trouble or (lambda _text: None))
        self._forbidden: KafkaError | None = None
        self._sent_bytes = 0
        self._pending = 0
        self._began_s = time.monotonic()
        self._told_s = 0.0
        self.summary = UploadSummary()
        message_bytes = chunk_size_bytes + _OVERHEAD_BYTES
        ours = {
            "linger.ms": 20,
            "queue.buffering.max.kbytes": max(_QUEUE_KBYTES, -(-message_bytes // _KBYTE)),
            "message.max.bytes": max(_LIBRARY_MESSAGE_BYTES, message_bytes),
        }
        self._producer: Producer = open_producer(clients.for_producer(**ours), self._health.on_error)

    def run(self, pattern: re.Pattern[str] | None) -> UploadSummary:
        try:
            with closing(file_tree.walk(self._root, self._fail, self._skip)) as tree:
                for found in tree:
                    if pattern is None or pattern.match(found.relative):
                        self._send_file(found)
                    else:
                        self.summary.files_filtered += 1
                    self._tell()
        except _StoppedError:
            self.summary.stopped = True
        except BaseException:
            self._producer.purge()
            raise
        self._finish()
        return self.summary

    def _send_file(self, found: FoundFile) -> None:
        self._look_whether_to_stop()
        self.summary.current = found.relative
        problem = file_tree.name_problem(found.relative)
        if problem:
            self._fail(found.relative, problem)
            return
        try:
            with found.open() as file:
                self._send_content(file, found.relative)
        except OSError as error:
            self._fail(found.relative, f"can't be read: {error.strerror or error}")

    def _send_content(self, file: BinaryIO, relative: str) -> None:
        before = os.fstat(file.fileno())
        if before.st_size == 0:
            self.summary.files_empty += 1
            return
        n_chunks = -(-before.st_size // self._chunk_size_bytes)
        first = _read_exactly(file, self._chunk_size_bytes) if n_chunks == 1 else b""
        digest = hashlib.sha512(first)
        if n_chunks > 1:
            self._hash(file, digest)
        subdir, _, filename = relative.rpartition("/")
        version = FileVersion(subdir, filename, "", digest.digest(), n_chunks, before.st_mtime)
        pending = _Pending(relative, before.st_size)
        self._pending += 1
        try:
            for index in range(1, n_chunks + 1):
                data = first or _read_exactly(file, self._chunk_size_bytes)
                if not data:
                    break
                self._send_chunk(version, index, data, pending)
            if not _unchanged(file, before):
                self._fail_pending(pending, "was changed while it was sent; send it again")
        except OSError as error:
            self._fail_pending(pending, f"can't be read: {error.strerror or error}")
        pending.all_sent = True
        self._settle(pending)

    def _hash(self, file: BinaryIO, digest: hashlib._Hash) -> None:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            self._look_whether_to_stop()
        file.seek(0)

    def _send_chunk(self, version: FileVersion, index: int, data: bytes, pending: _Pending) -> None:
        self._look_whether_to_stop()
        offset = (index - 1) * self._chunk_size_bytes
        chunk = Chunk(version, index, offset, hashlib.sha512(data).digest(), data)
        value, key = encode(chunk), message_key(chunk)
        self._sent_bytes += len(value)
        if self.window:
            self.window(self._sent_bytes)

        size_bytes = len(data)

        def on_delivery(error: KafkaError | None, _message: Message) -> None:
            self._acknowledged(pending, size_bytes, error)

        pending.unacknowledged += 1
        while True:
            is_empty = len(self._producer) == 0
            try:
                self._producer.produce(self._topic, value, key, on_delivery=on_delivery)
                break
            except BufferError:
                if is_empty:  # there is nothing to wait for
                    pending.unacknowledged -= 1
                    self._fail_pending(pending, _TOO_LARGE_FOR_QUEUE)
                    break
                self._producer.poll(_WAIT_S)
                self._look_whether_to_stop()
            except KafkaException as exception:
                self._acknowledged(pending, size_bytes, faults.of(exception))
                break
        self._producer.poll(0)
        self._tell()

    def _acknowledged(self, pending: _Pending, size_bytes: int, error: KafkaError | None) -> None:
        pending.unacknowledged -= 1
        if error is None:
            self.summary.messages += 1
            self.summary.acknowledged_bytes += size_bytes
            self._health.well()
        else:
            if faults.is_forbidden(error):
                self._forbidden = error
            self._fail_pending(pending, f"was not delivered: {faults.text(error)}")
        self._settle(pending)

    def _settle(self, pending: _Pending) -> None:
        """Count a file when all of it has been sent and answered for."""
        if pending.all_sent and pending.unacknowledged == 0:
            self._pending -= 1
            if not pending.failed:
                self.summary.files += 1
                self.summary.size_bytes += pending.size_bytes

    def _fail_pending(self, pending: _Pending, reason: str) -> None:
        if not pending.failed:
            pending.failed = True
            self._fail(pending.relative, reason)

    def _fail(self, relative: str, reason: str) -> None:
        self.summary.failures.append(UploadFailure(file_tree.printable(relative), reason))

    def _skip(self) -> None:
        self.summary.links += 1

    def _finish(self) -> None:
        """Wait for what is on its way; after a stop, not for ever."""
        give_up_s = time.monotonic() + _STOP_S if self.summary.stopped else float("inf")
        while self._producer.flush(_WAIT_S) and time.monotonic() < give_up_s:
            if self.should_stop and self.should_stop() and not self.summary.stopped:
                self.summary.stopped = True
                give_up_s = time.monotonic() + _STOP_S
            self._refuse_if_forbidden()
            self._tell()
        self._refuse_if_forbidden()
        self._producer.purge()
        self.summary.files_unfinished = self._pending
        self.summary.current = ""
        self._tell(always=True)

    def _look_whether_to_stop(self) -> None:
        self._refuse_if_forbidden()
        if self.should_stop and self.should_stop():
            raise _StoppedError

    def _refuse_if_forbidden(self) -> None:
        if self._forbidden:
            raise BrokerError(
                f"not allowed to write to the topic {self._topic}: {faults.text(self._forbidden)}",
                hint=f"Grant WRITE on the topic {self._topic}.",
            )

    def _tell(self, *, always: bool = False) -> None:
        now_s = time.monotonic()
        self.summary.seconds = now_s - self._began_s
        if self.on_progress and (always or now_s - self._told_s >= _PROGRESS_S):
            self._told_s = now_s
            self.on_progress(self.summary)


def _read_exactly(file: BinaryIO, size_bytes: int) -> bytes:
    """Read so much, or up to the end: one ``read`` of an unbuffered file may return less."""
    data = file.read(size_bytes)
    while 0 < len(data) < size_bytes and (more := file.read(size_bytes - len(data))):
        data += more
    return data


def _unchanged(file: BinaryIO, before: os.stat_result) -> bool:
    now = os.fstat(file.fileno())
    return (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
