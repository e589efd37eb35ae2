"""Heartbeats: when they come, what they say, and that their counts add up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.progress import Progress
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.observability import side_channel
from ray_reproducer.observability.heartbeats import Counts, Heartbeats
from ray_reproducer.observability.side_channel import SideChannel
from tests.kafka.reading import read_all

COUNTS = (
    "n_messages_read",
    "n_messages_processed",
    "n_messages_produced",
    "n_bytes_read",
    "n_bytes_processed",
    "n_bytes_produced",
)


class FakeChannel:
    """Delivers or loses what it is given."""

    def __init__(self) -> None:
        self.sent: list[dict[str, object]] = []
        self.keys: list[str] = []
        self.lost: list[Callable[[], None]] = []
        self.loses = False
        self.flushed = False

    def send(self, key: str, value: bytes, on_lost: Callable[[], None]) -> None:
        if self.loses:
            self.lost.append(on_lost)
        else:
            self.keys.append(key)
            self.sent.append(json.loads(value))

    def poll(self) -> None:
        for lost in self.lost:
            lost()
        self.lost.clear()

    def flush(self, by_s: float) -> None:
        self.flushed = True
        self.poll()


def heartbeats(channel: FakeChannel, now: list[float]) -> Heartbeats:
    return Heartbeats(cast("SideChannel", channel), "lab", 900.0, lambda: now[0])


def progress(factor: int) -> Progress:
    return Progress(
        messages_read=7 * factor,
        messages_processed=5 * factor,
        results=2 * factor,
        bytes_read=1000 * factor,
        bytes_processed=700 * factor,
        bytes_produced=30 * factor,
        dead_letters=factor,
    )


def totals(sent: Sequence[dict[str, object]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for message in sent:
        total.update({name: cast("int", message[name]) for name in COUNTS})
    return dict(total)


def test_rule_1_one_at_the_start_one_each_interval_one_at_the_end() -> None:
    channel, now = FakeChannel(), [0.0]
    beats = heartbeats(channel, now)
    for now[0] in (0.0, 1.0, 899.0, 900.0, 901.0, 1799.0, 1800.0):
        beats.update(last=False)
    assert len(channel.sent) == 3
    beats.update(last=True)
    assert len(channel.sent) == 4
    assert channel.flushed
    assert set(channel.keys) == {"lab_heartbeat"}


def test_what_one_says() -> None:
    channel, now = FakeChannel(), [0.0]
    beats = heartbeats(channel, now)
    beats.progress(progress(1))
    beats.update(last=False)
    message = channel.sent[0]
    timestamp = datetime.fromisoformat(str(message.pop("timestamp")))
    assert timestamp.utcoffset() == timedelta(0)
    assert message == dict(zip(COUNTS, (7, 5, 2, 1000, 700, 30), strict=True))


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans())))
def test_rule_2_counts_add_up_whatever_is_lost_on_the_way(steps: list[tuple[int, bool]]) -> None:
    channel, now = FakeChannel(), [0.0]
    beats = heartbeats(channel, now)
    so_far = 0
    for more, channel.loses in steps:
        so_far += more
        beats.progress(progress(so_far))
        now[0] += 900.0
        beats.update(last=False)
    channel.loses = False
    beats.update(last=True)
    assert totals(channel.sent) == Counts.of(progress(so_far))._asdict()
    assert all(cast("int", message[name]) >= 0 for message in channel.sent for name in COUNTS)


@pytest.mark.timeout(120)
def test_they_arrive_on_a_topic_that_was_not_there(bootstrap_servers: str, unique_topic: Callable[..., str]) -> None:
    topic = unique_topic("heartbeats", partitions=0)
    clients = ClientConfigs.from_settings({"bootstrap.servers": bootstrap_servers})
    said: list[str] = []
    beats = Heartbeats(SideChannel(clients, topic, "Heartbeats", said.append), "lab", 900.0)
    beats.update(last=False)
    beats.progress(progress(3))
    beats.update(last=True)
    messages = read_all(clients, topic)
    assert [message.key() for message in messages] == [b"lab_heartbeat"] * 2
    assert totals([json.loads(message.value() or b"") for message in messages]) == Counts.of(progress(3))._asdict()
    assert said == []


def test_side_channel_rule_3_a_broker_that_is_away_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_channel, "TOPIC_TIMEOUT_S", 0.5)
    clients = ClientConfigs.from_settings({"bootstrap.servers": "127.0.0.1:9"})
    said: list[str] = []
    channel = SideChannel(clients, "heartbeats", "Heartbeats", said.append)
    lost: list[int] = []
    for number in range(3):
        channel.send("lab_heartbeat", b"{}", partial(lost.append, number))
    channel.flush(0.0)
    assert lost == [0, 1, 2]
    assert len(said) == 1
    assert "Heartbeats don't reach the topic heartbeats" in said[0]
    assert "127.0.0.1:9" in said[0]


def test_side_channel_rule_2_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_channel, "TOPIC_TIMEOUT_S", 0.5)
    settings = {"bootstrap.servers": "127.0.0.1:9"}
    clients = ClientConfigs.from_settings(settings, producer={"queue.buffering.max.messages": 2})
    said: list[str] = []
    channel = SideChannel(clients, "heartbeats", "Heartbeats", said.append)
    lost: list[int] = []
    for number in range(4):
        channel.send("lab_heartbeat", b"{}", partial(lost.append, number))
    assert lost == [2, 3]
    channel.send("lab_heartbeat", b"x" * 2_000_000, lambda: lost.append(99))
    assert lost[-1] == 99
    channel.flush(0.0)
    assert sorted(lost) == [0, 1, 2, 3, 99]
    assert len(said) == 1
