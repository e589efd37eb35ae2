"""What a replay does: live dead letters and what is left of the source topic in, offsets to read and files to run out.

Rules:

1. Letters of one file version (of one extractor, from one topic) are one file to run: its offsets are those of all of
   them, so that an incomplete file whose rest came later is whole. The newest letter says its reason and its time.
2. A file is chosen if path, reason, time and extractor match. With no condition, all are.
3. A file is run if every chunk can still be there. Otherwise it is refused, with all that is in the way: the topic is
   another one than the letter speaks of; offsets that the topic has no longer, or that lie beyond its end, which is not
   to be gone (each range is named); fewer offsets than the file has chunks; a message that is no chunk.
4. Such offsets are in the way only if too few are left: a file that was uploaded twice has more than it needs.
5. What is read is, for each partition, the sorted, merged ranges of the offsets of all files that are run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias

from ray_reproducer.core.dead_letter import DeadLetter
from ray_reproducer.core.live_letters import Letter

NAMED_RANGES: Final = 20
"""How many ranges of offsets that are gone are named for one file; of more the number is said."""

END: Final = 2**63
"""Above every offset."""

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Ascending, disjoint half-open ranges of offsets of one partition: (start, stop)."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant.

    Attributes:
        path_regex: must match the beginning of the path (a message that is no chunk has the path ""); None: any.
        reasons: one of these; empty: any.
        since: not older than this; None: any.
        until: older than this; None: any.
        extractor: of the extractor with this name; None: of any.
    """

    path_regex: str | None = None
    reasons: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    extractor: str | None = None

    @property
    def is_all(self) -> bool:
        """Whether there is no condition on path, reason and time."""
        return not (self.path_regex or self.reasons or self.since or self.until)

    def matches(self, letter: DeadLetter) -> bool:
        """Whether a file whose newest letter this is is meant."""
        return (
            (self.extractor is None or letter.extractor == self.extractor)
            and (self.path_regex is None or re.match(self.path_regex, letter.path) is not None)
            and (not self.reasons or letter.reason in self.reasons)
            and (self.since is None or letter.time >= self.since)
            and (self.until is None or letter.time < self.until)
        )


@dataclass(frozen=True, slots=True)
class FailedFile:
    """All live letters of one file version (or of one message that is no chunk), oldest first."""

    letters: tuple[Letter, ...]

    @property
    def newest(self) -> DeadLetter:
        """The letter that says how things stand."""
        return self.letters[-1].letter

    @property
    def owner(self) -> bytes:
        """What a header says of the file and of the group that it failed in; empty if there is none."""
        return self.letters[-1].owner

    @property
    def group_id(self) -> str:
        """In whose registries the file is; "" if no letter says so: it failed in a run without, or long ago."""
        return next((letter.group_id for letter in reversed(self.letters) if letter.group_id), "")


@dataclass(frozen=True, slots=True)
class SourceTopic:
    """The source topic as it is now.

    Attributes:
        name: of the topic.
        topic_id: its 16-byte id.
        limits: partition -> (oldest offset that is left, next offset to be written), asked for after the letters were
            read: a program that runs may add letters of files that have just come.
    """

    name: str
    topic_id: bytes
    limits: Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file that can't be run again.

    Attributes:
        file: the file.
        why: in a few words, the same for all files with the same trouble.
        detail: the offsets, if they are the trouble.
    """

    file: FailedFile
    why: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What one replay does.

    Attributes:
        files: id of the file version -> the file, for those that are run.
        ranges: partition -> what is read of it; partitions of which nothing is read are absent.
        refusals: files that can't be run.
        elsewhere: source topic -> how many of the chosen files are of that topic, which is not the one that is read.
    """

    files: Mapping[bytes, FailedFile] = field(default_factory=dict)
    ranges: Mapping[int, Ranges] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    elsewhere: Mapping[str, int] = field(default_factory=dict)

    @property
    def messages(self) -> int:
        """How many offsets are read."""
        return sum(stop - start for ranges in self.ranges.values() for start, stop in ranges)

    @property
    def attempts(self) -> dict[bytes, int]:
        """How often each file was started before: id of the file version -> number."""
        return {
            version_id: max(letter.letter.attempts for letter in file.letters)
            for version_id, file in self.files.items()
        }

    @property
    def ends(self) -> dict[int, int]:
        """Where the reading of each partition ends."""
        return {partition: ranges[-1][1] for partition, ranges in self.ranges.items()}


