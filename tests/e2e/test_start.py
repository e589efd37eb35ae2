"""Where a group begins: what another program has done is skipped, and a group that must have a place has one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from tests.e2e.conftest import Program, RecordSeen
from tests.workload import Topic, cut, messages_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

PARTITIONS = 3


def test_skip_existing_and_group(
    bootstrap_servers: str,
    unique_topic: Callable[..., str],
    start_program: Callable[..., Program],
    read_committed: Callable[[str], list[RecordSeen]],
) -> None:
    source, results = unique_topic("start.source", partitions=PARTITIONS), unique_topic("start.results", partitions=2)
    topic = Topic(bootstrap_servers, source, PARTITIONS)
    files = [cut(f"dir/{number}.bin", bytes([number]) * 3000) for number in range(8)]
    done, rest = files[:4], files[4:]
    topic.put(message for file in (*done, *rest) for message in messages_of(file))
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    for file in done:
        producer.produce(results, b'{"theirs": true}', file.version.result_key)
    assert producer.flush(30) == 0
    again = cut("dir/0.bin", b"new content" * 300)
    topic.put(messages_of(again))
    common = ["+extractor=mine", f"kafka.bootstrap.servers={bootstrap_servers}", f"topics.source={source}"]
    common += [f"topics.results={results}", "run=drain", "ray.num_cpus=1"]

    # Nothing is begun with a group that has no place.
    code, _, err = start_program(*common, "start=group", "group_id=test.nobody").wait()
    assert code == 2, err
    assert "the group test.nobody has committed no offsets" in err

    code, _, err = start_program(*common, "start=skip_existing").wait()
    assert code == 0, err
    assert "start=skip_existing: 4 files have results of others, and are skipped." in err
    ours = [record.key for record in read_committed(results) if "theirs" not in record.value]
    assert sorted(ours) == sorted(file.version.result_key for file in (again, *rest))

    # The next start goes on from there, and knows both its own results and the others.
    topic.put(message for file in (*done, *rest) for message in messages_of(file)[:1])
    code, _, err = start_program(*common, "start=group").wait()
    assert code == 0, err
    assert len(read_committed(results)) == len(ours) + 4
