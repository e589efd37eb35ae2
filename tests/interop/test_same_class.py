"""One class, its import line apart, run by OpenMSIStream and by this program on the same topic: the same results.

What is on the topic comes from both uploaders. OpenMSIStream's own consumer reads both topics of results.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.upload import upload_directory

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

PROGRAM_S = 150.0
CHUNK_BYTES = 1024
CONFIG = """
[broker]
bootstrap.servers = {servers}

[producer]
key.serializer = StringSerializer
value.serializer = {serializer}

[consumer]
group.id = create_new
auto.offset.reset = earliest
enable.auto.commit = False
key.deserializer = StringDeserializer
value.deserializer = {deserializer}
"""
CLASS = '''
"""A class as users have it: state made once, an argument of its own, the standard library."""
import csv, io, re, statistics, sys
from {package} import MetadataJSONReproducer


class Columns(MetadataJSONReproducer):
    def __init__(self, *args, unit="K", **kwargs):
        super().__init__(*args, **kwargs)
        self.unit = unit
        self.number = re.compile(r"-?[0-9.]+")

    def _get_metadata_dict_for_file(self, datafile):
        text = datafile.bytestring.decode("utf-8")
        rows = [[float(x) for x in self.number.findall(",".join(row))] for row in csv.reader(io.StringIO(text))]
        rows = [row for row in rows if row]
        if not rows:
            raise ValueError("no numbers in " + datafile.filename)
        return {{
            "file": datafile.filename,
            "path": datafile.relative_filepath.as_posix(),
            "subdir": datafile.subdir_str,
            "unit": self.unit,
            "rows": len(rows),
            "means": [statistics.fmean(column) for column in zip(*rows)],
            "nested": {{"odd name \\u00e4 \\u4e2d": [None, True, "naïve"]}},
        }}
'''
RUN = """
import os, pathlib, sys, threading, time
from columns import Columns

config, source, results, enough, output = sys.argv[1:6]
options = {"output_dir": pathlib.Path(output), "mode": "memory", "consumer_group_id": "create_new"}
columns = Columns(config, source, results, unit="mV", **options)
worker = threading.Thread(target=columns.produce_processing_results_for_files_as_read, daemon=True)
worker.start()
while worker.is_alive() and columns.n_results_produced_files < int(enough):
    time.sleep(0.05)
columns.control_command_queue.put("q")
worker.join(60)
columns.close()
os._exit(0 if not worker.is_alive() else 3)
"""
READ = """
import json, pathlib, sys
from openmsistream.kafka_wrapper import OpenMSIStreamConsumer

config, topic, enough = sys.argv[1:4]
consumer = OpenMSIStreamConsumer.from_file(pathlib.Path(config))
consumer.subscribe([topic])
seen = []
while len(seen) < int(enough):
    message = consumer.get_next_message(0.5)
    if message is not None:
        seen.append([message.key(), json.loads(message.value())])
consumer.close()
print(json.dumps(seen))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Tables of one chunk and of many, in the root and below, with names that are no ASCII; one has no numbers."""
    root = tmp_path / "tree"
    tables = {
        "root.csv": "1,2\n3,4\n",
        "deep/er/many.csv": "\n".join(f"{n},{n / 7:.6f},{-n}" for n in range(900)),
        "with space/中文 ä.csv": "# K\n0.5\n0.25\n",
        "deep/bad.csv": "nothing\n",
    }
    for name, text in tables.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


class Side:
    """A directory in which one of the two programs runs the class."""

    def __init__(self, directory: Path, package: str, python: Path, servers: str) -> None:
        directory.mkdir()
        self.directory, self.python, self.servers = directory, python, servers
        (directory / "columns.py").write_text(CLASS.format(package=package), encoding="utf-8")
        (directory / "run.py").write_text(RUN, encoding="utf-8")
        self.config = self.write_config("lab.config", "StringSerializer", "DataFileChunkDeserializer")

    def write_config(self, name: str, serializer: str, deserializer: str) -> Path:
        text = CONFIG.format(servers=self.servers, serializer=serializer, deserializer=deserializer)
        (self.directory / name).write_text(text)
        return self.directory / name

    def call(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(self.directory), "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=PROGRAM_S,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def run(self, source: str, results: str, enough: int) -> None:
        self.call("run.py", str(self.config), source, results, str(enough), str(self.directory / "output"))


def test_both_programs_give_the_same_results_and_their_consumer_reads_ours(
    bootstrap_servers: str,
    unique_topic: Callable[..., str],
    openmsistream_python: Path,
    tree: Path,
    tmp_path: Path,
) -> None:
    source, our_results, their_results = unique_topic("raw", 3), unique_topic("ours", 2), unique_topic("theirs", 2)
    clients = ClientConfigs.from_settings({"bootstrap.servers": bootstrap_servers})
    assert upload_directory(clients, source, tree, chunk_size_bytes=CHUNK_BYTES).failures == []
    ours = Side(tmp_path / "ours", "ray_reproducer", Path(sys.executable), bootstrap_servers)
    theirs = Side(tmp_path / "theirs", "openmsistream", openmsistream_python, bootstrap_servers)

    good = len(list(tree.rglob("*.csv"))) - 1
    ours.run(source, our_results, good)
    theirs.run(source, their_results, good)

    (theirs.directory / "read.py").write_text(READ)
    reader = theirs.write_config("reader.config", "StringSerializer", "StringDeserializer")
    seen = {
        results: sorted(json.loads(theirs.call("read.py", str(reader), results, str(good)).strip().splitlines()[-1]))
        for results in (our_results, their_results)
    }
    assert seen[our_results] == seen[their_results]
    assert [key for key, _ in seen[our_results]] == sorted(
        f"{'_'.join(path.relative_to(tree).parts[:-1])}_{path.name}_chunk_processing_result"
        for path in tree.rglob("*.csv")
        if path.name != "bad.csv"
    )
