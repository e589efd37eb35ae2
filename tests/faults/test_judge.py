"""The judge finds what is wrong: what is planted here would be a defect of the program, or of the harness if unseen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ray_reproducer.core import commit_metadata
from tests.faults.judge import Judge
from tests.faults.plan import Batch, Plan
from tests.faults.rig import digest_function
from tests.faults.watching import Position, Seen
from tests.workload import SentFile

PRODUCED_S = 1000.0
TOPIC_ID = bytes(16)


class Topic:
    """A batch as if it were on a topic, and the records that a right program makes of it."""

    def __init__(self) -> None:
        self.batch: Batch = Plan(seed=1, partitions=2).batch(1, files=30, costly=2)
        for offset, (owner, _, partition) in enumerate(self.batch.messages):
            owner.places.add((partition, offset))
        self.judge = Judge(digest_function(), "results", repeats_allowed=False)
        self.judge.sent(self.batch)
        self.records = [self.record(owner) for owner in (*self.batch.files, *self.batch.rubbish)]

    def record(self, owner: Any) -> Seen:
        if not owner.reason:
            key, value = owner.expected(digest_function())
            return Seen("results", key, json.loads(value), PRODUCED_S)
        offsets: dict[str, list[list[int]]] = {}
        for partition, offset in sorted(owner.places):
            offsets.setdefault(str(partition), []).append([offset, offset])
        path = owner.version.relative_path if isinstance(owner, SentFile) else None
        source = {"offsets": offsets, "exact": True}
        return Seen("letters", "key", {"path": path, "reason": owner.reason, "error": "", "source": source}, PRODUCED_S)


@pytest.fixture(name="topic")
def _topic() -> Topic:
    return Topic()


def test_what_is_due_is_fine_in_any_order(topic: Topic) -> None:
    topic.judge.take(topic.records[::-1])
    assert topic.judge.missing() == []
    topic.judge.close()
    assert topic.judge.tally.is_clean
    assert topic.judge.tally.results + topic.judge.tally.letters == topic.judge.tally.files == topic.batch.size
    assert topic.judge.tally.letters == topic.judge.tally.letters_planned > 0


def test_an_outcome_that_does_not_come_is_a_loss(topic: Topic) -> None:
    topic.judge.take(topic.records[1:])
    assert len(topic.judge.missing()) == 1
    topic.judge.close()
    assert topic.judge.tally.losses == 1


@pytest.mark.parametrize("later", [False, True])
def test_an_outcome_that_comes_again_is_a_duplicate(topic: Topic, later: bool) -> None:
    topic.judge.take(topic.records)
    if later:
        topic.judge.close()
    topic.judge.take(topic.records)
    assert topic.judge.tally.duplicates == len(topic.records)


def test_another_value_is_wrong(topic: Topic) -> None:
    good = next(record for record in topic.records if record.topic == "results")
    topic.judge.take([Seen("results", good.key, {**good.value, "lines": -1}, PRODUCED_S)])
    assert topic.judge.tally.wrong == 1


@pytest.mark.parametrize("change", [{"reason": "worker_crashed"}, {"path": "000001/unknown"}])
def test_a_dead_letter_that_nobody_planned_is_wrong(topic: Topic, change: dict[str, str]) -> None:
    letter = next(r for r in topic.records if r.topic == "letters" and "raises" in (r.value["path"] or ""))
    topic.judge.take([Seen("letters", "key", {**letter.value, **change}, PRODUCED_S)])
    assert topic.judge.tally.wrong == 1


def test_a_dead_letter_must_name_all_chunks(topic: Topic) -> None:
    owner = next(f for f in topic.batch.files if f.reason and len(f.chunks) > 1)
    letter = topic.record(owner)
    partition = next(iter(letter.value["source"]["offsets"]))
    del letter.value["source"]["offsets"][partition][0]
    topic.judge.take([letter])
    assert topic.judge.tally.wrong == 1


def test_a_position_that_goes_back_is_seen(topic: Topic) -> None:
    topic.judge.take(topic.records)
    topic.judge.take_positions({}, ["partition 0: from 5 back to 4"])
    assert topic.judge.tally.steps_back == 1


@pytest.mark.parametrize(("early", "wrong"), [(True, True), (False, False)])
def test_a_position_must_not_pass_what_is_not_done(topic: Topic, early: bool, wrong: bool) -> None:
    topic.judge.take(topic.records)
    seen_s = PRODUCED_S - 1 if early else PRODUCED_S + 1
    topic.judge.take_positions({0: [Position(seen_s, 10, "")]}, [])
    topic.judge.close()
    assert (topic.judge.tally.steps_back > 0) is wrong


@pytest.mark.parametrize(("early", "wrong"), [(True, True), (False, False)])
def test_metadata_must_not_call_done_what_is_not(topic: Topic, early: bool, wrong: bool) -> None:
    topic.judge.take(topic.records)
    seen_s = PRODUCED_S - 1 if early else PRODUCED_S + 1
    text = commit_metadata.encode(TOPIC_ID, 0, {bytes(12): [0]}, len(topic.batch.messages))
    topic.judge.take_positions({0: [Position(seen_s, 0, text)]}, [])
    topic.judge.close()
    assert (topic.judge.tally.steps_back > 0) is wrong
