"""A topic as it comes, on a real broker: good files, bad files and rubbish, interrupted in the middle."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from confluent_kafka import Message, Producer

from ray_reproducer.core.chunk import Chunk, FileVersion, encode
from ray_reproducer.data_file import DataFile
from tests.e2e.conftest import MY_LAB, Program, RecordSeen, committed_and_ends, function_of
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

DEADLINE_S = 120.0
PARTITIONS = 4
CHUNK_BYTES = 1000
MOVED_BYTES = 7
Place = tuple[int, int]
"""Partition and offset of a message."""
GATED = """

def gated(datafile, directory):
    # One file takes until the test lets it go.
    import pathlib, time
    directory = pathlib.Path(directory)
    if datafile.filename == "gated.txt":
        (directory / "began").touch()
        while not (directory / "open").exists():
            time.sleep(0.02)
    return digest(datafile)
"""


@dataclass(eq=False)
class SentFile:
    """A file version, its chunks, and where they were put."""

    content: bytes
    chunks: list[Chunk]
    reason: str = ""
    """Why it becomes a dead letter; "" for a good one."""
    places: set[Place] = field(default_factory=set)

    @property
    def version(self) -> FileVersion:
        return self.chunks[0].version

    def expected(self, function: Callable[[Any], dict[str, Any]]) -> tuple[str, str]:
        """Key and value of the result."""
        metadata = function(DataFile(self.version, [self.content], root=Path("/nowhere")))
        return self.version.result_key, json.dumps(metadata, sort_keys=True)


@dataclass(eq=False)
class Rubbish:
    """A message that is no chunk, and where it was put."""

    value: bytes | None
    reason: str
    places: set[Place] = field(default_factory=set)


class Topic:
    """The source topic, and what was put on it."""

    def __init__(self, servers: str, name: str) -> None:
        self._producer = Producer({"bootstrap.servers": servers})
        self._source = random.Random(3)
        self.name = name
        self.sent: list[SentFile | Rubbish] = []

    def put(self, wanted: Iterable[tuple[SentFile | Rubbish, bytes | None]]) -> None:
        """Produce messages in shuffled order, on shuffled partitions."""
        messages = list(wanted)
        self._source.shuffle(messages)
        for owner, value in messages:
            if owner not in self.sent:
                self.sent.append(owner)

            def delivered(error: object, message: Message, owner: SentFile | Rubbish = owner) -> None:
                assert error is None
                owner.places.add((message.partition() or 0, message.offset() or 0))

            partition = self._source.randrange(PARTITIONS)
            self._producer.produce(self.name, value, "key", partition=partition, on_delivery=delivered)
        assert self._producer.flush(DEADLINE_S) == 0


def cut(path: str, content: bytes, *, append: str = "", reason: str = "", file_hash: bytes | None = None) -> SentFile:
    """Cut a file as the uploader does."""
    subdir, _, name = path.rpartition("/")
    starts = range(0, len(content), CHUNK_BYTES)
    version = FileVersion(subdir, name, append, file_hash or hashlib.sha512(content).digest(), len(starts), 1e9)
    chunks = []
    for index, start in enumerate(starts, start=1):
        data = content[start : start + CHUNK_BYTES]
        chunks.append(Chunk(version, index, start, hashlib.sha512(data).digest(), data))
    return SentFile(content, chunks, reason)


def messages_of(file: SentFile, indices: Sequence[int] | None = None) -> list[tuple[SentFile | Rubbish, bytes | None]]:
    """The messages of a file; ``indices`` chooses some of them, by their index from 1."""
    chosen = file.chunks if indices is None else [file.chunks[index - 1] for index in indices]
    return [(file, encode(chunk)) for chunk in chosen]


def with_field(position: int, value: object) -> bytes:
    """A chunk's message with one field changed."""
    fields = msgpack.unpackb(encode(cut("liar.txt", b"x" * 3 * CHUNK_BYTES).chunks[1]))
    fields[position] = value
    packed: bytes = msgpack.packb(fields)
    return packed