def failed_files(letters: Iterable[Letter]) -> list[FailedFile]:
    """Put letters of one file version together (rule 1), the file with the oldest newest letter first."""
    grouped: dict[tuple[object, ...], list[Letter]] = {}
    for letter in letters:
        about = letter.letter
        # A message that is no chunk is known by its place on the source topic.
        identity: object = about.version_id or about.ranges
        grouped.setdefault((about.extractor, about.topic, about.topic_id, identity), []).append(letter)
    files = [
        FailedFile(tuple(sorted(group, key=lambda one: (one.letter.time, one.place)))) for group in grouped.values()
    ]
    return sorted(files, key=lambda file: (file.newest.time, file.letters[-1].place))


def make_plan(letters: Iterable[Letter], selection: Selection, topic: SourceTopic) -> ReplayPlan:
    """Decide what is read and run.

    Args:
        letters: the live letters.
        selection: which of them are meant.
        topic: the source topic as it is now.
    """
    files: dict[bytes, FailedFile] = {}
    refusals: list[Refusal] = []
    elsewhere: Counter[str] = Counter()
    ranges: dict[int, list[tuple[int, int]]] = {}
    for file in failed_files(letters):
        if not selection.matches(file.newest):
            continue
        if file.newest.topic != topic.name:
            elsewhere[file.newest.topic] += 1
            continue
        left, refusal = _look(file, topic)
        if refusal is None and file.newest.version_id in files:
            # With letters of several extractors chosen at once: one result is enough.
            refusal = Refusal(file, "another extractor's letter of the same file is replayed")
        if refusal is not None:
            refusals.append(refusal)
            continue
        files[file.newest.version_id] = file
        for partition, of_partition in left.items():
            ranges.setdefault(partition, []).extend(of_partition)
    merged = {partition: merge(of_partition) for partition, of_partition in sorted(ranges.items())}
    return ReplayPlan(files, merged, tuple(refusals), dict(elsewhere))


def merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sort half-open ranges and join those that touch or overlap."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return tuple(merged)


def _look(file: FailedFile, topic: SourceTopic) -> tuple[dict[int, Ranges], Refusal | None]:
    """Return what is left of a file's offsets, or what is in the way of running it (rule 3)."""
    newest = file.newest
    if newest.topic_id != topic.topic_id:
        return {}, Refusal(file, f"the topic {topic.name} was deleted and made anew since")
    if not newest.version_id:
        return {}, Refusal(file, "the message is no chunk of a file")
    left: dict[int, Ranges] = {}
    gone: list[str] = []
    beyond: list[str] = []
    for partition, named in _named(file).items():
        low, high = topic.limits.get(partition, (0, 0))
        left[partition] = tuple(_clipped(named, low, high))
        gone.extend(f"[{partition}] {_range(*lost)}" for lost in _clipped(named, 0, low))
        beyond.extend(f"[{partition}] {_range(*there)}" for there in _clipped(named, high, END))
    n_left = sum(stop - start for of_partition in left.values() for start, stop in of_partition)
    n_needed = max(letter.letter.n_chunks for letter in file.letters)
    # Without the number of chunks, each offset may be one that is needed.
    too_few = n_left < n_needed or not n_needed
    if gone and too_few:
        rest = f"; beyond its end: {_listed(beyond)}" if beyond else ""
        return {}, Refusal(file, f"offsets are no longer on {topic.name}", f"{_listed(gone)}{rest}")
    if beyond and too_few:
        return {}, Refusal(file, f"offsets are beyond the end of {topic.name}", _listed(beyond))
    if n_left < max(n_needed, 1):
        return {}, Refusal(file, "chunks are missing", f"{n_left} of {n_needed} chunks are on {topic.name}")
    return {partition: of_partition for partition, of_partition in left.items() if of_partition}, None


def _named(file: FailedFile) -> dict[int, Ranges]:
    ranges: dict[int, list[tuple[int, int]]] = {}
    for letter in file.letters:
        for partition, first, last in letter.letter.ranges:
            ranges.setdefault(partition, []).append((first, last + 1))
    return {partition: merge(of_partition) for partition, of_partition in sorted(ranges.items())}


def _clipped(ranges: Ranges, low: int, high: int) -> Iterator[tuple[int, int]]:
    """What of the ranges lies in [low, high)."""
    for start, stop in ranges:
        if max(start, low) < min(stop, high):
            yield max(start, low), min(stop, high)


def _range(start: int, stop: int) -> str:
    return str(start) if stop == start + 1 else f"{start}-{stop - 1}"


def _listed(ranges: Sequence[str]) -> str:
    more = f" and {len(ranges) - NAMED_RANGES:,} more ranges" if len(ranges) > NAMED_RANGES else ""
    return ", ".join(ranges[:NAMED_RANGES]) + more
