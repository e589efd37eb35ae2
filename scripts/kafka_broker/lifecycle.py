"""Start, stop and look at the broker of a directory."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kafka_broker.directory import (
    Broker,
    forget_record,
    locked,
    log_path,
    port_in_settings,
    properties_path,
    read_record,
    write_record,
)
from kafka_broker.jars import find_jars, find_java
from kafka_broker.network import answers, free_port, in_use
from kafka_broker.process import end_process, find_process, start_ticks
from kafka_broker.waiting import LOG_TAIL_LINES, Interruption, KafkaScriptError, run, say, wait_for

_HEAP = "1g"  # enough for 10 GB through a topic: Kafka's data are in the page cache, not on the heap
_START_TIMEOUT_S = 120.0  # 4-5 s on an idle machine; on a busy one it can take a minute
_REVIVAL_TIMEOUT_S = 10.0  # for a broker that runs already to answer
_PORT_ATTEMPTS = 3
_CLUSTER_ID = "cmF5X3JlcHJvZHVjZXIAAA"  # any 16 bytes, base64
_TEMPLATES = Path(__file__).resolve().parent


def start(port: int, directory: Path, settings: Sequence[str] = ()) -> Broker:
    """Start a broker on the directory, or return the one that runs there.

    Args:
        port: where clients connect; 0: any free one.
        directory: absolute; made if missing.
        settings: of the broker, NAME=VALUE, beside or instead of those in ``server.properties``; ``{port}`` and
            ``{controller_port}`` in them are replaced. A broker that runs already keeps those it was started with.

    Raises:
        KafkaScriptError: something is missing, the port is taken, or the broker does not come up.
        SystemExit: interrupted; no broker is left behind.
    """
    with locked(str(directory)):
        running = _running(directory)
        if running is not None:
            if port not in (0, running.port):
                raise KafkaScriptError(f"the broker of {directory} runs already, on port {running.port}: stop it first")
            return running
        java, libs = find_java(), find_jars()
        if port:
            if in_use(port):
                raise KafkaScriptError(f"port {port} is in use by another program.\nTake another: --port N or --port 0")
            return _launch(java, libs, port, directory, settings)
        return _launch_on_free_port(java, libs, directory, settings)


def _running(directory: Path) -> Broker | None:
    """Return the directory's broker if it is well; one that is not is ended."""
    record = read_record(directory)
    pid = find_process(directory, record)
    if pid is None:
        return None
    if record is not None and record.pid == pid and wait_for(lambda: answers(record.port), _REVIVAL_TIMEOUT_S):
        return record
    say("a broker is left over that does not answer, or whose start did not end: stopping it")
    end_process(pid, directory)
    return None


def _launch_on_free_port(java: str, libs: Path, directory: Path, settings: Sequence[str]) -> Broker:
    """Launch, again with another port if somebody was faster to take the one that was free."""
    for attempts_left in reversed(range(_PORT_ATTEMPTS)):
        try:
            return _launch(java, libs, free_port(), directory, settings)
        except KafkaScriptError as error:
            if attempts_left == 0 or "Address already in use" not in str(error):
                raise
    raise AssertionError("the last attempt returns or raises")


def _launch(java: str, libs: Path, port: int, directory: Path, settings: Sequence[str]) -> Broker:
    """Prepare the directory, start the process and wait until it answers; if it does not, end it."""
    controller_port = free_port()
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    template = (_TEMPLATES / "server.properties").read_text()
    ours = template.format(port=port, controller_port=controller_port, data_dir=data)
    users = [_fill_in(setting, port, controller_port) for setting in settings]
    # Of two lines with one name the last counts.
    properties_path(directory).write_text("\n".join([ours.rstrip(), *users, ""]))
    classpath = ["-cp", f"{libs}/*"]
    if not (data / "meta.properties").exists():
        format_data = [java, "-Xmx256m", *classpath, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID]
        run([*format_data, "-c", str(properties_path(directory))], what="formatting the data directory", timeout_s=120)
    command = [java, f"-Xmx{_HEAP}", f"-Dlog4j2.configurationFile={_TEMPLATES / 'log4j2.properties'}", *classpath]
    command += ["kafka.Kafka", str(properties_path(directory))]
    Interruption.check()
    with log_path(directory).open("wb") as log:
        # A session of its own: Ctrl-C in the terminal is not for the broker.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, start_new_session=True
        )
    try:
        broker = Broker(port, controller_port, process.pid, start_ticks(process.pid) or 0)
        write_record(directory, broker)
        _wait_until_it_answers(process, port, directory)
    except BaseException:
        end_process(process.pid, directory)
        process.wait()
        forget_record(directory)
        raise
    return broker


def _fill_in(setting: str, port: int, controller_port: int) -> str:
    """Put the ports in. Not with ``str.format``: settings may have braces of their own."""
    return setting.replace("{port}", str(port)).replace("{controller_port}", str(controller_port))


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    if wait_for(lambda: process.poll() is not None or answers(port), _START_TIMEOUT_S) and process.poll() is None:
        return
    state = "does not answer" if process.poll() is None else f"ended with exit code {process.returncode}"
    tail = log_path(directory).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    raise KafkaScriptError("\n".join([f"the broker {state}; the end of {log_path(directory)}:", *tail]))


def stop(directory: Path, *, remove: bool) -> bool:
    """End the directory's broker if there is one.

    Args:
        directory: absolute; need not exist.
        remove: remove the directory too.

    Returns:
        Whether there was one.

    Raises:
        KafkaScriptError: its process does not end.
    """
    with locked(str(directory)):
        pid = find_process(directory, read_record(directory))
        if pid is not None:
            end_process(pid, directory)
        forget_record(directory)
        if remove and directory.exists():
            shutil.rmtree(directory)
        return pid is not None


def status(directory: Path) -> dict[str, Any]:
    """Return what can be said of the directory's broker, as ``status --json`` prints it."""
    record = read_record(directory)
    pid = find_process(directory, record)
    port = record.port if record is not None else port_in_settings(directory)
    return {
        "running": pid is not None,
        "answers": pid is not None and port is not None and answers(port),
        "bootstrap_servers": f"127.0.0.1:{port}" if pid is not None and port is not None else None,
        "pid": pid,
        "directory": str(directory),
        "log": str(log_path(directory)),
    }
