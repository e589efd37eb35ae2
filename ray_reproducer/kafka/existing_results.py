"""Which results are on the topic already, from a program that leaves no ids beside them (``start=skip_existing``).

Rules:

1. A record without our header counts, by its key: the key tells the file's path. Ours are told by their ids
   (``finished_lately``), which know versions of one path apart.
2. Of records with the same key, the newest counts.
3. Keys are kept as hashes of 8 bytes, about 100 bytes of memory each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from confluent_kafka import Message

from ray_reproducer.core.done_lately import ExistingResults
from ray_reproducer.kafka import faults, finished_lately
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.reading import TopicReading


def existing_results(
    clients: ClientConfigs, topic: str, health: faults.Health, wait: Callable[[float], None]
) -> ExistingResults:
    """Read the keys of all results that are on a topic.

    Args:
        clients: the user's client settings.
        topic: where results are.
        health: is told of trouble.
        wait: called between tries with seconds; raises to give up.

    Raises:
        ForbiddenError: we may not read the topic.
    """
    found = ExistingResults()

    def take(message: Message) -> None:
        key = message.key()
        if key and not any(name == finished_lately.HEADER for name, _ in list(message.headers() or ())):
            found.add(key, message.timestamp()[1])

    with closing(TopicReading(clients, health, wait)) as reading:
        reading.read(reading.since(topic, 0.0), take)
    return found
