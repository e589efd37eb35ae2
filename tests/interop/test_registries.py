"""OpenMSIStream reads the registries that this program leaves, and this program goes on with OpenMSIStream's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ray_reproducer.core.open_files import OpenFile
from ray_reproducer.core.outcome import Facts, Outcome
from ray_reproducer.observability.registries import Registries, RegistryNames
from tests.observability.test_registries import in_progress, registered

pytestmark = pytest.mark.timeout(300)
NAMES = RegistryNames("raw", "metadata", "dead", "group", clients=None)
NOW_MS = 1_795_452_492_000
PATHS = ("root.csv", "sub/deep/a; b.csv", "中文 ä.txt", "it's.csv")

THEIRS = """
import json, pathlib, sys
from openmsistream.data_file_io.actor.file_registry.stream_handler_registries import StreamReproducerRegistry

registry = StreamReproducerRegistry(pathlib.Path(sys.argv[1]), "raw", "metadata", "group")
succeeded = registry.succeeded_table.objects
in_progress = registry.in_progress_table
print(json.dumps({
    "succeeded": [[o.filename, o.rel_filepath.as_posix(), o.n_chunks, o.processed_at.isoformat()] for o in succeeded],
    "in_progress": [
        [in_progress.get_entry_attrs(a)[name] for name in ("filename", "status", "n_chunks")]
        for a in in_progress.obj_addresses
    ],
}))
registry.register_file_results_produced("theirs.csv", pathlib.Path("sub/theirs.csv"), 4, "1")
registry.consolidate_succeeded_files()
"""


def done(path: str, reason: str = "") -> Outcome:
    facts = Facts(n_messages=3, first_ms=NOW_MS - 60_000, newest_ms=NOW_MS, done_ms=NOW_MS)
    return Outcome(path, "dead_letter" if reason else "result", "k", b"", reason=reason, facts=facts)


def test_each_program_reads_the_registries_of_the_other(openmsistream_python: Path, tmp_path: Path) -> None:
    ours = Registries(tmp_path, NAMES)
    ours.outcomes([done(path) for path in PATHS])
    ours.outcomes([done("bad.csv", "hash_mismatch")])
    ours.open_files([OpenFile("open.csv", 7, NOW_MS, NOW_MS)])
    ours.update(last=True)

    command = [str(openmsistream_python), "-c", THEIRS, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout.strip().splitlines()[-1])
    assert [row[1] for row in seen["succeeded"]] == list(PATHS)
    assert [row[0] for row in seen["succeeded"]] == [path.rpartition("/")[2] for path in PATHS]
    assert {row[2] for row in seen["succeeded"]} == {3}
    assert seen["in_progress"] == [["bad.csv", "mismatched_hash", 3], ["open.csv", "in_progress", 7]]

    later = Registries(tmp_path, NAMES)
    later.outcomes([done("again.csv")])
    later.update(last=True)
    assert registered(later) == [*PATHS, "sub/theirs.csv", "again.csv"]
    assert in_progress(later) == {"bad.csv": "mismatched_hash"}
