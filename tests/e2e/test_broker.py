"""A topic as it comes, on a real broker: good files, bad files and rubbish, interrupted in the middle."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import MY_LAB, Program, RecordSeen, committed_and_ends, function_of
from tests.waiting import wait_until
from tests.workload import (
    CHUNK_BYTES,
    Rubbish,
    SentFile,
    Topic,
    cut,
    dead_letters_expected,
    dead_letters_seen,
    messages_of,
    old_dialect,
    places_in,
    rubbish,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

DEADLINE_S = 120.0
PARTITIONS = 4
MOVED_BYTES = 7
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
    topic, dead_letters = Topic(bootstrap_servers, source, PARTITIONS), f"{results}.dead_letters"
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
