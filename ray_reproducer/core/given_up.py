"""Versions that were given up but are not committed as such yet, and what came of them meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

from ray_reproducer.core.assembly import SegmentReceipt


class GivenUp:
    """Ids of versions, and receipts that wait for the end of the transaction that carries their dead letter."""

    def __init__(self) -> None:
        """Begin with none."""
        self._ids: set[bytes] = set()
        self._late: dict[bytes, list[SegmentReceipt]] = {}

    def __contains__(self, version_id: bytes) -> bool:
        """Whether a version was given up."""
        return version_id in self._ids

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ids)

    def add(self, version_id: bytes) -> None:
        """Take note that a version was given up."""
        self._ids.add(version_id)

    def discard(self, version_id: bytes) -> None:
        """Take note that it is so no more."""
        self._ids.discard(version_id)

    def keep(self, receipt: SegmentReceipt) -> None:
        """Keep a receipt until the transaction has ended."""
        self._late.setdefault(receipt.version.id, []).append(receipt)

    def take_late(self) -> Iterator[SegmentReceipt]:
        """Yield the receipts that were kept, and keep them no longer."""
        late, self._late = self._late, {}
        for receipts in late.values():
            yield from receipts

    def late_segments(self) -> set[int]:
        """Ids of the segments that these receipts need."""
        return {receipt.slice.segment for receipts in self._late.values() for receipt in receipts}
