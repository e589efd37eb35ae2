"""What becomes of the source topic while it is read, on a real broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from ray_reproducer.actors.settings import PipelineSettings
from ray_reproducer.actors.topic_watch import TopicWatch
from ray_reproducer.core.errors import TopicReplacedError
from ray_reproducer.kafka import admin
from ray_reproducer.kafka.client_config import ClientConfigs
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
DEADLINE_S = 30.0


def watch(servers: str, topic: str) -> TopicWatch:
    clients = ClientConfigs.from_settings({"bootstrap.servers": servers}, {}, {})
    settings = PipelineSettings(
        source_topic=topic,
        results_topic="results",
        dead_letters_topic="letters",
        create_topics=False,
        group_id="group",
        clients=clients,
        extractor=b"",
        extractor_name="none",
        topic_check_interval_s=0.1,
    )
    return TopicWatch(settings, admin.describe_topic(clients, topic))


def wait_for_end(servers: str, topic: str, *, remake: bool) -> str:
    watching = watch(servers, topic)
    client = AdminClient({"bootstrap.servers": servers})
    for future in client.delete_topics([topic], operation_timeout=DEADLINE_S).values():
        future.result(DEADLINE_S)
    if remake:
        wait_until(lambda: topic not in client.list_topics(timeout=DEADLINE_S).topics, DEADLINE_S, "the deletion")
        for future in client.create_topics([NewTopic(topic, 1, 1)], operation_timeout=DEADLINE_S).values():
            future.result(DEADLINE_S)
    said: list[str] = []

    def ended() -> bool:
        try:
            watching.added()
        except TopicReplacedError as error:
            said.append(error.message)
        return bool(said)

    watching.start()
    wait_until(ended, DEADLINE_S, "the watch to notice")
    return said[0]


def test_new_partitions_are_told_once_with_their_first_offsets(
    bootstrap_servers: str, unique_topic: Callable[..., str]
) -> None:
    topic = unique_topic("source", partitions=2)
    watching = watch(bootstrap_servers, topic)
    watching.start()
    client = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in client.create_partitions([NewPartitions(topic, 4)]).values():
        future.result(DEADLINE_S)
    found: dict[int, int] = {}

    def both() -> bool:
        found.update(watching.added())
        return len(found) == 2

    wait_until(both, DEADLINE_S, "the new partitions")
    assert found == {2: 0, 3: 0}
    assert watching.added() == {}
    watching.close()


def test_a_topic_that_was_deleted_is_told(bootstrap_servers: str, unique_topic: Callable[..., str]) -> None:
    assert "was deleted while" in wait_for_end(bootstrap_servers, unique_topic("source"), remake=False)


def test_a_topic_that_was_made_anew_is_told(bootstrap_servers: str, unique_topic: Callable[..., str]) -> None:
    assert "was deleted and made anew while" in wait_for_end(bootstrap_servers, unique_topic("source"), remake=True)
