"""The files that are streamed, made in memory from their numbers alone, and put on a topic in OpenMSIStream's format.

1. File i, chunk j is always the same bytes, so that nothing has to be kept to know what a program must say of it.
2. Every chunk begins with a line that names file and chunk: no two chunks are equal, and a chunk that ends up in
   another place changes the file's hash.
3. `interleaved` files are open at a time and get a chunk each in turn. A new file starts when one ends, and the first
   ones start one after the other: files end at an even pace instead of all at once, as on a topic that has been
   running for a while, and the rate between the first result and the last ones is that of the steady state.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ray_reproducer.core.chunk import Chunk, FileVersion, encode, message_key

PARTITIONS = 4
_LINE_BYTES = 64
_BASE_LINES = 16_384
_MTIME = 1_700_000_000.0
_SUBDIR = "bench"


@dataclass(frozen=True)
class Workload:
    """A kind of files and how they arrive.

    Attributes:
        name: what it is called on the command line and in the tables.
        title: what it is.
        files: how many.
        file_bytes: size of each, a multiple of 64.
        chunk_bytes: size of each chunk, a multiple of 64.
        interleaved: how many files are open at a time.
        function: which function of `extraction` the programs run.
        peer_results: after how many results OpenMSIStream is stopped: it is too slow for the whole.
        floor: the ratio to the raw loop that this program has to reach (for "parse": of what all cores could do).
        floor_rate: a rate that is enough whatever the ratio, in `unit`; 0: none.
        staggered: whether the first files start one after the other (rule 3) or all together.
    """

    name: str
    title: str
    files: int
    file_bytes: int
    chunk_bytes: int
    interleaved: int
    function: Literal["count_lines", "count_lines_in_pieces", "parse"]
    peer_results: int
    floor: float
    floor_rate: float = 0.0
    staggered: bool = True

    @property
    def chunks_per_file(self) -> int:
        """How many messages a file makes."""
        return -(-self.file_bytes // self.chunk_bytes)

    @property
    def total_bytes(self) -> int:
        """Size of all files together."""
        return self.files * self.file_bytes

    @property
    def unit(self) -> Literal["files/s", "MB/s"]:
        """In what the rate is told: small files are about files, large ones about bytes."""
        return "MB/s" if self.file_bytes > 1_000_000 else "files/s"

    def rate(self, files: float, seconds: float) -> float:
        """So many files in so many seconds, in `unit` (MB = 10^6 bytes)."""
        amount = files * self.file_bytes / 1e6 if self.unit == "MB/s" else files
        return amount / seconds if seconds > 0 else 0.0

    def quick(self) -> Workload:
        """The same with few files: to see that all works, not to measure."""
        few = max(12, self.files // 10)
        if self is DISK:
            return replace(self, file_bytes=self.file_bytes // 100)
        return replace(self, files=few, peer_results=min(self.peer_results, max(2, few // 20)))


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "small", "2 kB files, one chunk each", 120_000, 2_048, 524_288, 1, "count_lines", 3_000, 0.15, 3_000.0
        ),
        Workload("parsing", "100 kB files, 0.1 s of parsing", 400, 102_400, 524_288, 1, "parse", 60, 0.75),
        Workload("medium", "4 MB files in 16 kB chunks", 400, 4_194_304, 16_384, 8, "count_lines", 16, 0.3),
        Workload("large", "100 MB files in 512 kB chunks", 40, 104_857_600, 524_288, 8, "count_lines", 6, 0.6),
    )
}
MEMORY = Workload(
    "memory", "100 MB files, 100 at a time", 100, 104_857_600, 524_288, 100, "count_lines", 0, 0.0, staggered=False
)
"""Not about speed: all of its 10 GB are open before the first file is whole."""
DISK = Workload("disk", "2 GB files, read from disk", 2, 2_147_483_648, 524_288, 1, "count_lines_in_pieces", 0, 0.0)
"""Not about speed either: what a worker needs for a file that it reads in pieces (`extraction.datafile=disk`)."""


@cache
def _base() -> bytes:
    """Lines of numbers, 64 bytes each, twice: so that any window of up to `_BASE_LINES` lines is one slice."""
    numbers = random.Random(20_260)  # noqa: S311 - data to measure with, no secret
    lines = (",".join(str(numbers.randrange(10**6, 10**7)) for _ in range(7)) for _ in range(_BASE_LINES))
    return "".join(line[: _LINE_BYTES - 1].ljust(_LINE_BYTES - 1, "0") + "\n" for line in lines).encode() * 2


def chunk_data(workload: Workload, file: int, index: int) -> bytes:
    """The bytes of one chunk, counted from 0: a line that names it, empty lines (as many as tell files apart), rows."""
    size = min(workload.chunk_bytes, workload.file_bytes - index * workload.chunk_bytes)
    empty = (file + index) % 17
    stamp = f"# file {file:06d} chunk {index:06d}".ljust(_LINE_BYTES - empty - 1) + "\n" * (empty + 1)
    start = (file * 7 + index * 13) % _BASE_LINES * _LINE_BYTES
    return stamp.encode() + _base()[start : start + size - _LINE_BYTES]


def expected(workload: Workload, file: int) -> dict[str, Any]:
    """What the workload's function has to say of a file, without running it."""
    said: dict[str, Any] = {
        "first_line": f"# file {file:06d} chunk {0:06d}",
        "lines": workload.file_bytes // _LINE_BYTES
        + sum((file + index) % 17 for index in range(workload.chunks_per_file)),
        "bytes": workload.file_bytes,
    }
    if workload.function == "parse":
        rows = (row for index in range(workload.chunks_per_file) for row in _rows(workload, file, index))
        said["total"] = sum(int(number) for row in rows for number in row.split(","))
    return said


