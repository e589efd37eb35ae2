"""What a replay finds out before it runs anything. The rules are those at the head of ``kafka/replaying.py``."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from ray_reproducer.core import result_header
from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.errors import BrokerError, ForbiddenError, TransactionOpenError
from ray_reproducer.core.outcome import Failure, Origin, dead_letter
from ray_reproducer.core.replay_plan import Selection
from ray_reproducer.kafka import admin, dead_letters, finished_lately
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.dead_letters import DeadLetterReader
from ray_reproducer.kafka.outbox import DeliveryFailedError, Outbox
from ray_reproducer.kafka.replaying import Replay
from tests.kafka.reading import WAIT_S

NAMES = ("damaged, then sent again", "damaged", "another group's")


class Lab:
    """A source topic with a message for each file, a letter for each, and results."""

    def __init__(self, clients: ClientConfigs, make_topic: Callable[..., str]) -> None:
        self.clients = clients
        self.source, self.letters, self.results = (make_topic(name, 1) for name in ("source", "letters", "results"))
        self.topic_id = admin.describe_topic(clients, self.source).topic_id
        self.producer = Producer(clients.for_producer())
        for number, name in enumerate(NAMES):
            self.producer.produce(self.source, b"x")
            self.put(self.letters, self.letter(name, number), name, finished=False)
        self.flush()
        self.told: list[str] = []

    def version(self, name: str) -> FileVersion:
        return FileVersion("", name, "", bytes(64), 1)

    def letter(self, name: str, offset: int) -> bytes:
        origin = Origin(self.source, self.topic_id, "mine", "test")
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return dead_letter(self.version(name), Failure("hash_mismatch", "bad"), {0: [offset]}, origin, now).value

    def put(
        self, topic: str, value: bytes, name: str, *, group: str = "ours", finished: bool = True, age_s: float = -5.0
    ) -> None:
        tag = finished_lately.tag(group, self.topic_id)
        headers = finished_lately.headers(tag, self.version(name).id, finished=finished)
        written_ms = int((time.time() - age_s) * 1000)
        self.producer.produce(topic, value, name, headers=list(headers), timestamp=written_ms)

    def flush(self) -> None:
        assert self.producer.flush(WAIT_S) == 0

    def replay(self, **selected: str) -> Replay:
        return Replay(self.clients, self.letters, Selection(**selected), self.told.append, self.results)  # type: ignore[arg-type]

    def live(self, replay: Replay) -> list[str]:
        replay.refresh()
        return sorted(letter.letter.path for letter in replay.letters)


@pytest.fixture
def lab(clients: ClientConfigs, unique_topic: Callable[..., str]) -> Lab:
    return Lab(clients, unique_topic)


def test_rule_2_a_file_that_has_its_result_by_now_is_not_run_and_its_letter_is_cleared(lab: Lab) -> None:
    lab.put(lab.results, b"{}", NAMES[0])
    lab.put(lab.results, b"{}", NAMES[2], group="theirs")
    lab.flush()
    replay = lab.replay()
    plan = replay.look(lab.source)
    assert sorted(file.newest.path for file in plan.files.values()) == sorted(NAMES[1:])
    assert [file.newest.path for file in replay.cleared] == [NAMES[0]]
    assert lab.live(lab.replay()) == sorted(NAMES[1:]), "the tombstone is on the topic"
    assert lab.told == []


def test_rule_2_also_at_the_last_look(lab: Lab) -> None:
    replay = lab.replay()
    assert len(replay.look(lab.source).files) == len(NAMES)
    lab.put(lab.results, b"{}", NAMES[1])
    lab.flush()
    assert sorted(f.newest.path for f in replay.look(lab.source).files.values()) == sorted((NAMES[0], NAMES[2]))


def test_rule_2_a_result_from_before_the_file_failed_does_not_count(lab: Lab) -> None:
    lab.put(lab.results, b"{}", NAMES[0], age_s=60.0)
    lab.flush()
    assert len(lab.replay().look(lab.source).files) == len(NAMES)


def test_rule_2_nor_does_one_of_a_file_that_came_whole_and_failed(lab: Lab) -> None:
    lab.put(lab.letters, lab.letter("whole", 0), "whole")
    lab.put(lab.results, b"{}", "whole", age_s=-60.0)
    lab.flush()
    assert len(lab.replay().look(lab.source).files) == len(NAMES) + 1


@pytest.mark.parametrize("look", ["first", "last"])
def test_rule_3_a_file_that_fails_while_the_letters_are_read_can_be_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    """A program that runs reads a file and writes its letter; the replay sees both."""
    read = DeadLetterReader.refresh

    def refresh(reader: DeadLetterReader) -> None:
        lab.producer.produce(lab.source, b"x")
        lab.put(lab.letters, lab.letter("just failed", len(NAMES)), "just failed", finished=False)
        lab.flush()
        read(reader)

    topic = admin.describe_topic(lab.clients, lab.source)
    replay = lab.replay()
    monkeypatch.setattr(DeadLetterReader, "refresh", refresh)
    plan = replay.look(lab.source) if look == "first" else replay.plan_for(topic)
    assert plan.refusals == ()
    assert plan.ends == {0: len(NAMES) + 1}


def test_files_that_are_not_meant_are_left_alone(lab: Lab) -> None:
    lab.put(lab.results, b"{}", NAMES[0])
    lab.flush()
    replay = lab.replay(path_regex="another")
    assert len(replay.look(lab.source).files) == 1
    assert len(lab.live(replay)) == len(NAMES)


def test_a_replayed_file_stays_the_file_of_the_group_that_it_failed_in(lab: Lab) -> None:
    plan = lab.replay().look(lab.source)
    owners = {finished_lately.tag_of(file.owner) for file in plan.files.values()}
    assert owners == {finished_lately.tag("ours", lab.topic_id)}


def test_a_letter_says_in_whose_registries_its_file_is_if_it_is_in_any(lab: Lab) -> None:
    origin = Origin(lab.source, lab.topic_id, "mine", "test")
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    letter = dead_letter(lab.version("registered"), Failure("timeout", "slow"), {0: [0]}, origin, now)
    lab.producer.produce(lab.letters, letter.value, letter.key, headers=list(result_header.encode(letter, "ours")))
    lab.flush()
    groups = {file.newest.path: file.group_id for file in lab.replay().look(lab.source).files.values()}
    assert groups == {**dict.fromkeys(NAMES, ""), "registered": "ours"}


def test_without_the_right_to_read_results_it_is_said_and_all_is_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ForbiddenError("not allowed to read it")

    monkeypatch.setattr(finished_lately, "finished_since", refuse)
    assert len(lab.replay().look(lab.source).files) == len(NAMES)
    assert lab.told == ["not allowed to read it. Files that were sent again, and have their result, get another."]


def test_a_topic_of_results_that_is_not_there_yet_has_none(lab: Lab) -> None:
    lab.results = "test.there.is.none"
    assert len(lab.replay().look(lab.source).files) == len(NAMES)


def test_letters_that_can_not_be_cleared_are_an_error_that_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from confluent_kafka import KafkaError

    def refuse(*_: object) -> None:
        raise DeliveryFailedError(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "no"))

    replay = lab.replay()
    replay.refresh()
    monkeypatch.setattr(Outbox, "send", refuse)
    with pytest.raises(BrokerError, match=f"can't be cleared on {lab.letters}: no"):
        dead_letters.clear(lab.clients, lab.letters, replay.letters, lab.told.append)


def test_a_transaction_that_an_earlier_replay_has_left_open_is_ended(
    lab: Lab, clients: ClientConfigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = lab.replay()
    earlier = Producer(clients.for_producer(**{"transactional.id": replay.transactional_id}))
    earlier.init_transactions(WAIT_S)
    earlier.begin_transaction()
    earlier.produce(lab.letters, None, "k")
    assert earlier.flush(WAIT_S) == 0
    monkeypatch.setattr(dead_letters.DeadLetterReader.refresh, "__defaults__", (1.0,))
    with pytest.raises(TransactionOpenError):
        replay.look(lab.source)
    replay.end_leftovers(lab.source)
    assert len(replay.look(lab.source).files) == len(NAMES)
