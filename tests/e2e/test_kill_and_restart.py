"""Files from OpenMSIStream's own uploader; the program is killed five times; each file has exactly one result."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.e2e.conftest import MY_LAB, Program, RecordSeen, function_of, local_results
from tests.waiting import wait_until

CHUNK_BYTES = 524_288
SIZES = {2_000: 262, 4_000_000: 35, 60_000_000: 3}
"""Bytes -> how many files: 300 in all, 320 MB."""
KILL_AT = (0.0, 0.1, 0.3, 0.6, 0.9)
"""Share of results that readers see when everything is killed."""
UPLOAD_DEADLINE_S = 180.0
PROGRESS_DEADLINE_S = 150.0
DIRECTORIES = ("", "Röntgen/2026-03", "a/b/c", "with space")
SLOW_DOWN = """

def slow_digest(datafile):
    # Slow enough that there is a middle to be killed in.
    import time
    time.sleep(0.02)
    return digest(datafile)
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """300 files of three sizes, in nested directories, with names beyond ASCII."""
    source = random.Random(20261123)
    made: list[Path] = []
    for size, count in SIZES.items():
        for number in range(count):
            path = tmp_path / "data" / DIRECTORIES[number % len(DIRECTORIES)] / f"größe_{size}_{number}.dat"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.randbytes(size))
            made.append(path)
    return made


def upload_with_openmsistream(python: Path, servers: str, topic: str, root: Path, chunks: int, tmp_path: Path) -> None:
    """Let OpenMSIStream's uploader send a directory, and wait until all its chunks are on the topic."""
    config = tmp_path / "uploader.config"
    config.write_text(
        f"[broker]\nbootstrap.servers = {servers}\n"
        "[producer]\nkey.serializer = StringSerializer\nvalue.serializer = DataFileChunkSerializer\n"
    )
    arguments = ["--config", str(config), "--topic_name", topic, "--upload_existing", "--chunk_size", str(CHUNK_BYTES)]
    uploader = subprocess.Popen(
        [str(python.with_name("DataFileUploadDirectory")), *arguments, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_until(lambda: messages_on(servers, topic) >= chunks, UPLOAD_DEADLINE_S, "OpenMSIStream's uploader")
        uploader.communicate(b"q\n", timeout=UPLOAD_DEADLINE_S)
    finally:
        uploader.kill()
    assert messages_on(servers, topic) == chunks


def messages_on(servers: str, topic: str) -> int:
    """How many messages a topic without transactions holds."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "test.watermarks"})
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1] for p in partitions)
    finally:
        consumer.close()


def ended_or_has(program: Program, read: Callable[[], list[RecordSeen]], expected: float) -> bool:
    """Whether there are so many results, or no more will come."""
    return program.process.poll() is not None or len(read()) >= expected


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_file_gives_exactly_one_result_though_everything_is_killed_five_times(
    files: list[Path],
    tmp_path: Path,
    workspace: Path,
    bootstrap_servers: str,
    openmsistream_python: Path,
    unique_topic: Callable[..., str],
    start_program: Callable[..., Program],
    read_committed: Callable[[str], list[RecordSeen]],
) -> None:
    root = tmp_path / "data"
    source, results = unique_topic("source", partitions=4), unique_topic("results", partitions=2)
    chunks = sum(count * -(-size // CHUNK_BYTES) for size, count in SIZES.items())
    upload_with_openmsistream(openmsistream_python, bootstrap_servers, source, root, chunks, tmp_path)
    (workspace / "my_lab.py").write_text(MY_LAB + SLOW_DOWN)
    (workspace / "conf" / "extractor" / "mine.yaml").write_text("_target_: my_lab.slow_digest\n")
    arguments = (
        "+extractor=mine",
        f"kafka.bootstrap.servers={bootstrap_servers}",
        f"topics.source={source}",
        f"topics.results={results}",
        "run=drain",
    )

    for share in KILL_AT:
        program = start_program(*arguments)
        enough = partial(ended_or_has, program, partial(read_committed, results), share * len(files))
        wait_until(enough, PROGRESS_DEADLINE_S, f"{share:.0%} of the results")
        program.kill()
    code, _, err = start_program(*arguments).wait()

    assert code == 0, err
    seen = read_committed(results)
    assert Counter(record.value["path"] for record in seen) == Counter(
        path.relative_to(root).as_posix() for path in files
    )
    assert {record.value["path"]: record.value for record in seen} == local_results(
        root, function_of(workspace, "digest"), files
    )
    assert read_committed(f"{results}.dead_letters") == []
