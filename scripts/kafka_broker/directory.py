"""A broker's directory: its settings, its log, its data, and what is written down of its process."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from kafka_broker.waiting import KafkaScriptError, wait_for

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ray_reproducer"
_LOCK_TIMEOUT_S = 600.0  # somebody may be fetching the jars over a slow line


@dataclass(frozen=True)
class Broker:
    """A broker of ours: what ``broker.json`` in its directory holds, and what ``status --json`` shows."""

    port: int
    controller_port: int
    pid: int
    start_ticks: int  # since boot, as the kernel counts: with the pid it names one process and no other

    @property
    def bootstrap_servers(self) -> str:
        """What a client's ``bootstrap.servers`` is set to."""
        return f"127.0.0.1:{self.port}"


def default_directory(port: int) -> Path:
    """Return where the broker of a port keeps its data if no directory was named."""
    return CACHE / "kafka" / f"broker-{port}"


def properties_path(directory: Path) -> Path:
    """Return the settings file, whose path in the command line is the broker's identity."""
    return directory / "server.properties"


def log_path(directory: Path) -> Path:
    """Return the broker's log."""
    return directory / "broker.log"


def read_record(directory: Path) -> Broker | None:
    """Return what was written down of the directory's broker, None if nothing that can be read."""
    try:
        return Broker(**json.loads((directory / "broker.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_record(directory: Path, broker: Broker) -> None:
    """Write it down, whole or not at all."""
    partial = directory / "broker.json.partial"
    partial.write_text(json.dumps(asdict(broker)))
    partial.replace(directory / "broker.json")


def port_in_settings(directory: Path) -> int | None:
    """Return the port of a broker of which nothing else was written down."""
    try:
        settings = properties_path(directory).read_text()
    except FileNotFoundError:
        return None
    match = re.search(r"^listeners=PLAINTEXT://127\.0\.0\.1:(\d+)", settings, re.MULTILINE)
    return int(match.group(1)) if match else None


def forget_record(directory: Path) -> None:
    """Remove what was written down of a process that is gone."""
    (directory / "broker.json").unlink(missing_ok=True)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one of us at a time; the kernel lets go when the process ends, however it ends."""
    directory = CACHE / "locks"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / hashlib.sha256(name.encode()).hexdigest()[:16]).open("w") as file:

        def free() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        if not wait_for(free, _LOCK_TIMEOUT_S):
            raise KafkaScriptError(f"another scripts/kafka holds the lock of {name}: see `fuser {file.name}`")
        yield
