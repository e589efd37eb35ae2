"""Chooses how the committer writes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ray_reproducer.actors.committer_settings import CommitterSettings
from ray_reproducer.kafka import instance
from ray_reproducer.kafka.at_least_once import AtLeastOnceDelivery
from ray_reproducer.kafka.delivery import TransactionalDelivery
from ray_reproducer.kafka.delivery_protocol import Delivery


def refuse_newer(settings: CommitterSettings) -> bool:
    """Leave the group to another instance that has come since.

    Returns:
        whether the broker has told.

    Raises:
        FencedError: there is one.
    """
    if not settings.instance:
        return True
    return instance.refuse_newer(settings.clients, settings.group_id, settings.results_topic, settings.instance)


def make_delivery(settings: CommitterSettings, on_trouble: Callable[[str], None]) -> Delivery:
    """Make what writes records and positions.

    Args:
        settings: of the committer.
        on_trouble: called with a line of text when the broker is in trouble, with "" when it is well again.
    """
    common = (settings.clients, settings.group_id, settings.source_topic, tuple(settings.lows))
    if not settings.exactly_once:
        return AtLeastOnceDelivery(*common, on_trouble)
    return TransactionalDelivery(
        *common,
        settings.transactional_id or f"ray_reproducer.{settings.group_id}",
        on_trouble,
        topics=(settings.results_topic, settings.dead_letters_topic),
        # A replay (its id is not made of its group's) plans anew after each take-over.
        takes_over_once=bool(settings.transactional_id),
        refuse_newer=partial(refuse_newer, settings),
        is_later_life=settings.is_later_life,
    )
