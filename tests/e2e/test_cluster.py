"""On a Ray cluster that is there already: as a submitted job, and attached from outside."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.upload import upload_directory
from tests.e2e.conftest import Files, Program, RecordSeen, function_of, local_results, write_files
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

DEADLINE_S = 180.0
OBJECT_STORE_BYTES = 200_000_000
PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
)
FILES: Files = {"one.txt": b"1\n", "a/b/größe.bin": bytes(range(256)) * 5000, "a/two.txt": b"1\n2\n"}
MY_LAB = """
import hashlib

from my_helper import line_count


def digest(datafile):
    data = datafile.bytestring
    return {
        "path": str(datafile.relative_filepath),
        "sha256": hashlib.sha256(data).hexdigest(),
        "lines": line_count(data),
    }


def digest_and_code(datafile):
    return {**digest(datafile), "code": __file__}
"""
MY_HELPER = "def line_count(data):\n    return data.count(10)\n"


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster of the test's own."""

    address: str
    dashboard: str
    environment: dict[str, str]


@pytest.fixture(name="cluster", scope="module")
def _cluster() -> Iterator[Cluster]:
    """One node; its files, ports and processes are its own, and end with it."""
    # Not in pytest's directory: the names of Ray's sockets may have 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="ray_", dir="/tmp"))
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    programs = Path(sys.executable).parent
    environment = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [str(programs / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2"]
    command += [f"--temp-dir={directory}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    log = directory / "start.txt"
    with log.open("w") as output:
        head = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        cluster = Cluster(f"127.0.0.1:{ports['port']}", f"127.0.0.1:{ports['dashboard-port']}", environment)
        wait_until(lambda: takes_jobs(cluster, head, log), DEADLINE_S, "the cluster")
        yield cluster
    finally:
        end_tree(head)
        shutil.rmtree(directory, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens to; all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def takes_jobs(cluster: Cluster, head: subprocess.Popen[bytes], log: Path) -> bool:
    """Whether the cluster answers questions about jobs."""
    assert head.poll() is None, log.read_text()
    connection = http.client.HTTPConnection(cluster.dashboard, timeout=DEADLINE_S)
    try:
        connection.request("GET", "/api/jobs/")
        return connection.getresponse().status == http.client.OK
    except ConnectionError:
        return False
    finally:
        connection.close()


def submit(cluster: Cluster, working_dir: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """Run ``ray job submit`` as a person would, in the directory that is sent along."""
    ray = str(Path(sys.executable).with_name("ray"))
    address = f"http://{cluster.dashboard}"
    command = [ray, "job", "submit", "--address", address, "--working-dir", ".", "--", *program]
    return subprocess.run(
        command,
        env=cluster.environment,
        cwd=working_dir,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=DEADLINE_S,
        check=False,
    )


def end_tree(head: subprocess.Popen[bytes]) -> None:
    """End a cluster's processes, and only these."""
    tree = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
    head.terminate()
    _, alive = psutil.wait_procs(tree, timeout=10)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=DEADLINE_S)
    head.wait(DEADLINE_S)


@pytest.fixture(name="arguments")
def _arguments(
    workspace: Path, bootstrap_servers: str, unique_topic: Callable[..., str], data: Path
) -> tuple[list[str], str]:
    """What both ways have in common, and the results topic. The files are on the source topic."""
    (workspace / "my_lab.py").write_text(MY_LAB)
    (workspace / "my_helper.py").write_text(MY_HELPER)
    source, results = unique_topic("cluster.source", partitions=3), unique_topic("cluster.results")
    upload_directory(ClientConfigs({"bootstrap.servers": bootstrap_servers}), source, data)
    arguments = ["+extractor=mine", "ray=cluster", f"kafka.bootstrap.servers={bootstrap_servers}", "run=drain"]
    return [*arguments, f"topics.source={source}", f"topics.results={results}"], results


@pytest.fixture(name="data")
def _data(workspace: Path) -> Path:
    write_files(workspace.parent / "data", FILES)
    return workspace.parent / "data"


@pytest.fixture(name="expected")
def _expected(workspace: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Path -> what the user's function returns here."""

    def expected() -> dict[str, Any]:
        monkeypatch.syspath_prepend(str(workspace))
        return local_results(data, function_of(workspace, "digest"), [data / name for name in FILES])

    return expected


def by_path(records: Sequence[RecordSeen]) -> dict[str, Any]:
    """Path -> result; each must be there once."""
    results = {record.value["path"]: record.value for record in records}
    assert len(results) == len(records)
    return results


def test_a_submitted_job_needs_only_the_users_directory(
    cluster: Cluster,
    workspace: Path,
    arguments: tuple[list[str], str],
    read_committed: Callable[[str], list[RecordSeen]],
    expected: Callable[[], dict[str, Any]],
) -> None:
    job = submit(cluster, workspace, "python", "-m", "ray_reproducer", *arguments[0])
    assert job.returncode == 0, job.stdout
    assert f"{len(FILES)} results on {arguments[1]}, 0 dead letters" in job.stdout
    assert by_path(read_committed(arguments[1])) == expected()


def test_attached_from_outside_the_code_is_sent_along(
    cluster: Cluster,
    workspace: Path,
    arguments: tuple[list[str], str],
    start_program: Callable[..., Program],
    read_committed: Callable[[str], list[RecordSeen]],
    expected: Callable[[], dict[str, Any]],
) -> None:
    (workspace / "conf" / "extractor" / "mine.yaml").write_text("_target_: my_lab.digest_and_code\n")
    program = start_program(*arguments[0], f"ray.address={cluster.address}", RAY_AUTH_MODE="disabled")
    code, out, err = program.wait()
    assert (code, out) == (0, ""), err
    seen = by_path(read_committed(arguments[1]))
    code_used = {result.pop("code") for result in seen.values()}
    assert seen == expected()
    # On another machine there is no such directory: the workers must not need the one of this machine.
    assert not any(Path(path).is_relative_to(workspace) for path in code_used)
