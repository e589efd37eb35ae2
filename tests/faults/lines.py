"""Faults: the line between program and broker is bad. They need a rig whose program goes through a proxy."""

from __future__ import annotations

import random
from typing import ClassVar, Final

from tests.faults.broker import PrivateBroker
from tests.faults.fault import Fault, register
from tests.faults.frames import Api
from tests.faults.plan import Batch
from tests.faults.proxy import BOTH, Action, Conditions, Proxy, Way
from tests.faults.rig import RECOVERY_S, Rig
from tests.waiting import wait_until

OWN_BROKER: Final = frozenset({"own_broker"})
"""What a rig must have: ``rig.broker`` is a ``PrivateBroker``, and the program goes through its proxy."""
SHORTEST_S: Final = 0.5
LONGEST_S: Final = 6.0
"""How long a line is bad, in seconds: shorter and longer than the transaction's timeout (5 s)."""
CUTS: Final = 4


def broker_of(rig: Rig) -> PrivateBroker:
    """The rig's broker."""
    assert isinstance(rig.broker, PrivateBroker), "the rig has no broker of its own"
    return rig.broker


def proxy_of(rig: Rig) -> Proxy:
    """The way to it."""
    return broker_of(rig).proxy


class _Bad(Fault):
    """The line is under some conditions for a while."""

    needs = OWN_BROKER
    conditions: ClassVar[Conditions]

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        with proxy_of(rig).under(self.conditions):
            self.at_first(rig)
            rig.hold(random.Random(batch.number).uniform(SHORTEST_S, LONGEST_S))

    def at_first(self, rig: Rig) -> None:
        """What is done when the conditions have begun."""


@register
class CutConnections(Fault):
    """All connections are reset, again and again, at any point of what they carry."""

    name = "connections cut"
    needs = OWN_BROKER

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        dice = random.Random(batch.number)
        for _ in range(CUTS):
            proxy_of(rig).cut()
            rig.hold(dice.uniform(0.0, 0.3))


@register
class CutInTheMiddle(_Bad):
    """Each connection is cut after so many bytes, mostly in the middle of a message."""

    name = "connections cut in the middle of messages"
    conditions = Conditions(cut_after_bytes=4_000)


@register
class Refused(_Bad):
    """No connection is left, and new ones are refused."""

    name = "connections refused"
    conditions = Conditions(refuses=True)

    def at_first(self, rig: Rig) -> None:
        """Cut those that are there."""
        proxy_of(rig).cut()


@register
class BlackHole(_Bad):
    """What is sent vanishes, both ways; connections stay."""

    name = "black hole"
    conditions = Conditions(swallowed=BOTH)


@register
class BlackHoleForReplies(_Bad):
    """Requests arrive and are carried out; no reply comes back."""

    name = "black hole for replies"
    conditions = Conditions(swallowed=frozenset({Way.TO_CLIENT}))


@register
class Held(_Bad):
    """What is sent to the broker arrives later, all at once."""

    name = "requests held"
    conditions = Conditions(held=frozenset({Way.TO_BROKER}))


@register
class Slow(_Bad):
    """Each way takes 200 ms."""

    name = "latency of 200 ms"
    conditions = Conditions(latency_s=0.2)


@register
class Narrow(_Bad):
    """A connection carries 40 kB/s."""

    name = "narrow line"
    conditions = Conditions(bytes_per_s=40_000.0)


@register
class HalfOpen(Fault):
    """The broker's side of all connections is gone, and the program is not told."""

    name = "half-open connections"
    needs = OWN_BROKER

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class. Cut at last: otherwise it is over when the program has waited for a reply long enough."""
        proxy_of(rig).half_open()
        rig.hold(random.Random(batch.number).uniform(SHORTEST_S, LONGEST_S))
        proxy_of(rig).cut()


class _Lost(Fault):
    """One message of a transaction is lost with its connection."""

    needs = OWN_BROKER
    api: ClassVar[Api]
    way: ClassVar[Way] = Way.TO_CLIENT

    def strike(self, rig: Rig, batch: Batch) -> None:
        """Lose it with its connection, or without, every other time."""
        action = Action.CUT if batch.number % 2 else Action.LOSE
        with proxy_of(rig).intercepting(self.api, self.way, action) as lost:
            wait_until(lambda: lost.hits, RECOVERY_S, f"a message of {self.api.name}")


@register
class CommitReplyLost(_Lost):
    """The broker has committed, and nobody hears of it."""

    name = "reply to the commit lost"
    api = Api.END_TXN


@register
class CommitLost(_Lost):
    """The commit does not arrive."""

    name = "commit lost"
    api, way = Api.END_TXN, Way.TO_BROKER


@register
class OffsetsReplyLost(_Lost):
    """The positions are in the transaction, and nobody hears of it."""

    name = "reply to the positions lost"
    api = Api.TXN_OFFSET_COMMIT


@register
class ProduceReplyLost(_Lost):
    """Records are written, and nobody hears of it."""

    name = "reply to the records lost"
    api = Api.PRODUCE


@register
class ProduceLost(_Lost):
    """Records do not arrive."""

    name = "records lost on their way"
    api, way = Api.PRODUCE, Way.TO_BROKER


@register
class StrayCommit(Fault):
    """The connection breaks at a commit, which arrives all the same, later: in the middle of the next transaction."""

    name = "late copy of a commit"
    needs = OWN_BROKER

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        delay_s = random.Random(batch.number).uniform(0.05, 1.0)
        with proxy_of(rig).intercepting(Api.END_TXN, Way.TO_BROKER, Action.STRAY, delay_s=delay_s) as stray:
            wait_until(lambda: stray.delivered, RECOVERY_S, "the late copy of a commit")
