"""The broker's process: told from others by its command line, and ended for certain."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

from kafka_broker.directory import Broker, properties_path
from kafka_broker.waiting import KafkaScriptError

_STOP_TIMEOUT_S = 30.0  # 3 s on an idle machine; then SIGKILL
_KILL_TIMEOUT_S = 10.0


def start_ticks(pid: int) -> int | None:
    """Return when the process was started, None if there is none (a zombie is none)."""
    try:
        # The second field is the name in parentheses, and may hold spaces and parentheses itself.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_broker_of(pid: int, directory: Path) -> bool:
    """Tell whether the process is the broker that was started on this directory."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it ended, or it is somebody else's
        return False
    return b"kafka.Kafka" in arguments and os.fsencode(properties_path(directory)) in arguments


def find_process(directory: Path, broker: Broker | None) -> int | None:
    """Return the pid of the directory's broker, None if there is none."""
    if broker is not None and start_ticks(broker.pid) == broker.start_ticks and is_broker_of(broker.pid, directory):
        return broker.pid
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_broker_of(int(entry.name), directory):
            return int(entry.name)
    return None


def end_process(pid: int, directory: Path) -> None:
    """End a broker: SIGTERM, and SIGKILL if that is not enough.

    Raises:
        KafkaScriptError: it lives on even so.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not is_broker_of(pid, directory):  # checked after opening: the descriptor stays with that process
            return
        for number, timeout_s in ((signal.SIGTERM, _STOP_TIMEOUT_S), (signal.SIGKILL, _KILL_TIMEOUT_S)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            if select.select([descriptor], [], [], timeout_s)[0]:
                return
    finally:
        os.close(descriptor)
    raise KafkaScriptError(f"process {pid} does not end, not even after SIGKILL: look at it with `ps -fp {pid}`")
