"""Who runs a group, on a real broker."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from ray_reproducer.kafka import instance
from ray_reproducer.kafka.client_config import ClientConfigs

pytestmark = pytest.mark.slow


def test_who_came_later_is_known_by_the_time_in_the_name() -> None:
    older, newer = instance.own_name(0.0), instance.own_name(1.0)
    assert instance.is_newer(newer, older)
    assert not instance.is_newer(older, newer)
    assert not instance.is_newer(older, older)
    assert not instance.is_newer("", older)
    assert not instance.is_newer("somebody else's text", older)


def test_the_one_that_signed_last_is_named(bootstrap_servers: str, unique_topic: Callable[..., str]) -> None:
    clients = ClientConfigs.from_settings({"bootstrap.servers": bootstrap_servers}, {}, {})
    results = unique_topic("results")
    group = f"{results}.group"
    assert instance.who(clients, group, results) == ""
    first, second = instance.own_name(0.0), instance.own_name(1.0)
    assert instance.sign(clients, group, results, first)
    assert instance.sign(clients, group, results, second)
    assert instance.who(clients, group, results) == second
    assert f"process {os.getpid()} on" in second
    assert "1970-01-01T00:00:01" in second


def test_without_the_topic_nobody_is_named(bootstrap_servers: str, unique_topic: Callable[..., str]) -> None:
    clients = ClientConfigs.from_settings({"bootstrap.servers": bootstrap_servers}, {}, {})
    results = unique_topic("results", partitions=0)
    assert not instance.sign(clients, f"{results}.group", results, "me")
    assert instance.who(clients, f"{results}.group", results) == ""
