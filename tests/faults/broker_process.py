"""A broker that is started, stopped, killed and frozen: `scripts/kafka` with a directory and settings of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kafka_broker.network import in_use
from kafka_broker.process import start_ticks
from tests.waiting import wait_until

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "kafka"
START_S: Final = 150.0
"""scripts/kafka itself gives a broker 120 s to come up."""
ANSWER_S: Final = 30.0
_PORTS: Final = range(20_000, 32_000)
"""Below those that the system gives to connections: nobody takes them while the broker is down."""


class BrokerProcess:
    """See the module's head. After a restart it is the same broker: data, port and settings stay.

    Args:
        directory: where its data are.
        port: where it listens.
        settings: NAME=VALUE.
    """

    def __init__(self, directory: Path, port: int, settings: Sequence[str]) -> None:
        self.directory, self.port = directory, port
        self._settings = settings
        self.pid = 0

    def start(self) -> None:
        """Start it, or start it again; returns when it answers."""
        settings = [argument for setting in self._settings for argument in ("--set", setting)]
        self.pid = int(json.loads(self._script("start", "--port", str(self.port), "--json", *settings))["pid"])

    def stop(self) -> None:
        """SIGTERM: it says good-bye to its clients."""
        self._script("stop")

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not self.is_running(), ANSWER_S, "the end of the broker")

    def freeze(self) -> None:
        """SIGSTOP: its connections stay, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def is_running(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self.pid != 0 and start_ticks(self.pid) is not None

    def end(self) -> None:
        """End it, whatever its state."""
        if self.is_running():
            self.thaw()
        self._script("stop")

    def _script(self, command: str, *arguments: str) -> str:
        call = [sys.executable, str(SCRIPT), command, "--dir", str(self.directory), *arguments]
        done = subprocess.run(
            call, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_S, check=False
        )
        assert done.returncode == 0, f"scripts/kafka {command}: {done.stderr}"
        return done.stdout


def free_ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        port = random.choice(_PORTS)
        if not in_use(port):
            found.add(port)
    return list(found)
