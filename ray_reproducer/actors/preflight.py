"""What can be found out before Ray is started: a wrong address or a full disk should be told in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ray_reproducer.actors.settings import PipelineSettings
from ray_reproducer.kafka import admin
from ray_reproducer.output_directory import OutputDirectory

BROKER_TIMEOUT_S: Final = 15.0
"""How long the broker may take to answer at the start: a wrong address is to be told within half a minute."""

UPLOAD_PARTITIONS: Final = 4
"""Partitions of a source topic that is made for an upload: room for some consumers."""


def look(settings: PipelineSettings) -> None:
    """Look at the output directory and at the broker, before anything is started.

    Raises:
        OutputDirectoryError: files are to be written, and can't be.
        ConfigurationError: a setting of the Kafka clients is none.
        BrokerError: the broker does not answer, or something that is needed there is missing.
    """
    if settings.datafile_mode != "memory":
        OutputDirectory(Path(settings.output_dir)).check()
    if not settings.embedded:
        settings.clients.check()
        look_at_topics(settings)


def look_at_topics(settings: PipelineSettings) -> admin.TopicDescription:
    """Make sure that the topics are there, and that the group is free; return the source topic.

    Raises:
        BrokerError: the broker does not answer; a topic is missing and may not be made; somebody else uses the group.
    """
    clients = settings.clients
    if settings.upload is not None and settings.create_topics:
        admin.ensure_topic(clients, settings.source_topic, UPLOAD_PARTITIONS, BROKER_TIMEOUT_S)
    topic = admin.describe_topic(clients, settings.source_topic, BROKER_TIMEOUT_S)
    for name in (settings.results_topic, settings.dead_letters_topic):
        if settings.create_topics:
            admin.ensure_topic(clients, name, len(topic.partitions), BROKER_TIMEOUT_S)
        else:
            admin.describe_topic(clients, name, BROKER_TIMEOUT_S)
    if not settings.embedded:
        admin.refuse_group_with_members(clients, settings.group_id, BROKER_TIMEOUT_S)
    return topic