def rubbish() -> list[Rubbish]:
    """One message of each kind that is no chunk."""
    whole = encode(cut("liar.txt", b"x").chunks[0])
    lying_length = whole.replace(b"\xc4\x01x", b"\xc6\xff\xff\xff\xffx")
    assert lying_length != whole
    return [
        Rubbish(b"\xc1 no msgpack", "not_a_chunk"),
        Rubbish(b'{"this": "is JSON"}', "not_a_chunk"),
        Rubbish(lying_length, "not_a_chunk"),
        Rubbish(msgpack.packb(["too", "few"]), "not_a_chunk"),
        Rubbish(with_field(4, 4), "bad_chunk_field"),
        Rubbish(with_field(5, 2**40), "bad_chunk_field"),
        Rubbish(with_field(3, -1), "bad_chunk_field"),
        Rubbish(with_field(1, b"short"), "bad_chunk_field"),
        Rubbish(with_field(6, "../../etc"), "unsafe_path"),
        Rubbish(with_field(0, "/etc/passwd"), "unsafe_path"),
        Rubbish(None, "tombstone"),
    ]


def old_dialect(file: SentFile) -> list[tuple[SentFile | Rubbish, bytes | None]]:
    """The messages of a file as old producers wrote them: raw strings, no modification time."""
    return [
        (file, msgpack.packb(msgpack.unpackb(value, raw=True)[:9], use_bin_type=False))
        for _, value in messages_of(file)
        if value
    ]


def dead_letters_expected(sent: Sequence[SentFile | Rubbish]) -> set[tuple[str | None, str, frozenset[Place]]]:
    """Path, reason and places of each dead letter that is due."""
    return {
        (item.version.relative_path if isinstance(item, SentFile) else None, item.reason, frozenset(item.places))
        for item in sent
        if item.reason
    }


def dead_letters_seen(records: Sequence[RecordSeen]) -> set[tuple[str | None, str, frozenset[Place]]]:
    """The same of the dead letters that there are; each must be there once."""
    seen = [(record.value["path"], record.value["reason"], places_in(record.value)) for record in records]
    assert len(seen) == len(set(seen))
    return set(seen)


def places_in(letter: dict[str, Any]) -> frozenset[Place]:
    """Which messages a dead letter names."""
    assert letter["source"]["exact"]
    ranges = letter["source"]["offsets"]
    return frozenset(
        (int(partition), offset)
        for partition, runs in ranges.items()
        for first, last in runs
        for offset in range(first, last + 1)
    )


def put_first_part(topic: Topic, split: SentFile, spoiled: SentFile) -> None:
    """Whole files, bad files and rubbish; and the beginnings of two files."""
    source = random.Random(1)
    several = cut("Röntgen/größe.bin", source.randbytes(5 * CHUNK_BYTES + 1))
    older, newer = cut("a/b/twice.bin", source.randbytes(3000)), cut("a/b/twice.bin", source.randbytes(2500))
    appended = cut("a_b/spec.tar.csv", b"1,2\n", append="_v2")
    holed = cut("holed.bin", source.randbytes(3000), reason="inconsistent_chunks")
    holed.chunks[1] = replace(holed.chunks[1], write_offset=holed.chunks[1].write_offset + MOVED_BYTES)
    topic.put(
        [
            *messages_of(cut("gated.txt", b"1\n")),
            *messages_of(cut("root file.txt", b"1\n2\n")),
            *messages_of(appended),
            *messages_of(older),
            *messages_of(newer),
            *messages_of(several),
            *messages_of(several, [2, 2, 6]),
            *messages_of(holed),
            *messages_of(cut("wrong.txt", b"1", reason="hash_mismatch", file_hash=hashlib.sha512(b"2").digest())),
            *((bad, bad.value) for bad in rubbish()),
            *messages_of(split, [1, 4]),
            *messages_of(spoiled, [2]),
        ]
    )


def put_second_part(topic: Topic, split: SentFile, spoiled: SentFile) -> None:
    """The rest of these two files, a file from an old producer, and more rubbish."""
    topic.put(
        [
            *messages_of(split, [2, 3]),
            *messages_of(spoiled, [1]),
            *old_dialect(cut("old/producer.bin", random.Random(2).randbytes(1500))),
            *((bad, bad.value) for bad in rubbish()),
        ]
    )


