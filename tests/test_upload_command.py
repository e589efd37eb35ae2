"""``python -m ray_reproducer.upload``: what it prints and how it ends. The rules are those at the head of upload.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_reproducer.command_help import upload_help
from ray_reproducer.kafka import admin
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.embedded import EmbeddedCluster

ROOT = Path(__file__).parents[1]
WAIT_S = 50.0


@pytest.fixture
def servers() -> Iterator[str]:
    """An embedded cluster with the topic raw; it answers other processes too."""
    cluster = EmbeddedCluster()
    address = cluster.start()
    admin.ensure_topic(ClientConfigs.from_settings({"bootstrap.servers": address}), "raw")
    yield address
    cluster.close()


def _start(servers: str, directory: Path, *overrides: str) -> subprocess.Popen[str]:
    settings = (f"upload.path={directory}", "topics.source=raw", f"kafka.bootstrap.servers={servers}", *overrides)
    return subprocess.Popen(
        [sys.executable, "-m", "ray_reproducer.upload", *settings],
        cwd=directory.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(servers: str, directory: Path, *overrides: str) -> tuple[int, str, str]:
    process = _start(servers, directory, *overrides)
    out, err = process.communicate(timeout=WAIT_S)
    return process.returncode, out, err


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with three files."""
    directory = tmp_path / "tree"
    (directory / "sub").mkdir(parents=True)
    (directory / "a.csv").write_bytes(b"x" * 3000)
    (directory / "sub/b.csv").write_bytes(b"y")
    (directory / "sub/c.log").write_bytes(b"z")
    return directory


def test_all_sent(servers: str, tree: Path) -> None:
    code, out, err = _run(servers, tree, "upload.chunk_size=1000", r"upload.filepath_regex='.*\.csv'")
    assert code == 0, err
    assert out == ""
    assert "2 files sent to the topic raw: 3 kB, 4 messages" in err
    assert "1 file left out by upload.filepath_regex" in err
    assert sorted(path.name for path in tree.parent.iterdir()) == ["tree"], "nothing is written anywhere"


def test_rule_1_a_failure_is_named_and_ends_in_1(servers: str, tree: Path) -> None:
    Path(os.fsdecode(os.fsencode(tree) + b"/b\xff")).write_bytes(b"x")
    code, _, err = _run(servers, tree)
    assert code == 1
    assert r"FAILED b\xff: its name is not UTF-8" in err
    assert "3 files sent" in err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("upload.pth=x",), "upload.path"),
        (("upload.chunk_size=0",), "upload.chunk_size"),
        (("producer.acks=1",), "acks"),
        (("producer.linger.mss=1",), "linger.ms"),
        (("upload.filepath_regex='('",), "upload.filepath_regex=( is no regular expression"),
        (("kafka.sasl.password=literal",), "kafka.sasl.password"),
        (("kafka=embedded",), "nobody could read what was sent"),
        (("kafka.embedded=true",), "nobody could read what was sent"),
        (("run=drain",), "An upload only sends files"),
    ],
)
def test_rule_1_wrong_settings_end_in_2(servers: str, tree: Path, overrides: tuple[str, ...], said: str) -> None:
    code, _, err = _run(servers, tree, *overrides)
    assert (code, "Traceback" in err) == (2, False), err
    assert said in err


def test_rule_1_the_help_names_every_exit_code() -> None:
    _, _, after = upload_help().partition("Exit codes")
    said = " ".join(after.split())
    codes = "0 all well, 1 a file failed, or error of broker or topic, 2 wrong settings, 130 stopped by Ctrl-C, 143"
    assert said.startswith(codes)


def test_a_missing_topic_is_not_made_if_that_is_not_wanted(servers: str, tree: Path) -> None:
    code, _, err = _run(servers, tree, "topics.source=other", "topics.create=false")
    assert (code, "Traceback" in err) == (1, False)
    assert "other does not exist" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_rule_2_a_signal_ends_it_and_says_how_far_it_came(
    servers: str, tree: Path, number: signal.Signals, code: int
) -> None:
    with (tree / "sub/huge").open("wb") as huge:
        huge.truncate(50_000_000_000)  # takes no room, and a minute to hash
    process = _start(servers, tree)
    assert process.stderr is not None
    assert "4 files to send" in process.stderr.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == code, err
    assert "Stopped before the end" in err
    assert "Traceback" not in err
