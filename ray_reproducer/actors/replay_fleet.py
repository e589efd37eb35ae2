"""The actors of a replay: those of every run, which read only what dead letters name.

How that differs, and why, is at the head of :mod:`ray_reproducer.kafka.replaying`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ray_reproducer.actors.committer_settings import CommitterSettings, ReplayOrders
from ray_reproducer.actors.consumer import ConsumerSettings, ReplayReading
from ray_reproducer.actors.fleet import Fleet
from ray_reproducer.actors.settings import PipelineSettings
from ray_reproducer.actors.stopping import StopFlag
from ray_reproducer.core.errors import BrokerError
from ray_reproducer.core.ledger import PartitionStart
from ray_reproducer.core.live_letters import Place
from ray_reproducer.core.replay_plan import FailedFile
from ray_reproducer.kafka import admin, finished_lately
from ray_reproducer.kafka.replaying import Replay

_LOG: Final = logging.getLogger("ray_reproducer.replay")
_FORGET_TIMEOUT_S: Final = 5.0
"""How long the deletion of the group may take: nothing depends on it."""


class ReplayFleet(Fleet):
    """One committer and some consumers that replay dead letters.

    Args:
        settings: of the run; the group id is replaced.
        stop: whether the run is to end.
        began_at: as for every fleet.
        replay: the dead letters.
    """

    def __init__(
        self, settings: PipelineSettings, stop: StopFlag, began_at: Mapping[int, int], *, replay: Replay
    ) -> None:
        super().__init__(replace(settings, group_id=replay.new_group_id()), stop, began_at)
        self._replay = replay

    def drain(self) -> None:
        """Let the run end when all that is planned has been read and has its outcome."""
        self._tell("drain_to", self._replay.plan.ends)

    def take_new_partitions(self) -> list[int]:
        """Look whether the topic is still the same; partitions that are new hold nothing that a dead letter names."""
        if self._watch is not None:
            self._watch.added()
        return []

    def end(self) -> None:
        """End all actors, and leave no group behind."""
        super().end()
        group_id = self._settings.group_id
        try:
            admin.forget_group(self._settings.clients, group_id, _FORGET_TIMEOUT_S)
        except BrokerError as error:
            _LOG.warning("the consumer group %s stays behind until the broker forgets it: %s", group_id, error.message)

    def _begin(
        self, starts: Mapping[int, PartitionStart], topic: admin.TopicDescription
    ) -> Mapping[int, PartitionStart]:
        """Plan, now that no other replay can commit any more."""
        del starts  # where a new group begins
        plan = self._replay.plan_for(topic)
        begin = {partition: ranges[0][0] for partition, ranges in plan.ranges.items()}
        clears = {version_id: _places_by_key(file) for version_id, file in plan.files.items()}
        owners = {
            version_id: finished_lately.tag_of(file.owner) for version_id, file in plan.files.items() if file.owner
        }
        groups = {version_id: file.group_id for version_id, file in plan.files.items() if file.group_id}
        self._tell("replay", ReplayOrders(begin, plan.attempts, clears, owners, groups))
        return {partition: PartitionStart(offset) for partition, offset in begin.items()}

    def _consumer_settings(self, number: int) -> ConsumerSettings:
        plan = self._replay.plan
        reading = ReplayReading(plan.ranges, frozenset(plan.files))
        return replace(super()._consumer_settings(number), replay=reading)

    def _committer_settings(
        self, topic: admin.TopicDescription, lows: Mapping[int, int], begin: Mapping[int, int]
    ) -> CommitterSettings:
        told = super()._committer_settings(topic, lows, begin)
        return replace(told, transactional_id=self._replay.transactional_id, instance="", is_later_life=False)


def _places_by_key(file: FailedFile) -> dict[str, tuple[Place, ...]]:
    places: dict[str, tuple[Place, ...]] = {}
    for letter in file.letters:
        places[letter.key] = (*places.get(letter.key, ()), letter.place)
    return places