def test_good_files_bad_files_and_rubbish_interrupted_in_the_middle(
    workspace: Path,
    bootstrap_servers: str,
    unique_topic: Callable[..., str],
    start_program: Callable[..., Program],
    read_committed: Callable[[str], list[RecordSeen]],
) -> None:
    source, results = unique_topic("mix.source", partitions=PARTITIONS), unique_topic("mix.results", partitions=0)
    topic, dead_letters = Topic(bootstrap_servers, source), f"{results}.dead_letters"
    gate = workspace.parent
    (workspace / "my_lab.py").write_text(MY_LAB + GATED)
    (workspace / "conf" / "extractor" / "mine.yaml").write_text(f"_target_: my_lab.gated\ndirectory: {gate}\n")
    arguments = ["+extractor=mine", f"kafka.bootstrap.servers={bootstrap_servers}"]
    arguments += [f"topics.source={source}", f"topics.results={results}", "ray.num_cpus=2"]
    function = function_of(workspace, "digest")
    split = cut("split/in two.bin", random.Random(5).randbytes(4 * CHUNK_BYTES))
    spoiled = cut("spoiled.bin", bytes(2 * CHUNK_BYTES), reason="hash_mismatch", file_hash=bytes(64))

    def results_expected() -> list[tuple[str, str]]:
        return sorted(sent.expected(function) for sent in topic.sent if isinstance(sent, SentFile) and not sent.reason)

    def results_seen() -> list[tuple[str, str]]:
        return sorted((record.key, json.dumps(record.value, sort_keys=True)) for record in read_committed(results))

    # A stream, with Ctrl-C while it has one file left: that one is finished and committed.
    put_first_part(topic, split, spoiled)
    due = [result for result in results_expected() if "in two.bin" not in result[0]]
    letters_due = dead_letters_expected([sent for sent in topic.sent if sent is not spoiled])
    program = start_program(*arguments, "extraction.max_batch_files=1")  # so that the one keeps no other waiting
    wait_until((gate / "began").exists, DEADLINE_S, "the gated file")
    wait_until(lambda: len(results_seen()) == len(due) - 1, DEADLINE_S, "the other results")
    wait_until(lambda: len(read_committed(dead_letters)) == len(letters_due), DEADLINE_S, "the dead letters")
    program.process.send_signal(signal.SIGINT)
    wait_until(lambda: "finishing what is in flight" in program.err(), DEADLINE_S, "its answer")
    (gate / "open").touch()
    code, out, err = program.wait()
    assert (code, out) == (0, ""), err
    assert "stopped after" in err
    assert f"{len(due)} results on {results}, {len(letters_due)} dead letters" in err
    assert results_seen() == due
    assert dead_letters_seen(read_committed(dead_letters)) == letters_due

    # The rest arrives. The next run does it, and only it.
    put_second_part(topic, split, spoiled)
    code, out, err = start_program(*arguments, "run=drain", "run.print_results=true").wait()
    assert code == 3, err
    assert results_seen() == results_expected()
    letters = read_committed(dead_letters)
    assert dead_letters_seen(letters) == dead_letters_expected(topic.sent)
    assert_rubbish_is_kept(topic, letters)
    lines = [json.loads(line) for line in out.splitlines()]
    assert sorted(line["path"] for line in lines if line["outcome"] == "result") == [
        "old/producer.bin",
        "split/in two.bin",
    ]
    shown = [(line["path"], line["reason"], line.get("partition")) for line in lines if line["outcome"] != "result"]
    assert len(shown) == len(letters) - len(letters_due)
    assert all((path is None) == (partition is not None) for path, _, partition in shown)
    committed, ends = committed_and_ends(bootstrap_servers, f"ray_reproducer.{source}.mine", source)
    assert committed == ends

    # There is nothing left.
    code, out, err = start_program(*arguments, "run=drain", "run.print_results=true").wait()
    assert (code, out) == (0, ""), err
    assert "0 results" in err
    assert f"Nothing new on {source}" in err
    assert results_seen() == results_expected()
    assert len(read_committed(dead_letters)) == len(letters)


def assert_rubbish_is_kept(topic: Topic, letters: Sequence[RecordSeen]) -> None:
    """Each message that is no chunk is in its dead letter as it was, and the letter's key names its place."""
    by_place = {places_in(letter.value): letter for letter in letters}
    for sent in topic.sent:
        if isinstance(sent, Rubbish):
            letter = by_place[frozenset(sent.places)]
            ((partition, offset),) = sent.places
            assert letter.key == f"{topic.name}_{partition}_{offset}"
            assert base64.b64decode(letter.value["message"]["base64"]) == (sent.value or b"")
