"""All views at once, on a real run: what they say is exactly what is on the topics; and a person at the keyboard."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.observability.registry_format import values
from tests.e2e.conftest import write_files
from tests.kafka.reading import read_all
from tests.program import EXIT_DEADLINE_S, Program
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]
CHUNK_BYTES = 1000
FILES = {
    "root.csv": b"a,b\n" * 10,
    "sub/large.bin": bytes(5 * CHUNK_BYTES + 1),
    "sub/it's; one.csv": b"x" * CHUNK_BYTES,
    "bad.csv": b"no good",
}
FAILING = """

def digest_or_fail(datafile):
    if datafile.filename == "bad.csv":
        raise ValueError("it is bad")
    return digest(datafile)
"""
HEARTBEAT_INTERVAL_S = 1


def rows(path: Path) -> list[list[str | int]]:
    return [values(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]


@pytest.fixture
def arguments(workspace: Path, bootstrap_servers: str, unique_topic: Callable[..., str]) -> list[str]:
    """A run with all views, the topics of the heartbeats and of the log among its own."""
    with (workspace / "my_lab.py").open("a") as module:
        module.write(FAILING)
    (workspace / "conf" / "extractor" / "mine.yaml").write_text("_target_: my_lab.digest_or_fail\n")
    topics = {name: unique_topic(name, partitions=0) for name in ("source", "results", "heartbeats", "log")}
    return [
        "+extractor=mine",
        f"kafka.bootstrap.servers={bootstrap_servers}",
        f"topics.source={topics['source']}",
        f"topics.results={topics['results']}",
        "group_id=views",
        f"logs_dir={workspace / 'LOGS'}",
        f"heartbeat.topic={topics['heartbeats']}",
        f"heartbeat.interval={HEARTBEAT_INTERVAL_S}",
        f"log.topic={topics['log']}",
        "log.program_id=lab 1",
    ]


def topic(arguments: list[str], key: str) -> str:
    return next(argument.partition("=")[2] for argument in arguments if argument.startswith(f"{key}="))


def test_what_the_views_say_is_what_is_on_the_topics(
    workspace: Path, start_program: Callable[..., Program], arguments: list[str], bootstrap_servers: str
) -> None:
    write_files(workspace / "data", FILES)
    upload = [f"upload.path={workspace / 'data'}", f"upload.chunk_size={CHUNK_BYTES}"]
    code, _, err = start_program(*arguments, *upload, "run=drain").wait()
    assert code == 3, err

    clients = ClientConfigs.from_settings({"bootstrap.servers": bootstrap_servers})
    results = read_all(clients, topic(arguments, "topics.results"))
    beats = read_all(clients, topic(arguments, "heartbeat.topic"))
    assert {beat.key() for beat in beats} == {b"mine_heartbeat"}
    assert len(beats) >= 3
    assert len(results) == 3
    totals: Counter[str] = Counter()
    for beat in beats:
        counts = json.loads(beat.value() or b"")
        del counts["timestamp"]
        totals.update(counts)
    content = sum(map(len, FILES.values()))
    assert dict(totals) == {
        "n_messages_read": 9,
        "n_messages_processed": 9,
        "n_messages_produced": len(results),
        "n_bytes_read": content,
        "n_bytes_processed": content,
        "n_bytes_produced": sum(len(result.value() or b"") for result in results),
    }

    logs = workspace / "LOGS"
    registry = logs / f"results_produced_to_{topic(arguments, 'topics.results')}.csv"
    in_progress = logs / f"consuming_from_{topic(arguments, 'topics.source')}_in_progress_by_views.csv"
    done = {path: n_chunks for _, path, n_chunks, _, _ in rows(registry)}
    assert done == {"root.csv": 1, "sub/large.bin": 6, "sub/it's; one.csv": 1}
    assert len(rows(registry)) == 3
    assert [row[1:4] for row in rows(in_progress)] == [["bad.csv", "computing_result_message_failed", 1]]
    assert "] ERROR: bad.csv: ValueError: it is bad" in (logs / "mine.log").read_text()
    (log,) = read_all(clients, topic(arguments, "log.topic"))
    assert log.key() == b"lab 1_log"
    assert any("it is bad" in line for line in json.loads(log.value() or b"")["messages"])

    # Everything deleted, and a person at the keyboard of the next run: the registries are as before.
    before = sorted(rows(registry)), rows(in_progress)
    shutil.rmtree(logs)
    code, err = at_the_keyboard(workspace, arguments, registry)
    assert code == 0, err
    assert (sorted(rows(registry)), rows(in_progress)) == before
    assert "0 files done" in err
    assert "q: finishing what is in flight" in err


def at_the_keyboard(workspace: Path, arguments: list[str], registry: Path) -> tuple[int, str]:
    """Run the program with a terminal of its own; when the registry is there again, type c, then q."""
    master, slave = pty.openpty()
    log = workspace.parent / "terminal.txt"

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray_reproducer", *arguments],
            cwd=workspace,
            stdin=slave,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
            text=True,
            preexec_fn=take_terminal,  # noqa: PLW1509 - no other thread of the tests holds a lock that this needs
        )
    program = Program(process, log)
    os.close(slave)
    try:
        wait_until(lambda: registry.exists() and len(rows(registry)) == 3, EXIT_DEADLINE_S, "the registry")
        os.write(master, b"c\n")
        wait_until(lambda: "0 files done" in program.err(), EXIT_DEADLINE_S, "the counts")
        os.write(master, b"q\n")
        return process.wait(EXIT_DEADLINE_S), program.err()
    finally:
        program.kill()
        os.close(master)
