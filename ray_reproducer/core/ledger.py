"""Which offsets of the source topic are done, and what a commit may therefore say.

Rules (the tests quote their numbers):

1. An offset is *done* when the outcome of its file version is in a committed transaction; or it was filtered
   out; or it is a gap that is never delivered; or it repeats a chunk of a version that is done.
2. Committed position = the lowest offset not done. Commit metadata = the done offsets above it. Both come out of
   one call, :meth:`Ledger.plan`, together with the versions whose outcomes the transaction carries.
3. An outcome is carried only if the metadata that records it fits, on every partition that holds a chunk of it.
   One that does not fit waits until the position moves; everything else goes on. Carrying nothing always fits,
   because offsets above the highest done one need no words. Repeats of what is done are never undone: the metadata
   reaches up to the last of them if there is room, else they are read again and known again for what they are.
4. A position never moves back.
5. Until every partition has been read again up to the end of what its committed metadata describes, nothing is
   committed: what is done there is only known chunk by chunk, and any file could prove to be a repeat of it.
6. Positions that stay the same are committed again before the broker forgets them: ``plan(refresh=True)``.

A version is *opened* by its first chunk and *closed* by the transaction that carries its outcome, or because it
proves to be done already. Chunks of it that come later are repeats. While it is open, none of its offsets is done: the
commit metadata relies on that. A message that is no chunk is a version of its own with an id made of its partition and
offset (:func:`poison_id`).
"""

from __future__ import annotations

