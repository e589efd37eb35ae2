"""Faults: the broker is stopped, killed, frozen, full, or slow on purpose. They need a rig with a broker of its own."""

from __future__ import annotations

import random
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, Final

from tests.faults.broker import PrivateBroker
from tests.faults.fault import Fault, register
from tests.faults.frames import Api
from tests.faults.lines import OWN_BROKER, SHORTEST_S, broker_of, proxy_of
from tests.faults.plan import Batch
from tests.faults.proxy import Action, Way
from tests.faults.rig import RECOVERY_S, Rig
from tests.waiting import wait_until

RESTARTED: Final = 0.2
"""Weight of faults after which the broker is started again: 5 s and more."""
TRANSACTION_TIMEOUT_S: Final = 5.0
"""``producer.transaction.timeout.ms`` of the program in such a rig: so that what takes a minute takes seconds."""
QUOTA_BYTES_PER_S: Final = 20_000.0
OVERRIDES: Final = (f"producer.transaction.timeout.ms={TRANSACTION_TIMEOUT_S * 1000:.0f}",)
"""What such a rig adds to the program's command line."""
_STEPS: Final = (
    (Api.PRODUCE, Way.TO_BROKER),
    (Api.ADD_OFFSETS_TO_TXN, Way.TO_BROKER),
    (Api.TXN_OFFSET_COMMIT, Way.TO_BROKER),
    (Api.END_TXN, Way.TO_BROKER),
    # The broker has said that it will commit, and may have written none or some of the markers.
    (Api.END_TXN, Way.TO_CLIENT),
)


def rig_with(broker: PrivateBroker, directory: Path, seed: int, delivery: str, features: Collection[str]) -> Rig:
    """Make a rig whose program goes through the broker's proxy; the broker is made well first."""
    broker.recover()
    return Rig(
        directory,
        broker.direct_servers,
        seed,
        overrides=OVERRIDES,
        delivery=delivery,
        program_servers=broker.servers,
        features={*features, *OWN_BROKER},
        broker=broker,
    )


@register
class StopBroker(Fault):
    """SIGTERM, and started again."""

    name = "broker stopped and started"
    needs = OWN_BROKER
    weight = RESTARTED

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        broker_of(rig).stop()
        broker_of(rig).start()


@register
class KillBroker(Fault):
    """SIGKILL at a step of a transaction, and started again."""

    name = "broker killed in a transaction"
    needs = OWN_BROKER
    weight = RESTARTED

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        broker, (step, way) = broker_of(rig), _STEPS[batch.number % len(_STEPS)]
        with proxy_of(rig).intercepting(step, way, Action.NOTICE, then=broker.kill) as killed:
            wait_until(lambda: killed.hits, RECOVERY_S, f"a request of {step.name}")
        broker.start()


class _Frozen(Fault):
    """SIGSTOP at a step of a transaction, and SIGCONT later."""

    needs = OWN_BROKER
    shortest_s: ClassVar[float]
    longest_s: ClassVar[float]

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        broker, (step, way) = broker_of(rig), _STEPS[batch.number % len(_STEPS)]
        try:
            with proxy_of(rig).intercepting(step, way, Action.NOTICE, then=broker.freeze) as frozen:
                wait_until(lambda: frozen.hits, RECOVERY_S, f"a request of {step.name}")
            rig.hold(random.Random(batch.number).uniform(self.shortest_s, self.longest_s))
        finally:
            broker.thaw()


@register
class FreezeBroker(_Frozen):
    """For less than a transaction may take."""

    name = "broker frozen in a transaction"
    shortest_s, longest_s = SHORTEST_S, TRANSACTION_TIMEOUT_S - 2


@register
class FreezeBrokerLong(_Frozen):
    """For so long that it gives the transaction up when it wakes, and its clients with it."""

    name = "broker frozen past the transaction's timeout"
    weight = RESTARTED
    shortest_s, longest_s = TRANSACTION_TIMEOUT_S + 1, TRANSACTION_TIMEOUT_S + 5


@register
class FullDisk(Fault):
    """The broker can't write any more, and ends itself; it is started again when there is room."""

    name = "broker's disk full"
    needs = OWN_BROKER
    weight = RESTARTED

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        broker = broker_of(rig)
        broker.fill_disk()
        wait_until(lambda: not broker.is_running(), RECOVERY_S, "the end of a broker that can't write")
        broker.start()


@register
class Quota(Fault):
    """The broker makes the program wait for each answer."""

    name = "quota"
    needs = OWN_BROKER

    def strike(self, rig: Rig, batch: Batch) -> None:
        """See the class."""
        broker = broker_of(rig)
        rates = {"producer_byte_rate": QUOTA_BYTES_PER_S, "consumer_byte_rate": QUOTA_BYTES_PER_S}
        broker.limit_rate("ray_reproducer", **rates)
        try:
            rig.put(20)
            rig.hold(random.Random(batch.number).uniform(SHORTEST_S, TRANSACTION_TIMEOUT_S))
        finally:
            broker.limit_rate("ray_reproducer", **dict.fromkeys(rates))
