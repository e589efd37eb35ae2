"""On a Ray cluster that is there already: as a submitted job, and attached from outside."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.upload import upload_directory
from tests.e2e.conftest import Files, Program, RecordSeen, function_of, local_results, write_files
from tests.ray_nodes import RayNodes
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

DEADLINE_S = 180.0
OBJECT_STORE_BYTES = 200_000_000
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


@pytest.fixture(name="cluster", scope="module")
def _cluster() -> Iterator[RayNodes]:
    """One node; its files, ports and processes are its own, and end with it."""
    cluster = RayNodes({}, OBJECT_STORE_BYTES, head_cores=2, takes_jobs=True)
    try:
        wait_until(lambda: takes_jobs(cluster), DEADLINE_S, "the cluster")
        yield cluster
    finally:
        cluster.close()


def takes_jobs(cluster: RayNodes) -> bool:
    """Whether the cluster answers questions about jobs."""
    assert not cluster.head.has_ended(), cluster.head.log.read_text()
    connection = http.client.HTTPConnection(cluster.jobs_address, timeout=DEADLINE_S)
    try:
        connection.request("GET", "/api/jobs/")
        return connection.getresponse().status == http.client.OK
    except ConnectionError:
        return False
    finally:
        connection.close()


def submit(cluster: RayNodes, working_dir: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """Run ``ray job submit`` as a person would, in the directory that is sent along."""
    ray = str(Path(sys.executable).with_name("ray"))
    address = f"http://{cluster.jobs_address}"
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
    cluster: RayNodes,
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
    cluster: RayNodes,
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
