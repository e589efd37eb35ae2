"""The log topic: what a message says, when it comes, and that it always fits."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import cast

import pytest

from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.observability import log_topic
from ray_reproducer.observability.log_topic import LogTopic
from ray_reproducer.observability.side_channel import SideChannel
from tests.kafka.reading import read_all
from tests.observability.test_heartbeats import FakeChannel


def topic_of(channel: FakeChannel, now: list[float]) -> LogTopic:
    return LogTopic(cast("SideChannel", channel), "lab", logging.WARNING, 60.0, lambda: now[0])


def test_rules_1_and_2_lines_of_an_interval_are_one_message_and_nothing_is_none() -> None:
    channel, now = FakeChannel(), [0.0]
    topic = topic_of(channel, now)
    topic.buffer.add("Lab", logging.WARNING, "one")
    topic.buffer.add("Lab", logging.INFO, "not this")
    topic.buffer.add("Lab", logging.ERROR, "two\nTraceback")
    topic.update(last=False)
    assert channel.sent == []
    now[0] = 60.0
    topic.update(last=False)
    now[0] = 120.0
    topic.update(last=False)
    topic.update(last=True)
    assert channel.keys == ["lab_log"]
    assert isinstance(channel.sent[0]["timestamp"], float)
    assert abs(channel.sent[0]["timestamp"] - time.time()) < 60
    first, second = cast("list[str]", channel.sent[0]["messages"])
    assert first.endswith("] WARNING: one")
    assert second.endswith("] ERROR: two\nTraceback")


def test_rule_2_what_waits_at_the_end_is_sent() -> None:
    channel, now = FakeChannel(), [0.0]
    topic = topic_of(channel, now)
    topic.buffer.add("Lab", logging.WARNING, "last")
    topic.update(last=True)
    assert len(channel.sent) == 1
    assert channel.flushed


def test_rule_3_messages_stay_small_and_texts_become_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_topic, "MAX_MESSAGE_CHARS", 100)
    channel, now = FakeChannel(), [0.0]
    topic = topic_of(channel, now)
    for text in ("x" * 500, "\ud800", "short"):
        topic.buffer.add("Lab", logging.WARNING, text)
    topic.update(last=True)
    messages = [cast("list[str]", message["messages"]) for message in channel.sent]
    assert all(sum(map(len, lines)) <= 100 for lines in messages)
    assert [line for lines in messages for line in lines][1].endswith("\\ud800")


def test_lines_that_were_left_out_are_counted() -> None:
    channel, now = FakeChannel(), [0.0]
    topic = topic_of(channel, now)
    for _ in range(log_topic.MAX_LINES_WAITING + 5):
        topic.buffer.add("Lab", logging.WARNING, "again")
    topic.update(last=True)
    assert "(5 lines were left out here)" in cast("list[str]", channel.sent[0]["messages"])[0]


@pytest.mark.timeout(120)
def test_lines_arrive(bootstrap_servers: str, unique_topic: Callable[..., str]) -> None:
    name = unique_topic("log")
    clients = ClientConfigs.from_settings({"bootstrap.servers": bootstrap_servers})
    topic = LogTopic(SideChannel(clients, name, "Log lines", pytest.fail), "lab", logging.INFO, 60.0)
    logger = logging.getLogger("test.lab.topic")
    logger.addHandler(topic.buffer)
    logger.propagate = False
    logger.warning("naïve %s", "text")
    topic.update(last=True)
    (message,) = read_all(clients, name)
    assert message.key() == b"lab_log"
    (line,) = json.loads(message.value() or b"")["messages"]
    assert line.endswith("WARNING: naïve text")
