"""When consumers hold still.

Rules:

1. Only for what drains on its own: whole files that wait for a worker, and outcomes that wait for the broker.
2. Reading goes on at half of what stopped it, so that it does not flutter.
"""

from __future__ import annotations

from ray_reproducer.core.limits import MachineLimits
from ray_reproducer.core.pool import ExtractionPool


class FlowLimits:
    """How much may wait."""

    def __init__(self, limits: MachineLimits) -> None:
        """Keep to the machine's limits."""
        self._limits = limits

    def full(self, pool: ExtractionPool, uncommitted_bytes: int, *, reading: bool) -> bool:
        """Return whether no more is to be read for now.

        Args:
            pool: the files that wait for a worker.
            uncommitted_bytes: length of the outcomes that wait for the broker.
            reading: whether consumers read at present.
        """
        limits = self._limits
        share = 1.0 if reading else 0.5
        return (
            pool.waiting_bytes > share * limits.max_waiting_bytes
            or pool.waiting > share * limits.max_waiting_files
            or uncommitted_bytes > share * limits.max_pending_bytes
        )
