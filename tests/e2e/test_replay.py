"""Dead letters and their replay on a real broker: mended, killed in the middle, fenced, too late, and what is gone."""

from __future__ import annotations

import hashlib
import json
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from ray_reproducer.core.live_letters import LiveLetters
from ray_reproducer.core.outcome import Failure, Origin, dead_letter
from ray_reproducer.kafka import admin
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.dead_letters import DeadLetterReader
from ray_reproducer.observability.registry_format import values
from tests.e2e.conftest import Program, RecordSeen, function_of
from tests.waiting import wait_until
from tests.workload import CHUNK_BYTES, SentFile, Topic, cut, messages_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

DEADLINE_S = 120.0
PARTITIONS = 4
REPLAY = "ray_reproducer.replay"
BREAKABLE = '''
"""A user's module that is broken until a test mends it."""
import pathlib, time
from ray_reproducer import MetadataJSONReproducer


def read(datafile, directory):
    directory = pathlib.Path(directory)
    if datafile.filename.startswith("bad") and not (directory / "mended").exists():
        raise KeyError("temperature")
    if datafile.filename == "bad gated.bin":
        with (directory / "began").open("a") as began:
            began.write("x")
        while not (directory / "open").exists():
            time.sleep(0.02)
    return {"path": str(datafile.relative_filepath), "size": len(datafile.bytestring)}


class Reader(MetadataJSONReproducer):
    directory = ""

    def _get_metadata_dict_for_file(self, datafile):
        return read(datafile, self.directory)
'''


