"""Source topics as they may be, and committed positions that are not ours: what the program does, and what it says."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from ray_reproducer.core.chunk import decode, encode
from tests.faults.broker import PrivateBroker
from tests.faults.broker_process import ANSWER_S
from tests.faults.misbehaving_broker.lab import Lab
from tests.topics import committed_and_ends
from tests.waiting import wait_until
from tests.workload import cut, messages_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

DEADLINE_S = 150.0
"""How long a busy machine may take for a start of Ray, and for what the test waits for then."""
TOO_LARGE = """
def size(datafile):
    text = "é%" * (5_000 if datafile.filename == "f1.txt" else 1)
    return {"path": datafile.filename, "size": datafile.size_bytes, "text": text}
"""


@pytest.fixture
def lab(private_broker: PrivateBroker, tmp_path: Path) -> Iterator[Lab]:
    """Topics and a program on the private broker."""
    lab = Lab(private_broker, tmp_path)
    yield lab
    lab.close()


def _delete_records(admin: AdminClient, topic: str, partition: int, before: int) -> None:
    for future in admin.delete_records([TopicPartition(topic, partition, before)]).values():
        future.result(ANSWER_S)


def test_transactional_aborted_compacted_and_shortened(private_broker: PrivateBroker, tmp_path: Path) -> None:
    lab = Lab(private_broker, tmp_path, partitions=3)
    admin = private_broker.admin
    try:
        due = _fill_transactionally(lab, partition=0)
        due += _fill_and_compact(lab, partition=1)
        code, err = lab.drain()
        assert code == 0, err
        assert lab.results_seen() == sorted(due)
        committed, ends = committed_and_ends(private_broker.direct_servers, lab.group, lab.source)
        assert committed == ends

        # Retention overtakes the position: of four files on the third partition two are gone before they are read.
        later = [cut(f"kept{n}.txt", b"x") for n in range(4)]
        lab.topic.put_in_order((*messages_of(file)[0], 2) for file in later)
        lab.commit_position(2, 0, "")
        _delete_records(admin, lab.source, 2, 2)
        code, err = lab.drain()
        assert code == 3, err
        assert err.count("no longer on the topic") == 1, err
        assert f"2 messages of {lab.source} gone before they were read" in err
        assert f"{lab.source} [2]: offsets 0 to 1" in err
        assert lab.results_seen() == sorted([*due, "kept2.txt", "kept3.txt"])

        # What was deleted below the position is nobody's loss.
        _delete_records(admin, lab.source, 2, 4)
        code, err = lab.drain()
        assert code == 0, err
        assert "no longer on the topic" not in err
    finally:
        lab.close()


def _fill_transactionally(lab: Lab, partition: int) -> list[str]:
    """Transactions, every other one aborted; return the files that are there."""
    producer = Producer({"bootstrap.servers": lab.broker.direct_servers, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(ANSWER_S)
    due: list[str] = []
    for number in range(6):
        file = cut(f"transaction{number}.txt", bytes(2500))
        producer.begin_transaction()
        for chunk in file.chunks:
            producer.produce(lab.source, encode(chunk), "key", partition=partition)
        assert producer.flush(ANSWER_S) == 0
        if number % 2:
            producer.abort_transaction(ANSWER_S)
        else:
            producer.commit_transaction(ANSWER_S)
            due.append(file.version.relative_path)
    return due


def _fill_and_compact(lab: Lab, partition: int) -> list[str]:
    """Messages of which many are overtaken by later ones with their key; wait until the cleaner has been there."""
    source = lab.source
    settings = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "100",
    }
    lab.broker.configure_topic(source, **settings)
    producer = Producer({"bootstrap.servers": lab.broker.direct_servers})
    files = [cut(f"compacted{number}.txt", b"z" * number) for number in range(1, 41)]
    for number, file in enumerate(files):
        producer.produce(source, encode(file.chunks[0]), f"key{number % 8}", partition=partition)
    assert producer.flush(ANSWER_S) == 0

    def keeps() -> list[str]:
        # A segment is closed by the next message behind it, and only closed ones are compacted.
        producer.produce(source, encode(files[-1].chunks[0]), "closing", partition=partition)
        assert producer.flush(ANSWER_S) == 0
        return _paths(lab, partition)

    wait_until(lambda: 8 <= len(set(keeps())) < len(files) / 2, DEADLINE_S, "the cleaner")
    lab.broker.configure_topic(source, **{"cleanup.policy": "delete"}, **dict.fromkeys(list(settings)[1:]))
    return sorted(set(_paths(lab, partition)))


def _paths(lab: Lab, partition: int) -> list[str]:
    """The files of which the partition has chunks."""
    servers = lab.broker.direct_servers
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "test", "enable.partition.eof": True})
    try:
        consumer.assign([TopicPartition(lab.source, partition, 0)])
        found: list[str] = []
        while (message := consumer.poll(ANSWER_S)) is not None and message.error() is None:
            found.append(decode(message.value() or b"").version.relative_path)
        return found
    finally:
        consumer.close()


@pytest.mark.parametrize("metadata", ["a note of somebody else", "rr1:AAAA"], ids=["foreign", "corrupt"])
def test_positions_with_metadata_that_is_not_ours_are_refused(lab: Lab, metadata: str) -> None:
    lab.put(2)
    lab.commit_position(1, 0, metadata)
    code, err = lab.drain()
    assert code == 1, err
    assert f"group {lab.group}" in err
    assert f"{lab.source} [1]" in err
    assert "group_id" in err
    assert lab.results_seen() == []


def test_a_subscriber_in_the_group_is_refused_with_the_command_that_shows_it(lab: Lab) -> None:
    lab.put(1)
    member = Consumer({"bootstrap.servers": lab.broker.direct_servers, "group.id": lab.group, "client.id": "someone"})
    member.subscribe([lab.source])
    try:
        wait_until(lambda: member.poll(0.1) or member.assignment(), DEADLINE_S, "the member's assignment")
        code, err = lab.drain()
    finally:
        member.close()
    assert code == 1, err
    assert f"the consumer group {lab.group} is in use" in err
    assert "someone on" in err
    assert f"kafka-consumer-groups.sh --bootstrap-server {lab.broker.servers} --describe --members" in err


def test_a_topic_made_anew_between_two_runs_is_read_from_its_beginning_or_told_by_its_id(lab: Lab) -> None:
    lab.put(3)
    assert lab.drain()[0] == 0
    ((partition, committed),) = list(lab.committed_positions().items())[:1]
    lab.broker.delete_topic(lab.source)
    lab.make_source(2)
    lab.put(3)
    # The broker has forgotten the positions together with the topic: there is nothing that could be mistaken.
    wait_until(lambda: not lab.committed_positions(), DEADLINE_S, "the broker to forget the positions")
    code, err = lab.drain()
    assert code == 0, err
    assert lab.has_results()

    # A tool that keeps positions may bring the old ones back.
    lab.commit_position(partition, committed.offset, committed.metadata)
    code, err = lab.drain()
    assert code == 1, err
    assert f"{lab.source} [{partition}]" in err
    assert "deleted and made anew" in err
    assert "another group_id" in err


def test_a_result_over_the_topics_limit_is_a_dead_letter_that_says_so(lab: Lab) -> None:
    (lab.directory / "my_lab.py").write_text(TOO_LARGE)
    lab.broker.make_topic(lab.results, 1, max_message_bytes="4000")
    lab.put(4)
    code, err = lab.drain()
    assert code == 3, err
    assert lab.results_seen() == ["f0.txt", "f2.txt", "f3.txt"]
    (letter,) = lab.letters_seen()
    assert letter["path"] == "f1.txt"
    assert letter["reason"] == "result_too_large"
    assert "too large" in letter["error"]


def test_a_full_ledger_makes_outcomes_wait_and_reading_goes_on(private_broker: PrivateBroker, tmp_path: Path) -> None:
    # 30,000 messages in one partition, of which a random half is done: more than fits beside a position, however it is
    # written down. Nothing else may stop for it.
    lab = Lab(private_broker, tmp_path, partitions=1)
    try:
        dice = random.Random(7)
        singles = [cut(f"single{number}.txt", b"s") for number in range(15_000)]
        doubles = [cut(f"double{number}.txt", bytes(1001)) for number in range(15_000)]
        messages = [messages_of(file)[0] for file in singles] + [messages_of(file, [1])[0] for file in doubles]
        dice.shuffle(messages)
        first = messages_of(doubles[0], [1])[0]
        lab.topic.put_in_order([(*first, 0), *((*message, 0) for message in messages if message[0] is not doubles[0])])
        program = lab.start()

        def stands() -> bool:
            # Twice, seconds apart: nothing is left to read or to work on, and yet not all is committed.
            waiting = r"files done .* 0 in flight, 0 waiting, 15,000 incomplete, lag 0$"
            return program.process.poll() is not None or len(re.findall(waiting, program.err(), re.MULTILINE)) > 1

        wait_until(stands, DEADLINE_S, "all to be read and worked on")
        assert program.process.poll() is None, program.err()
        assert 0 < len(lab.results_seen()) < len(singles), "the ledger was never full"
        lab.topic.put_in_order((*messages_of(file, [2])[0], 0) for file in doubles)
        everything = len(singles) + len(doubles)
        said = f"{everything:,} files done"
        wait_until(lambda: program.process.poll() is not None or said in program.err(), DEADLINE_S, "all results")
        assert program.process.poll() is None, program.err()
        assert len(lab.results_seen()) == everything
    finally:
        lab.close()
