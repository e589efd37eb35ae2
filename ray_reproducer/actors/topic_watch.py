"""Looks now and then whether the source topic has got new partitions, or is another one by now.

Partitions are assigned by this program, so nobody else would tell it. A thread of its own asks the broker; the driver
takes what it found.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from typing import Final

from ray_reproducer.actors.settings import PipelineSettings
from ray_reproducer.core.errors import BrokerError, TopicReplacedError
from ray_reproducer.kafka import admin

_TIMEOUT_S: Final = 15.0
"""How long the broker may take to answer; if it does not, it is asked again with the next look."""
_LOOKS_UNTIL_GONE: Final = 2
"""In how many looks in a row a topic is not found until it counts as deleted: a broker that has just started may not
know all of its topics yet."""


class TopicWatch:
    """The thread, and what it found.

    Args:
        settings: which topic, and how often it is looked at.
        topic: what was known of it when the run began.
    """

    def __init__(self, settings: PipelineSettings, topic: admin.TopicDescription) -> None:
        self._settings = settings
        self._topic = topic
        self._known = set(topic.partitions)
        self._missing = 0
        self._closed = threading.Event()
        self._found: queue.SimpleQueue[dict[int, int] | TopicReplacedError] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="topic watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def added(self) -> dict[int, int]:
        """Return the partitions that were added since the last call: partition -> first offset.

        Raises:
            TopicReplacedError: the topic was deleted, or deleted and made anew.
        """
        partitions: dict[int, int] = {}
        while not self._found.empty():
            found = self._found.get()
            if isinstance(found, TopicReplacedError):
                raise found
            partitions.update(found)
        return partitions

    def _run(self) -> None:
        while not self._closed.wait(self._settings.topic_check_interval_s):
            try:
                self._look()
            except TopicReplacedError as error:
                self._found.put(error)
                return
            except BrokerError:
                continue  # the clients that read and write say so, for as long as it lasts

    def _look(self) -> None:
        settings = self._settings
        found = admin.find_topic(settings.clients, settings.source_topic, _TIMEOUT_S)
        self._missing = 0 if found is not None else self._missing + 1
        if found is None and self._missing < _LOOKS_UNTIL_GONE:
            return
        if found is None or found.topic_id != self._topic.topic_id:
            what = "deleted" if found is None else "deleted and made anew"
            raise TopicReplacedError(
                f"the topic {settings.source_topic} was {what} while this program was reading it",
                hint="What is committed is safe. To read a topic that was made anew from its beginning, start with "
                "another group_id, or with topic_recreated=start_anew.",
            )
        self._note_partitions(found.partitions)

    def _note_partitions(self, partitions: Iterable[int]) -> None:
        new = sorted(set(partitions) - self._known)
        if not new:
            return
        limits = admin.watermarks(self._settings.clients, self._settings.source_topic, new, _TIMEOUT_S)
        self._known.update(new)
        self._found.put({partition: low for partition, (low, _) in limits.items()})