def content(name: str, chunks: int) -> bytes:
    """Content of so many chunks, which no other file has."""
    return hashlib.sha512(name.encode()).digest() * (chunks * CHUNK_BYTES // 64)


def files_named(names: Sequence[str], chunks: int = 3) -> list[SentFile]:
    return [cut(name, content(name, chunks)) for name in names]


def live_paths(servers: str, topic: str) -> Counter[str]:
    """Paths of the live letters on a dead-letter topic."""
    letters = LiveLetters()
    DeadLetterReader(ClientConfigs.from_settings({"bootstrap.servers": servers}), topic, letters, print).refresh()
    return Counter(letter.letter.path for letter in letters)


def paths_in(registry: Path) -> Counter[str]:
    """Paths of the rows of a registry."""
    return Counter(str(values(line)[1]) for line in registry.read_text(encoding="utf-8").splitlines()[1:])


def groups_of_replays(servers: str, topic: str) -> list[str]:
    client = AdminClient({"bootstrap.servers": servers})  # only while it lives there is a true answer
    found = client.list_consumer_groups().result(DEADLINE_S)
    assert not found.errors
    return [group.group_id for group in found.valid if group.group_id.startswith(f"ray_reproducer.replay.{topic}")]


def committer_of(program: Program) -> psutil.Process:
    """The process of a program's committer; Ray names processes after what runs in them."""
    (found,) = (
        process
        for process in psutil.Process(program.process.pid).children(recursive=True)
        if "CommitterActor" in " ".join(process.cmdline()[:1])
    )
    return found


@pytest.fixture
def lab(workspace: Path) -> Path:
    """The directory that says whether the extractor is mended, and whether the gate is open."""
    (workspace / "my_lab.py").write_text(BREAKABLE)
    options = f"_target_: my_lab.read\ndirectory: {workspace.parent}\n"
    (workspace / "conf" / "extractor" / "mine.yaml").write_text(options)
    return workspace.parent


def test_a_mended_extractor_gives_each_file_one_result_though_the_replay_is_killed(
    lab: Path,
    bootstrap_servers: str,
    unique_topic: Callable[..., str],
    start_program: Callable[..., Program],
    read_committed: Callable[[str], list[RecordSeen]],
) -> None:
    source, results = unique_topic("replay.source", partitions=PARTITIONS), unique_topic("replay.results", partitions=0)
    topic, dead_letters = Topic(bootstrap_servers, source, PARTITIONS), f"{results}.dead_letters"
    gone = files_named(["bad gone.bin"], chunks=2)[0]
    bad = files_named([f"a/bad {number}.bin" for number in range(5)] + ["a/bad gated.bin"])
    good = files_named([f"good {number}.bin" for number in range(20)], chunks=2)
    topic.put(messages_of(gone))
    topic.put(message for file in [*bad, *good] for message in messages_of(file))
    common = [f"kafka.bootstrap.servers={bootstrap_servers}", f"topics.results={results}"]
    run = ["+extractor=mine", *common, f"topics.source={source}", "ray.num_cpus=2", "extraction.max_batch_files=1"]

    def paths_of_results() -> Counter[str]:
        return Counter(record.value["path"] for record in read_committed(results))

    # Everything that is bad fails, and one of the bad files is taken by retention.
    main = [*run, "group_id=registered", f"logs_dir={lab / 'LOGS'}", "run=drain"]
    code, _, err = start_program(*main).wait()
    assert code == 3, err
    assert live_paths(bootstrap_servers, dead_letters) == Counter(f.version.relative_path for f in [gone, *bad])
    partition, offset = min(gone.places)
    client = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in client.delete_records([TopicPartition(source, partition, offset + 1)]).values():
        future.result(DEADLINE_S)

    # The extractor is mended. A replay by path is killed while it has one file left.
    (lab / "mended").touch()
    replay = start_program(*run, "replay.path=a/", module=REPLAY)
    wait_until((lab / "began").exists, DEADLINE_S, "the gated file")
    wait_until(lambda: len(paths_of_results()) == len(good) + len(bad) - 1, DEADLINE_S, "the other results")
    replay.kill()
    assert live_paths(bootstrap_servers, dead_letters) == Counter(["bad gone.bin", "a/bad gated.bin"])

    # The next one does what is left, reads nothing else, and says what can't be done.
    (lab / "open").touch()
    code, out, err = start_program(*run, "run.print_results=true", module=REPLAY).wait()
    assert code == 3, err
    assert f"1 file to replay, 3 messages of {source} to read; 1 file can't be replayed" in err
    assert f"can't replay bad gone.bin: offsets are no longer on {source}: [{partition}] {offset}" in err
    assert f"1 result on {results}, 0 files failed again; 3 messages read (2.94 kB)" in err
    assert out == '{"path":"a/bad gated.bin","outcome":"result","metadata":{"path":"a/bad gated.bin","size":2944}}\n'
    assert paths_of_results() == Counter(file.version.relative_path for file in [*good, *bad])
    code, out, err = start_program(*common, "--list", "--details", module=REPLAY).wait()
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()] == ["reason", "extractor_raised"]
    assert "bad gone.bin" in out
    # The replay that was killed could not take its group away; the other one did.
    assert len(groups_of_replays(bootstrap_servers, dead_letters)) <= 1

    # The next run's registries have what both replays did.
    registry, in_progress = sorted((lab / "LOGS").glob("*.csv"), reverse=True)
    code, _, err = start_program(*main).wait()
    assert code == 0, err
    assert paths_in(registry) == paths_of_results()
    assert paths_in(in_progress) == Counter(["bad gone.bin"])


