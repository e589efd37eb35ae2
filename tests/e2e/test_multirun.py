"""Several extractors on one topic, with one command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_reproducer.extractors.file_info import file_info
from ray_reproducer.extractors.tabular import tabular
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.upload import upload_directory
from tests.e2e.conftest import Files, Program, RecordSeen, committed_and_ends, local_results, write_files

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]

FILES: Files = {
    "one.csv": b"a,b\n1,2\n3,4\n",
    "sub/two.csv": b"x\n" + b"1.5\n" * 1000,
    "sub/lines.jsonl": b'{"k": 1}\n',
}
EXTRACTORS: dict[str, Callable[[Any], dict[str, Any]]] = {"file_info": file_info, "tabular": tabular}


def as_json(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)


def test_each_extractor_sees_each_file_in_a_group_of_its_own(
    workspace: Path,
    start_program: Callable[..., Program],
    bootstrap_servers: str,
    unique_topic: Callable[..., str],
    read_committed: Callable[[str], list[RecordSeen]],
) -> None:
    source, results = unique_topic("multi.source", partitions=2), unique_topic("multi.results")
    data = workspace.parent / "data"
    paths = write_files(data, FILES)
    upload_directory(ClientConfigs({"bootstrap.servers": bootstrap_servers}), source, data)
    arguments = [f"kafka.bootstrap.servers={bootstrap_servers}", f"topics.source={source}", f"topics.results={results}"]
    code, out, err = start_program("-m", f"+extractor={','.join(EXTRACTORS)}", *arguments, "run=drain").wait()

    assert (code, out) == (0, ""), err
    assert err.index("Job 1: +extractor=file_info") < err.index("Job 2: +extractor=tabular")
    seen = [record.value for record in read_committed(results)]
    expected = [value for function in EXTRACTORS.values() for value in local_results(data, function, paths).values()]
    assert len(seen) == len(expected) == len(FILES) * len(EXTRACTORS)
    assert sorted(map(as_json, seen)) == sorted(map(as_json, expected))
    for extractor in EXTRACTORS:
        committed, ends = committed_and_ends(bootstrap_servers, f"ray_reproducer.{source}.{extractor}", source)
        assert committed == ends
    assert {path.name for path in workspace.iterdir()} == {"conf", "my_lab.py"}, "nothing is left behind"
