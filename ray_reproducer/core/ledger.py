"""Which offsets of the source topic are done, and what a commit may therefore say.

Rules (the tests quote their numbers):

1. An offset is *done* when the outcome of its file version is in a committed transaction; or it was filtered
   out; or it is a gap that is never delivered; or it repeats a chunk of a version that is done.
2. Committed position = the lowest offset not done. Commit metadata = the done offsets above it. Both come out of
   one call, :meth:`Ledger.plan`, together with the versions whose outcomes the transaction carries.
3. An outcome is carried only if the metadata that records it fits, on every partition that holds a chunk of it.
   One that does not fit waits until the position moves; everything else goes on. Carrying nothing always fits,
   because offsets above the highest done one need no words.
4. A position never moves back.
5. Until every partition has been read again up to the end of what its committed metadata describes, nothing is
   committed: what is done there is only known chunk by chunk, and any file could prove to be a repeat of it.
6. Positions that stay the same are committed again before the broker forgets them: ``plan(refresh=True)``.

A version is *opened* by its first chunk and *closed* by the transaction that carries its outcome. A message that
is no chunk is a version of its own with an id made of its partition and offset (:func:`poison_id`).
"""

from __future__ import annotations

import hashlib
import heapq
from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ray_reproducer.core import commit_metadata
from ray_reproducer.core.chunk import VERSION_ID_BYTES
from ray_reproducer.core.commit_metadata import CommittedState
from ray_reproducer.core.errors import IllegalEventError, MetadataTooLargeError

_EMPTY: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class PartitionStart:
    """Where a partition's ledger begins.

    Attributes:
        position: the committed position, or where a new group begins.
        restored: what the commit metadata says of offsets above it; None if there was none.
    """

    position: int
    restored: CommittedState | None = None


@dataclass(frozen=True, slots=True)
class PartitionCommit:
    """What is to be committed for one partition: a position, and the metadata beside it."""

    position: int
    metadata: str


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """What one transaction may carry.

    Attributes:
        carried: ids of the versions whose outcomes go into the transaction.
        commits: partition -> what to commit; partitions whose committed state stays the same are left out.
        delivered_to: partition -> up to which offset the plan knows the topic; what comes later is not in it.
    """

    carried: tuple[bytes, ...]
    commits: Mapping[int, PartitionCommit]
    delivered_to: Mapping[int, int]


def poison_id(partition: int, offset: int) -> bytes:
    """Make the id under which a message that is no chunk stands in the ledger."""
    return hashlib.blake2b(f"poison\0{partition}\0{offset}".encode(), digest_size=VERSION_ID_BYTES).digest()


class PartitionLedger:
    """The ledger of one partition. Only :class:`Ledger` changes it."""

    def __init__(self, topic_id: bytes, start: PartitionStart) -> None:
        """Begin at a committed position, with nothing delivered."""
        self._topic_id = topic_id
        self._caught_up_at = start.restored.end if start.restored else start.position
        self.delivered_to = start.position
        self.end = self._caught_up_at
        self.committed: PartitionCommit | None = None
        self.undone: dict[bytes, list[int]] = {}
        # (first undone offset, version id), smallest first; an entry is stale when its version was closed.
        self._firsts: list[tuple[int, bytes]] = []

    @property
    def caught_up(self) -> bool:
        """Whether all that the restored metadata describes has been delivered again (rule 5)."""
        return self.delivered_to >= self._caught_up_at

    def deliver(self, start: int, stop: int) -> None:
        """Take note that every offset in ``[start, stop)`` was delivered or never will be."""
        if start != self.delivered_to or stop < start:
            raise IllegalEventError(f"offsets {start} to {stop} were delivered; expected from {self.delivered_to}")
        self.delivered_to = stop

    def open(self, version_id: bytes, offset: int) -> None:
        """Take note that an offset holds a chunk of a version that is not done."""
        offsets = self.undone.get(version_id)
        if offsets is None:
            self.undone[version_id] = [offset]
            heapq.heappush(self._firsts, (offset, version_id))
        elif offset > offsets[-1]:
            offsets.append(offset)
        else:
            insort(offsets, offset)
            if offset == offsets[0]:
                heapq.heappush(self._firsts, (offset, version_id))

    def close(self, version_id: bytes, before: int) -> bool:
        """Take note that a version is done with its offsets below ``before``; True if it has none above."""
        offsets = self.undone[version_id]
        cut = bisect_left(offsets, before)
        if cut:
            self.end = max(self.end, offsets[cut - 1] + 1)
        if cut == len(offsets):
            del self.undone[version_id]
            return True
        self.undone[version_id] = later = offsets[cut:]
        heapq.heappush(self._firsts, (later[0], version_id))
        return False

    def position(self, closing: Collection[bytes] = _EMPTY) -> int:
        """Lowest offset that is not done, as it will be once the versions in ``closing`` are."""
        passed: list[tuple[int, bytes]] = []
        while self._firsts:
            first, version_id = self._firsts[0]
            offsets = self.undone.get(version_id)
            if offsets is None or offsets[0] != first:
                heapq.heappop(self._firsts)
            elif version_id in closing:
                passed.append(heapq.heappop(self._firsts))
            else:
                break
        position = self._firsts[0][0] if self._firsts else self.delivered_to
        for entry in passed:
            heapq.heappush(self._firsts, entry)
        return position

    def commit(self, closing: Collection[bytes]) -> PartitionCommit:
        """Compute position and metadata as they will be once the versions in ``closing`` are done.

        Raises:
            MetadataTooLargeError: it can't be said in the space there is.
        """
        position = self.position(closing)
        end = max(self.end, max((self.undone[v][-1] + 1 for v in closing if v in self.undone), default=0))
        if end <= position:
            undone: Mapping[bytes, Sequence[int]] = {}
            end = position
        elif closing:
            undone = {v: offsets for v, offsets in self.undone.items() if v not in closing}
        else:
            undone = self.undone
        return PartitionCommit(position, commit_metadata.encode(self._topic_id, position, undone, end))