def test_two_replays_at_once_give_no_result_twice_though_one_loses_its_committer(
    workspace: Path,
    lab: Path,
    bootstrap_servers: str,
    unique_topic: Callable[..., str],
    start_program: Callable[..., Program],
    read_committed: Callable[[str], list[RecordSeen]],
) -> None:
    source, results = unique_topic("replay.source", partitions=PARTITIONS), unique_topic("replay.results", partitions=2)
    topic, dead_letters = Topic(bootstrap_servers, source, PARTITIONS), unique_topic("replay.letters", partitions=2)
    (lab / "mended").touch()
    my_lab = workspace / "my_lab.py"
    my_lab.write_text(my_lab.read_text().replace('directory = ""', f'directory = "{lab}"'))
    (workspace / "conf" / "extractor" / "mine.yaml").write_text("_target_: my_lab.Reader\n")
    bad = files_named([f"bad {number}.bin" for number in range(3)] + ["bad gated.bin"])
    topic.put(message for file in bad for message in messages_of(file))
    clients = ClientConfigs.from_settings({"bootstrap.servers": bootstrap_servers})
    origin = Origin(source, admin.describe_topic(clients, source).topic_id, "mine", "test")
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    for file in bad:
        # The first one has two letters, as a file has whose chunks came so far apart that each part was given up.
        places = sorted(file.places)
        for part in [places[:1], places[1:]] if file is bad[0] else [places]:
            offsets = {p: [o for q, o in part if q == p] for p, _ in part}
            letter = dead_letter(file.version, Failure("incomplete", ""), offsets, origin, "2026-01-02T03:04:05+00:00")
            producer.produce(dead_letters, letter.value, letter.key)
    assert producer.flush(DEADLINE_S) == 0
    arguments = ["+extractor=mine", f"kafka.bootstrap.servers={bootstrap_servers}", f"topics.source={source}"]
    arguments += [f"topics.results={results}", f"topics.dead_letters={dead_letters}", "ray.num_cpus=2"]

    # The first replay loses its committer and plans anew; then the second one comes.
    first = start_program(*arguments, module=REPLAY)
    wait_until((lab / "began").exists, DEADLINE_S, "the first replay")
    committer_of(first).kill()
    wait_until(lambda: len((lab / "began").read_text()) == 2, DEADLINE_S, "the first replay's second life")
    second = start_program(*arguments, module=REPLAY)
    wait_until(lambda: len((lab / "began").read_text()) == 3, DEADLINE_S, "the second replay")
    (lab / "open").touch()

    code, _, err = first.wait()
    assert code == 4, err
    assert "taken over" in err
    code, _, err = second.wait()
    assert code == 0, err
    seen = Counter(record.value["path"] for record in read_committed(results))
    assert seen == Counter(file.version.relative_path for file in bad)
    assert not live_paths(bootstrap_servers, dead_letters)
    assert not groups_of_replays(bootstrap_servers, dead_letters)


def test_a_file_whose_missing_chunk_comes_after_it_was_given_up_has_its_result_from_a_replay(
    workspace: Path,
    bootstrap_servers: str,
    unique_topic: Callable[..., str],
    start_program: Callable[..., Program],
    read_committed: Callable[[str], list[RecordSeen]],
) -> None:
    source, results = unique_topic("replay.source", partitions=PARTITIONS), unique_topic("replay.results", partitions=1)
    topic, dead_letters = Topic(bootstrap_servers, source, PARTITIONS), unique_topic("replay.letters", partitions=2)
    (late,) = files_named(["a/late.bin"], chunks=4)
    arguments = ["+extractor=mine", f"kafka.bootstrap.servers={bootstrap_servers}", f"topics.source={source}"]
    arguments += [f"topics.results={results}", f"topics.dead_letters={dead_letters}", "ray.num_cpus=1"]

    def missing() -> list[list[list[int]]]:
        """What each letter says is missing: ranges of chunks, the first letter's first."""
        letters = sorted(read_committed(dead_letters), key=lambda record: str(record.value["time"]))
        assert {record.value["reason"] for record in letters} <= {"incomplete"}
        return [record.value["file"]["missing"] for record in letters]

    # Chunk 3 does not come in time; when it comes, it is alone, because the others were given up.
    topic.put(messages_of(late, [1, 2, 4]))
    run = start_program(*arguments, "incomplete_after=1")
    wait_until(lambda: missing() == [[[3, 3]]], DEADLINE_S, "the letter of the file without its chunk 3")
    topic.put(messages_of(late, [3]))
    wait_until(lambda: missing() == [[[3, 3]], [[1, 2], [4, 4]]], DEADLINE_S, "the letter of the chunk that came late")
    run.process.send_signal(signal.SIGTERM)
    code, _, err = run.wait()
    assert code == 0, err
    assert read_committed(results) == []
    assert live_paths(bootstrap_servers, dead_letters) == Counter({"a/late.bin": 2})

    # The letters name all chunks together.
    code, _, err = start_program(*arguments, module=REPLAY).wait()
    assert code == 0, err
    assert f"1 file to replay, 4 messages of {source} to read" in err
    (result,) = read_committed(results)
    assert (result.key, json.dumps(result.value, sort_keys=True)) == late.expected(function_of(workspace, "digest"))
    assert not live_paths(bootstrap_servers, dead_letters)