def _rows(workload: Workload, file: int, index: int) -> Iterator[str]:
    lines = chunk_data(workload, file, index).decode().splitlines()
    return (line for line in lines if line and not line.startswith("#"))


def file_of_result(said: dict[str, Any]) -> int | None:
    """Which file a result is about, from its first line."""
    words = str(said.get("first_line", "")).split()
    return int(words[2]) if len(words) == 5 and words[2].isdigit() else None


def chunks(workload: Workload) -> Iterator[Chunk]:
    """All chunks in the order in which they are produced."""
    if workload.chunks_per_file == 1 and workload.interleaved == 1:
        for single in range(workload.files):
            yield from _file_chunks(workload, single)
        return
    waiting = iter(range(workload.files))
    stagger = max(1, workload.chunks_per_file // workload.interleaved) if workload.staggered else 0
    open_files: list[Iterator[Chunk]] = []
    started = 0
    for turn in itertools.count():
        while len(open_files) < workload.interleaved and (started >= workload.interleaved or turn >= started * stagger):
            file = next(waiting, None)
            if file is None:
                break
            open_files.append(_file_chunks(workload, file))
            started += 1
        if not open_files:
            return
        still_open = []
        for file_chunks in open_files:
            chunk = next(file_chunks)
            yield chunk
            if chunk.index < workload.chunks_per_file:
                still_open.append(file_chunks)
        open_files = still_open


def _file_chunks(workload: Workload, file: int) -> Iterator[Chunk]:
    whole = hashlib.sha512()
    for index in range(workload.chunks_per_file):
        whole.update(chunk_data(workload, file, index))
    version = FileVersion(_SUBDIR, f"{file:06d}.csv", "", whole.digest(), workload.chunks_per_file, _MTIME)
    for index in range(workload.chunks_per_file):
        data = chunk_data(workload, file, index)
        yield Chunk(version, index + 1, index * workload.chunk_bytes, hashlib.sha512(data).digest(), data)


def produce(workload: Workload, bootstrap_servers: str, topic: str) -> int:
    """Put a workload on a topic, each chunk under its own key as OpenMSIStream's uploader does.

    Returns:
        How many messages the topic got.

    Raises:
        KafkaException: the broker refused a message.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "queue.buffering.max.kbytes": 65_536,
            "queue.buffering.max.messages": 100_000,
        }
    )
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    count = 0
    for count, chunk in enumerate(chunks(workload), 1):  # noqa: B007 - the count is the result
        value, key = encode(chunk), message_key(chunk)
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush()
    if failures:
        raise KafkaException(failures[0])
    return count
