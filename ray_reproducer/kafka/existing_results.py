"""Which results are on the topic already, from other programs and other groups (``start=skip_existing``).

Rules:

1. A record counts by its key, which tells the file's path; but for those of our own group, which are told by their ids
   (``finished_lately``): these know versions of one path apart.
2. Each result covers one version of its file, the one that comes first: a later version may still be without. That
   keys of different files can be equal (``a/b_c`` and ``a_b/c``) is not known here: such files cover each other.
3. Keys are kept as hashes of 8 bytes, about 100 bytes of memory each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from confluent_kafka import Message

from ray_reproducer.core.done_lately import ExistingResults
from ray_reproducer.kafka import faults, finished_lately
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.reading import TopicReading


def existing_results(
    clients: ClientConfigs, topic: str, ours: bytes, health: faults.Health, wait: Callable[[float], None]
) -> ExistingResults:
    """Read the keys of all results that are on a topic.

    Args:
        clients: the user's client settings.
        topic: where results are.
        ours: the tag of our group and source topic (``finished_lately.tag``).
        health: is told of trouble.
        wait: called between tries with seconds; raises to give up.

    Raises:
        ForbiddenError: we may not read the topic.
    """
    found = ExistingResults()

    def take(message: Message) -> None:
        key = message.key()
        headers: list[Any] = list(message.headers() or ())
        if not key or finished_lately.tag_of(finished_lately.said_by(headers)) == ours:
            return
        if message.value() is None:  # a tombstone: somebody has deleted the result
            found.discard(key)
        else:
            found.add(key, message.timestamp()[1])

    with closing(TopicReading(clients, health, wait)) as reading:
        reading.read(reading.since(topic, 0.0), take)
    return found
