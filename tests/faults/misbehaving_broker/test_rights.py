"""Rights and passwords that are taken away while the program runs, and what it says then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._resource import ResourceType

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.errors import BrokerError, ForbiddenError
from ray_reproducer.core.live_letters import LiveLetters
from ray_reproducer.core.outcome import Failure, Origin, dead_letter
from ray_reproducer.kafka import finished_lately
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.dead_letters import DeadLetterReader
from ray_reproducer.kafka.faults import Health
from tests.faults.broker import PrivateBroker
from tests.faults.misbehaving_broker.lab import Lab
from tests.kafka.reading import ignore
from tests.program import Program
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

NOW = "2026-01-02T03:04:05Z"
VERSION = FileVersion("", "a.csv", "", bytes(range(64)), 1)
DEADLINE_S = 150.0
"""How long a busy machine may take for a start of Ray, and for what the test waits for then."""


@pytest.fixture
def lab(private_broker: PrivateBroker, tmp_path: Path) -> Iterator[Lab]:
    """See ``Lab``."""
    lab = Lab(private_broker, tmp_path)
    lab.let_user_in()
    yield lab
    lab.close()


def ends_with(program: Program, *words: str) -> str:
    """Wait for the program's end with exit code 1; it must say all these words."""
    code, _, err = program.wait(DEADLINE_S)
    assert code == 1, err
    for word in words:
        assert word in err, f"{word!r} is not said:\n{err}"
    return err


def working(lab: Lab, *more: str) -> Program:
    """Start the program and see it work."""
    program = lab.start_as_user(*more)
    lab.put(3)
    wait_until(lambda: program.process.poll() is not None or lab.has_results(), DEADLINE_S, "results")
    assert program.process.poll() is None, program.err()
    return program


def test_rights_that_are_revoked_are_named_and_the_next_start_goes_on(lab: Lab) -> None:
    program = working(lab)
    lab.broker.revoke(ResourceType.TOPIC, lab.results, AclOperation.WRITE)
    lab.put(2)
    ends_with(program, "not allowed", "WRITE on the topics", "TOPIC_AUTHORIZATION_FAILED")
    assert not lab.has_results()

    lab.broker.grant(ResourceType.TOPIC, lab.results, AclOperation.WRITE)
    program = working(lab)
    lab.broker.revoke(ResourceType.TOPIC, lab.source, AclOperation.READ)
    lab.put(2)
    ends_with(program, "not allowed", f"Grant READ on the topic {lab.source}", "TOPIC_AUTHORIZATION_FAILED")

    lab.broker.grant(ResourceType.TOPIC, lab.source, AclOperation.READ)
    code, _, err = lab.start_as_user("run=drain").wait()
    assert code == 0, err
    assert lab.has_results()


def test_reading_needs_rights_on_the_topic_and_on_no_group(lab: Lab) -> None:
    clients = ClientConfigs.from_settings(lab.broker.secured_settings)
    tag = finished_lately.tag("g", bytes(16))
    outcome = dead_letter(VERSION, Failure("timeout", "slow"), {0: [0]}, Origin("raw", bytes(16), "mine", "test"), NOW)
    producer = Producer({"bootstrap.servers": lab.broker.direct_servers})
    headers: list[tuple[str, str | bytes | None]] = list(finished_lately.headers(tag, VERSION.id))
    producer.produce(lab.dead_letters, outcome.value, outcome.key, headers=headers)
    assert producer.flush(DEADLINE_S) == 0

    letters = LiveLetters()
    DeadLetterReader(clients, lab.dead_letters, letters, ignore).refresh()
    assert [letter.letter.reason for letter in letters] == ["timeout"]
    told = finished_lately.version_ids(clients, (lab.dead_letters,), tag, 10, Health(ignore), lambda _: None)
    assert told.finished == [VERSION.id]
    lab.broker.revoke(ResourceType.TOPIC, lab.dead_letters, AclOperation.READ)
    with pytest.raises(BrokerError, match="not allowed to read the topic"):
        DeadLetterReader(clients, lab.dead_letters, LiveLetters(), ignore).refresh()
    with pytest.raises(ForbiddenError):
        finished_lately.version_ids(clients, (lab.dead_letters,), tag, 10, Health(ignore), lambda _: None)


def test_a_password_that_is_revoked_is_said_and_the_program_goes_on_when_it_is_valid_again(lab: Lab) -> None:
    program = working(lab)
    lab.broker.keep_out()
    lab.broker.secured_proxy.cut()
    lab.put(2)
    wait_until(lambda: "uthentication" in program.err(), DEADLINE_S, "the program to say that it is not let in")
    assert program.process.poll() is None, program.err()
    lab.broker.let_in()
    wait_until(lambda: program.process.poll() is not None or lab.has_results(), DEADLINE_S, "the results")
    assert program.process.poll() is None, program.err()


def test_a_password_that_is_wrong_from_the_start_is_told_at_once(lab: Lab) -> None:
    lab.broker.keep_out()
    ends_with(lab.start_as_user(), "does not let us in", "sasl")


MISSING: list[tuple[str, Callable[[Lab], tuple[ResourceType, str, AclOperation]], str]] = [
    ("group", lambda lab: (ResourceType.GROUP, lab.group, AclOperation.READ), "READ on the group"),
    (
        "transactional_id",
        lambda lab: (ResourceType.TRANSACTIONAL_ID, f"ray_reproducer.{lab.group}", AclOperation.WRITE),
        "WRITE and DESCRIBE on the transactional id",
    ),
]


@pytest.mark.parametrize(("right", "hint"), [(right, hint) for _, right, hint in MISSING], ids=[m[0] for m in MISSING])
def test_a_right_that_is_missing_at_the_start_is_named(
    lab: Lab, right: Callable[[Lab], tuple[ResourceType, str, AclOperation]], hint: str
) -> None:
    lab.broker.revoke(*right(lab))
    ends_with(lab.start_as_user("run=drain"), hint)
