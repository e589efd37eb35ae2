"""All faults and stages: importing this fills ``FAULTS`` and ``STAGES``. Modules with some are entered here."""

from __future__ import annotations

from tests.faults import broker_troubles, brokers, dying, freezing, lines, nodes, stopping, transactions
from tests.faults.fault import FAULTS
from tests.faults.stages import STAGES

__all__ = [
    "FAULTS",
    "STAGES",
    "broker_troubles",
    "brokers",
    "dying",
    "freezing",
    "lines",
    "nodes",
    "stopping",
    "transactions",
]
