"""The rules of scripts/kafka (scripts/kafka_broker/__init__.py), with a program that plays Java and the broker.

The real broker is tested by every other test: it is the one that scripts/test starts.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "kafka"
DEADLINE_S = 30.0
JAVA = """#!{python}
import os, re, socket, struct, sys
if "-version" in sys.argv:
    sys.exit(print('openjdk version "{version}"', file=sys.stderr))
if "kafka.Kafka" in sys.argv:
    if os.environ["FAKE_BROKER"] == "dies":
        sys.exit("the disk is on fire")
    port = int(re.search(r"listeners=PLAINTEXT://127.0.0.1:([0-9]+)", open(sys.argv[-1]).read()).group(1))
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            connection, _ = server.accept()
            if os.environ["FAKE_BROKER"] == "answers":
                connection.recv(1024)
                connection.sendall(struct.pack(">iiii", 12, 1, 0, 1))
            connection.close()
"""


class Script:
    """scripts/kafka in a world of its own, with a directory for one broker."""

    def __init__(self, world: Path) -> None:
        self.directory = world / "broker"
        self.environment = {**os.environ, "JAVA_HOME": str(world), "XDG_CACHE_HOME": str(world / "cache")}
        (world / "cache" / "ray_reproducer" / "kafka-4.3.1" / "libs").mkdir(parents=True)
        (world / "bin").mkdir()
        self.java = world / "bin" / "java"
        self.install_java("17.0.1")
        self.broker("answers")

    def install_java(self, version: str) -> None:
        self.java.write_text(JAVA.format(python=sys.executable, version=version))
        self.java.chmod(0o755)

    def broker(self, behaviour: str) -> None:
        self.environment["FAKE_BROKER"] = behaviour

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(SCRIPT), *arguments, "--dir", str(self.directory)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        process = self.popen(*arguments)
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out, err

    def status(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self("status", "--json")[1])
        return state

    def start_that_hangs(self) -> subprocess.Popen[str]:
        """A start whose broker runs, but never answers."""
        self.broker("silent")
        starting = self.popen("start", "--port", "0")
        wait_until(lambda: self.status()["running"], DEADLINE_S, "the broker's process")
        return starting


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    script = Script(tmp_path)
    yield script
    code, _, err = script("stop")
    assert code == 0, err
    assert not script.status()["running"]


def test_a_broker_is_started_seen_and_stopped(script: Script) -> None:
    code, out, err = script("start", "--port", "0", "--json")
    assert code == 0, err
    started = json.loads(out)
    assert started["answers"]
    assert script.status() == started
    assert script("stop") == (0, "stopped\n", "")
    assert script("status")[0] == 1
    assert script("stop") == (0, "no broker was running\n", "")


def test_a_second_start_finds_the_first_ones_broker(script: Script) -> None:
    script("start", "--port", "0")
    first = script.status()
    assert script("start", "--port", "0")[0] == 0
    assert script.status() == first


def test_two_starts_at_once_make_one_broker(script: Script) -> None:
    both = [script.popen("start", "--port", "0", "--json") for _ in range(2)]
    answers = [json.loads(process.communicate(timeout=DEADLINE_S)[0]) for process in both]
    assert answers[0] == answers[1]


def test_another_port_for_a_broker_that_runs_is_refused(script: Script) -> None:
    script("start", "--port", "0")
    code, _, err = script("start", "--port", "1")
    assert code == 1
    assert "runs already, on port" in err


def test_a_port_of_another_program_is_refused(script: Script) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = script("start", "--port", str(port))
    assert code == 1
    assert f"port {port} is in use" in err


def test_a_broker_that_ends_at_once_is_reported_with_its_log(script: Script) -> None:
    script.broker("dies")
    code, _, err = script("start", "--port", "0")
    assert code == 1
    assert "ended with exit code 1" in err
    assert "the disk is on fire" in err


def test_a_java_that_is_too_old_is_named(script: Script) -> None:
    script.install_java("11.0.2")
    script.environment["PATH"] = ""  # no apt-get here
    code, _, err = script("start", "--port", "0")
    assert code == 1
    assert "is Java 11" in err
    assert "default-jre-headless" in err


def test_a_setting_beats_ours_and_knows_the_ports(script: Script) -> None:
    listeners = "listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port},OTHER://127.0.0.1:1"
    code, out, err = script("start", "--port", "0", "--json", "--set", listeners, "--set", "a.b={braces}")
    assert code == 0, err
    port = json.loads(out)["bootstrap_servers"].rpartition(":")[2]
    lines = (script.directory / "server.properties").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert settings["listeners"].startswith(f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://")
    assert settings["listeners"].endswith("OTHER://127.0.0.1:1")
    assert "{" not in settings["listeners"]
    assert settings["a.b"] == "{braces}"


@pytest.mark.parametrize("arguments", [("start", "--set", "no equals sign"), ("status", "--set", "a=b")])
def test_a_setting_that_is_none_is_refused(script: Script, arguments: tuple[str, ...]) -> None:
    code, _, err = script(*arguments)
    assert code == 2
    assert "--set" in err


def test_rule_1_stop_finds_the_broker_of_a_start_that_was_killed(script: Script) -> None:
    starting = script.start_that_hangs()
    starting.kill()
    starting.communicate()
    assert script.status()["running"]
    assert script("stop") == (0, "stopped\n", "")


def test_rule_1_stop_finds_a_broker_of_which_nothing_is_written_down(script: Script) -> None:
    script("start", "--port", "0")
    (script.directory / "broker.json").unlink()
    assert script.status()["answers"]
    assert script("stop") == (0, "stopped\n", "")


@pytest.mark.parametrize("change", [dict.copy, lambda record: {**record, "start_ticks": 0}])
def test_rule_2_another_process_with_the_written_number_is_left_alone(
    script: Script, change: Callable[[dict[str, int]], dict[str, int]]
) -> None:
    script("start", "--port", "0")
    record = json.loads((script.directory / "broker.json").read_text())
    script("stop")
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ticks = int(Path(f"/proc/{bystander.pid}/stat").read_text().rpartition(")")[2].split()[19])
    record = change({**record, "pid": bystander.pid, "start_ticks": ticks})
    (script.directory / "broker.json").write_text(json.dumps(record))
    assert script("stop") == (0, "no broker was running\n", "")
    assert bystander.poll() is None
    bystander.communicate(b"\n", timeout=DEADLINE_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_rule_3_an_interrupted_start_leaves_no_broker(script: Script, number: signal.Signals) -> None:
    starting = script.start_that_hangs()
    starting.send_signal(number)
    starting.communicate(timeout=DEADLINE_S)
    assert starting.returncode == 128 + number
    assert not script.status()["running"]


def test_a_broker_left_over_is_replaced_by_the_next_start(script: Script) -> None:
    starting = script.start_that_hangs()
    starting.kill()
    starting.communicate()
    left_over = script.status()["pid"]
    (script.directory / "broker.json").unlink(missing_ok=True)
    script.broker("answers")
    assert script("start", "--port", "0")[0] == 0
    state = script.status()
    assert state["answers"]
    assert state["pid"] != left_over