import hashlib
import heapq
from bisect import insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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
        ends: partition -> up to which offset its metadata says what is done.
    """

    carried: tuple[bytes, ...] = ()
    commits: Mapping[int, PartitionCommit] = field(default_factory=dict)
    ends: Mapping[int, int] = field(default_factory=dict)


def poison_id(partition: int, offset: int) -> bytes:
    """Make the id under which a message that is no chunk stands in the ledger."""
    return hashlib.blake2b(f"poison\0{partition}\0{offset}".encode(), digest_size=VERSION_ID_BYTES).digest()


class PartitionLedger:
    """The ledger of one partition. Only :class:`Ledger` changes it.

    Attributes:
        delivered_to: every offset below was delivered, or never will be.
        end: up to which offset the committed metadata says what is done.
        done_to: one more than the highest offset known to be done.
        committed: what was committed last by this run.
        undone: version id -> its ascending offsets, for all open versions.
    """

    def __init__(self, topic_id: bytes, start: PartitionStart) -> None:
        """Begin at a committed position, with nothing delivered."""
        self._topic_id = topic_id
        self._caught_up_at = start.restored.end if start.restored else start.position
        self.delivered_to = start.position
        self.end = self.done_to = self._caught_up_at
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

    def repeat(self, offset: int) -> None:
        """Take note that an offset repeats a chunk of a version that is done."""
        self.done_to = max(self.done_to, offset + 1)

    def close(self, version_id: bytes) -> None:
        """Take note that a version is done, with all its offsets."""
        self.repeat(self.undone.pop(version_id)[-1])

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

    def commit(self, closing: Collection[bytes]) -> tuple[PartitionCommit, int]:
        """Compute position and metadata as they will be once the versions in ``closing`` are done.

        Args:
            closing: ids of versions that have chunks on this partition.

        Returns:
            what to commit, and up to which offset it says what is done.

        Raises:
            MetadataTooLargeError: it can't be said in the space there is.
        """
        position = self.position(closing)
        needed = max(self.end, position, max((self.undone[v][-1] + 1 for v in closing), default=0))
        end = max(needed, self.done_to)
        undone = self._begun_below(end, closing)
        try:
            return self._encode(position, undone, end)
        except MetadataTooLargeError:
            if self.done_to <= needed:
                raise
            return self._encode(position, undone, needed)

    def _begun_below(self, end: int, closing: Collection[bytes]) -> dict[bytes, Sequence[int]]:
        """Find the open versions, without those in ``closing``, that have an offset below ``end``.

        Files that wait further up cost nothing, however many they are. Entries that are stale go: behind a large file
        that stays open, those of all files done since would pile up.
        """
        found: dict[bytes, Sequence[int]] = {}
        still_open: list[tuple[int, bytes]] = []
        while self._firsts and self._firsts[0][0] < end:
            first, version_id = entry = heapq.heappop(self._firsts)
            offsets = self.undone.get(version_id)
            if offsets is not None and offsets[0] == first:
                still_open.append(entry)
                if version_id not in closing:
                    found[version_id] = offsets
        for entry in still_open:
            heapq.heappush(self._firsts, entry)
        return found

    def _encode(self, position: int, undone: Mapping[bytes, Sequence[int]], end: int) -> tuple[PartitionCommit, int]:
        return PartitionCommit(position, commit_metadata.encode(self._topic_id, position, undone, end)), end


class Ledger:
    """The ledgers of all partitions of the source topic, and the one place that plans a commit."""

    def __init__(self, topic_id: bytes, starts: Mapping[int, PartitionStart]) -> None:
        """Begin at the committed state.

        Args:
            topic_id: the topic's 16-byte id, which goes into every commit's metadata.
            starts: partition -> where its ledger begins.
        """
        self._topic_id = topic_id
        self.partitions = {p: PartitionLedger(topic_id, start) for p, start in starts.items()}
        self._holders: dict[bytes, list[int]] = {}

    @property
    def caught_up(self) -> bool:
        """Whether every partition is (rule 5)."""
        return all(ledger.caught_up for ledger in self.partitions.values())

    def add(self, partition: int, position: int) -> None:
        """Take note of a partition that the topic did not have before.

        Args:
            partition: its number.
            position: where it begins.

        Raises:
            IllegalEventError: there is a ledger of it already.
        """
        if partition in self.partitions:
            raise IllegalEventError(f"partition {partition} is not new")
        self.partitions[partition] = PartitionLedger(self._topic_id, PartitionStart(position))

    def deliver(self, partition: int, start: int, stop: int) -> None:
        """Take note that every offset in ``[start, stop)`` of a partition was delivered or never will be."""
        self.partitions[partition].deliver(start, stop)

    def open(self, version_id: bytes, partition: int, offset: int) -> None:
        """Take note that an offset holds a chunk of a version that is not done."""
        holders = self._holders.setdefault(version_id, [])
        if partition not in holders:
            holders.append(partition)
        self.partitions[partition].open(version_id, offset)

    def repeat(self, partition: int, offset: int) -> None:
        """Take note that an offset repeats a chunk of a version that is done."""
        self.partitions[partition].repeat(offset)

    def close(self, version_id: bytes) -> None:
        """Take note that an open version is done, with all its offsets."""
        for partition in self._holders.pop(version_id):
            self.partitions[partition].close(version_id)

    def offsets(self, version_id: bytes) -> dict[int, list[int]]:
        """Where the chunks of an open version are: partition -> ascending offsets."""
        return {p: list(self.partitions[p].undone[version_id]) for p in self._holders[version_id]}

    def position(self, partition: int) -> int:
        """Lowest offset of a partition that is not done."""
        return self.partitions[partition].position()

    def plan(self, ready: Iterable[bytes], *, refresh: bool = False) -> CommitPlan:
        """Choose which outcomes the next transaction carries, and compute what it commits, in one snapshot.

        Args:
            ready: ids of the open versions that have an outcome, in the order in which they should go.
            refresh: commit every partition, also those whose state stays the same (rule 6).
        """
        if not self.caught_up:
            return CommitPlan()
        carried = dict.fromkeys(ready)
        closing: dict[int, set[bytes]] = {p: set() for p in self.partitions}
        for version_id in carried:
            for partition in self._holders[version_id]:
                closing[partition].add(version_id)
        drafts: dict[int, tuple[PartitionCommit, int]] = {}
        waiting = set(self.partitions)
        while waiting:
            partition = waiting.pop()
            try:
                drafts[partition] = self.partitions[partition].commit(closing[partition])
            except MetadataTooLargeError:
                # With nothing left to close here, the last committed state stays true.
                drafts.pop(partition, None)
                for version_id in self._too_much(partition, closing[partition]):
                    del carried[version_id]
                    for holder in self._holders[version_id]:
                        closing[holder].remove(version_id)
                        waiting.add(holder)
        commits = {p: c for p, (c, _) in drafts.items() if refresh or c != self.partitions[p].committed}
        return CommitPlan(tuple(carried), commits, {p: end for p, (_, end) in drafts.items()})

    def committed(self, plan: CommitPlan) -> None:
        """Take note that a planned transaction was committed.

        Chunks of the carried versions that were delivered after the plan was made are repeats.

        Raises:
            IllegalEventError: a position would move back (rule 4); nothing has changed.
        """
        for partition, commit in plan.commits.items():
            before = self.partitions[partition].committed
            if before is not None and commit.position < before.position:
                raise IllegalEventError(
                    f"partition {partition}: the position went back, {before.position} to {commit.position}"
                )
        for partition, commit in plan.commits.items():
            self.partitions[partition].committed = commit
        for partition, end in plan.ends.items():
            self.partitions[partition].end = end
        for version_id in plan.carried:
            self.close(version_id)

    def _too_much(self, partition: int, closing: Collection[bytes]) -> list[bytes]:
        """Choose which of the versions to leave for later, so that one partition's metadata fits.

        Those with the lowest offsets stay: they let the position move, which is what makes room.
        """
        ledger = self.partitions[partition]
        here = sorted(closing, key=lambda v: ledger.undone[v][0])

        def fits(count: int) -> bool:
            try:
                ledger.commit(set(here[:count]))
            except MetadataTooLargeError:
                return False
            return True

        # Not the most that fit, but some with few tries: one that fails is the most expensive thing there is, about
        # 50 ms where a thousand large files are open. What is left out goes with the next transactions.
        keep = len(here) // 2
        while keep and not fits(keep):
            keep //= 4
        return here[keep:]