class Ledger:
    """The ledgers of all partitions of the source topic, and the one place that plans a commit."""

    def __init__(self, topic_id: bytes, starts: Mapping[int, PartitionStart]) -> None:
        """Begin at the committed state.

        Args:
            topic_id: the topic's 16-byte id, which goes into every commit's metadata.
            starts: partition -> where its ledger begins.
        """
        self.partitions = {p: PartitionLedger(topic_id, start) for p, start in starts.items()}
        self._holders: dict[bytes, list[int]] = {}

    @property
    def caught_up(self) -> bool:
        """Whether every partition is (rule 5)."""
        return all(ledger.caught_up for ledger in self.partitions.values())

    def deliver(self, partition: int, start: int, stop: int) -> None:
        """Take note that every offset in ``[start, stop)`` of a partition was delivered or never will be."""
        self.partitions[partition].deliver(start, stop)

    def open(self, version_id: bytes, partition: int, offset: int) -> None:
        """Take note that an offset holds a chunk of a version that is not done."""
        holders = self._holders.setdefault(version_id, [])
        if partition not in holders:
            holders.append(partition)
        self.partitions[partition].open(version_id, offset)

    def offsets(self, version_id: bytes) -> dict[int, list[int]]:
        """Where the chunks of an open version are: partition -> ascending offsets."""
        return {p: list(self.partitions[p].undone[version_id]) for p in self._holders[version_id]}

    def position(self, partition: int) -> int:
        """Lowest offset of a partition that is not done."""
        return self.partitions[partition].position()

    def plan(self, ready: Sequence[bytes], *, refresh: bool = False) -> CommitPlan:
        """Choose which outcomes the next transaction carries, and compute what it commits, in one snapshot.

        Args:
            ready: ids of the open versions that have an outcome, in the order in which they should go.
            refresh: commit every partition, also those whose state stays the same (rule 6).
        """
        delivered_to = {p: ledger.delivered_to for p, ledger in self.partitions.items()}
        if not self.caught_up:
            return CommitPlan((), {}, delivered_to)
        known = dict(self.partitions)
        carried = dict.fromkeys(ready)
        commits: dict[int, PartitionCommit] = {}
        waiting = list(known)
        while waiting:
            partition = waiting.pop()
            try:
                commits[partition] = known[partition].commit(carried.keys())
            except MetadataTooLargeError:
                left_out = self._too_much(partition, list(carried))
                if not left_out:
                    # Nothing of this partition is carried any more: its last committed state stays true.
                    del known[partition]
                for version_id in left_out:
                    del carried[version_id]
                # Fewer outcomes mean other states on every partition: compute them all again.
                waiting, commits = list(known), {}
        if not refresh:
            commits = {p: c for p, c in commits.items() if c != self.partitions[p].committed}
        return CommitPlan(tuple(carried), commits, delivered_to)

    def committed(self, plan: CommitPlan) -> frozenset[bytes]:
        """Take note that a planned transaction was committed.

        Returns:
            those of the carried versions that are done and yet have open offsets: chunks that were repeated after
            the plan was made. They close with the next plan, without an outcome.

        Raises:
            IllegalEventError: a position would move back (rule 4).
        """
        for partition, commit in plan.commits.items():
            ledger = self.partitions[partition]
            if ledger.committed is not None and commit.position < ledger.committed.position:
                before = ledger.committed.position
                raise IllegalEventError(f"partition {partition}: the position went back, {before} to {commit.position}")
            ledger.committed = commit
        repeated: set[bytes] = set()
        for version_id in plan.carried:
            still_open = [
                p
                for p in self._holders.pop(version_id)
                if not self.partitions[p].close(version_id, plan.delivered_to[p])
            ]
            if still_open:
                self._holders[version_id] = still_open
                repeated.add(version_id)
        return frozenset(repeated)

    def _too_much(self, partition: int, carried: Sequence[bytes]) -> list[bytes]:
        """Choose which of the carried versions to leave for later, so that one partition's metadata fits.

        Those with the lowest offsets stay: they let the position move, which is what makes room.
        """
        ledger = self.partitions[partition]
        here = sorted((v for v in carried if v in ledger.undone), key=lambda v: ledger.undone[v][0])
        elsewhere = {v for v in carried if v not in ledger.undone}

        def fits(count: int) -> bool:
            try:
                ledger.commit(elsewhere.union(here[:count]))
            except MetadataTooLargeError:
                return False
            return True

        # Sizes are nearly monotonic; where they are not, a smaller number than the best is found, which is safe.
        keep = bisect_left(range(1, len(here)), 1, key=lambda count: 0 if fits(count) else 1)
        while keep and not fits(keep):
            keep //= 2
        return here[keep:]
