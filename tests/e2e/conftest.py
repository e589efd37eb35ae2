"""What the end-to-end tests share: the program as a subprocess, and what a reader of its topics sees."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

READ_TIMEOUT_S = 60.0
EXIT_DEADLINE_S = 150.0
"""How long a drain of a test's few files may take on a busy machine, the start of Ray included."""

MY_LAB = '''
"""The module of a user."""
import hashlib


def digest(datafile):
    data = datafile.bytestring
    return {
        "path": str(datafile.relative_filepath),
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "lines": data.count(b"\\n"),
    }
'''


Files = dict[str, bytes]
"""Relative path -> content."""


@dataclass(frozen=True)
class RecordSeen:
    """One record that a reader with read_committed sees."""

    key: str
    value: dict[str, Any]


@dataclass
class Program:
    """A running ``python -m ray_reproducer`` with a process group of its own; its stderr is in a file."""

    process: subprocess.Popen[str]
    log: Path

    def err(self) -> str:
        """What it has said on stderr so far."""
        return self.log.read_text(encoding="utf-8")

    def wait(self, deadline_s: float = EXIT_DEADLINE_S) -> tuple[int, str, str]:
        """Wait for its end; return exit code, stdout and stderr."""
        out, _ = self.process.communicate(timeout=deadline_s)
        return self.process.returncode, out, self.err()

    def kill(self) -> None:
        """Kill -9 everything that it started, in whatever group, at once."""
        try:
            tree = [psutil.Process(self.process.pid)]
            tree += tree[0].children(recursive=True)
        except psutil.NoSuchProcess:
            tree = []
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in tree:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(tree, timeout=READ_TIMEOUT_S)
        self.process.communicate(timeout=READ_TIMEOUT_S)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A user's directory that holds nothing but ``my_lab.py`` and ``conf/extractor/mine.yaml``."""
    directory = tmp_path / "lab"
    (directory / "conf" / "extractor").mkdir(parents=True)
    (directory / "my_lab.py").write_text(MY_LAB)
    (directory / "conf" / "extractor" / "mine.yaml").write_text("_target_: my_lab.digest\n")
    return directory


@pytest.fixture
def start_program(workspace: Path) -> Iterator[Callable[..., Program]]:
    """Start the program in the workspace: ``start_program("+extractor=mine", "run=drain")``."""
    running: list[Program] = []

    def start(*arguments: str, module: str = "ray_reproducer", **environment: str) -> Program:
        log = workspace.parent / f"stderr{len(running)}.txt"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=workspace,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        running.append(Program(process, log))
        return running[-1]

    yield start
    for program in running:
        program.kill()


@pytest.fixture
def read_committed(bootstrap_servers: str) -> Callable[[str], list[RecordSeen]]:
    """Read a topic from its beginning to its end as a reader with read_committed sees it."""

    def read(topic: str) -> list[RecordSeen]:
        consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"test.reader.{uuid.uuid4().hex}",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        try:
            return _read_all(consumer, topic)
        finally:
            consumer.close()

    return read


def _read_all(consumer: Consumer, topic: str) -> list[RecordSeen]:
    description = consumer.list_topics(topic, timeout=READ_TIMEOUT_S).topics[topic]
    open_partitions = set(description.partitions)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in open_partitions])
    records: list[RecordSeen] = []
    while open_partitions:
        message = consumer.poll(READ_TIMEOUT_S)
        assert message is not None, f"{topic}: no answer within {READ_TIMEOUT_S} s"
        error = message.error()
        if error is None:
            records.append(RecordSeen((message.key() or b"").decode(), json.loads(message.value() or b"null")))
        elif error.code() == KafkaError._PARTITION_EOF:
            open_partitions.discard(message.partition())
        elif error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise KafkaException(error)
    return records


def committed_and_ends(servers: str, group: str, topic: str) -> tuple[dict[int, int], dict[int, int]]:
    """What a group has committed of a topic, and where the partitions end, those that hold nothing left out."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": group})
    try:
        numbers = consumer.list_topics(topic, timeout=READ_TIMEOUT_S).topics[topic].partitions
        partitions = [TopicPartition(topic, number) for number in numbers]
        committed = {p.partition: p.offset for p in consumer.committed(partitions, timeout=READ_TIMEOUT_S)}
        ends = {p.partition: consumer.get_watermark_offsets(p, timeout=READ_TIMEOUT_S)[1] for p in partitions}
    finally:
        consumer.close()
    return {p: committed[p] for p, end in ends.items() if end}, {p: end for p, end in ends.items() if end}


def write_files(root: Path, files: Files) -> list[Path]:
    """Write files below a directory; return where they are."""
    paths = [root / name for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return paths


def function_of(workspace: Path, name: str) -> Callable[[Any], dict[str, Any]]:
    """Import a function of the user's module, to be called here."""
    spec = importlib.util.spec_from_file_location("my_lab", workspace / "my_lab.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[Any], dict[str, Any]] = getattr(module, name)
    return function


def local_results(root: Path, function: Callable[[Any], dict[str, Any]], paths: Sequence[Path]) -> dict[str, Any]:
    """Run a user's function on files as they are on disk: relative path -> what it returns."""
    from ray_reproducer.core.chunk import FileVersion
    from ray_reproducer.data_file import DataFile

    results: dict[str, Any] = {}
    for path in paths:
        relative = path.relative_to(root)
        subdir = "" if relative.parent == Path() else relative.parent.as_posix()
        version = FileVersion(subdir, path.name, "", bytes(64), 1, path.stat().st_mtime)
        results[relative.as_posix()] = function(DataFile(version, [path.read_bytes()], root=root))
    return results
