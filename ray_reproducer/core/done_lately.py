"""Which file versions were finished lately, so that a chunk that comes late, or again, is known for a repeat.

Rules:

1. A version is remembered when its outcome is committed; up to a number of them, the longest known is forgotten first.
2. With ``duplicates=reprocess`` nothing is remembered: what comes after the outcome is a file like any other.
3. A new life of the program remembers what it is told of earlier ones (the ids stand beside the results in Kafka).
4. That the only chunk of a version is done says that the version is finished, too; unless it is known to have come
   damaged, or nothing is known of that: then it may be sent again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal


class DoneLately:
    """A set of version ids with a limit."""

    def __init__(
        self,
        limit: int,
        duplicates: Literal["skip", "reprocess"],
        known: Iterable[bytes] = (),
        damaged: Iterable[bytes] | None = (),
    ) -> None:
        """Begin with what is known of earlier lives.

        Args:
            limit: how many ids are remembered.
            duplicates: whether any are (rule 2).
            known: ids of versions that were finished, in their order.
            damaged: ids of versions that have come damaged; None if that is not known.
        """
        self._limit = limit if duplicates == "skip" else 0
        self._ids: OrderedDict[bytes, None] = OrderedDict()
        for version_id in known:
            self.add(version_id)
        self._damaged = None if damaged is None else frozenset(damaged)

    def __contains__(self, version_id: bytes) -> bool:
        """Whether a version is remembered as finished."""
        return version_id in self._ids

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._ids)

    def add(self, version_id: bytes) -> None:
        """Remember a version."""
        self._ids[version_id] = None
        self._ids.move_to_end(version_id)
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)

    def learn(self, version_id: bytes) -> bool:
        """Remember a version of which the only chunk is known to be done, if that says so (rule 4); return whether."""
        if self._damaged is None or version_id in self._damaged:
            return version_id in self._ids
        self.add(version_id)
        return True
