"""All faults: importing this fills ``fault.FAULTS``. A module with faults is entered here, and nowhere else."""

from __future__ import annotations

from tests.faults import broker_troubles, dying, freezing, lines, nodes, stopping, transactions
from tests.faults.fault import FAULTS

__all__ = ["FAULTS", "broker_troubles", "dying", "freezing", "lines", "nodes", "stopping", "transactions"]
