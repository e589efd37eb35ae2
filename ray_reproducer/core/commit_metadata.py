"""What a commit says beside the position: which offsets above it are done, in at most 4095 characters.

Rules:

1. An offset at or above the position is *not done* if its file version is listed by id, or if it lies in a listed
   run of offsets, or if it is at or above the end. Every other one is done.
2. A listed version is not done wherever its chunks are: :func:`encode` must be given all versions that have an
   offset in ``[position, end)`` that is not done, and none of them may have one there that is done. (A repeated
   chunk is done with its version, so this holds by itself. Where a finished version was opened again, its earlier
   chunks are read as not done: they are repeated chunks of it then.)
3. The text depends on nothing but what it describes: not on the order of the versions, nor on offsets at or above
   the end. What fitted once fits again.
4. The text is the smallest of a handful of candidates, which differ in how many versions are listed by id (those
   with the most runs of offsets come first; the offsets of the others are runs) and in how runs are written
   (``offset_encoding``). Where a run goes on through offsets of listed versions it need not stop for them.
5. If no candidate fits, that is an error: nothing is ever left out to make it fit.
6. The work is bounded: versions with up to 8 runs cost time by the run, larger ones by the version; only if that
   does not fit, up to 131,072 offsets are looked at one by one.
7. A text that is read is not trusted. Text of another program, damaged text and text of a later version of this
   program are told apart. The checksum covers the position too: beside another position a text is damaged.

An id takes 12 bytes, whether its version has 10 chunks there or 20,000: a large file that trickles in among many small
ones costs as much as ten of them. That is what sets this apart from the offset encodings of Confluent's Parallel
Consumer (run lengths and bitsets, the smaller one, compressed), which inspired it.

Layout before base64 (RFC 4648, no padding; the magic makes each text begin with ``RayR``):

=======  ==========================================================================================
bytes    what
=======  ==========================================================================================
3        magic, 45 ac 91
1        format version, 1. Magic, version and checksum are at the same place in all versions
4        CRC-32 of: the position (8 bytes), the version, and all that follows here; big endian
16       topic id: tells a topic from one of the same name that was deleted
1        form of the runs, see ``offset_encoding``
varint   end - position
varint   number of listed versions
12 each  their ids, ascending
rest     the runs, relative to the position
=======  ==========================================================================================
"""

from __future__ import annotations

import base64
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Final

from ray_reproducer.core.chunk import VERSION_ID_BYTES
from ray_reproducer.core.errors import CommitMetadataError, MetadataTooLargeError
from ray_reproducer.core.offset_encoding import (
    MAX_RUNS,
    MAX_VARINT,
    Run,
    damaged,
    decode_runs,
    encode_runs,
    read_varint,
    write_varint,
)

LIMIT_CHARS: Final = 4095
"""What a broker takes by default (``offset.metadata.max.bytes`` = 4096), less the NUL that librdkafka adds."""
TOPIC_ID_BYTES: Final = 16
"""Length of a topic id (a UUID)."""
_MAGIC: Final = b"\x45\xac\x91"
_MAGIC_TEXT: Final = "RayR"
_VERSION: Final = 1
_HEAD_BYTES: Final = 24
_MAX_TEXT_CHARS: Final = 65_536
"""Longest text that is looked at; more than a broker gives unless its limit was raised 16 times."""
_FEW_RUNS: Final = 8
"""A version with more runs than this is cheaper by id: a run takes about 11 bits, an id 96."""
_SMALL_TOTAL: Final = 1_024
"""With no more offsets than this, writing all of them as runs is always tried: it takes less than a millisecond."""
_MAX_FLATTENED: Final = 131_072
"""Most offsets that are looked at one by one, which takes about 30 ms."""


@dataclass(frozen=True, slots=True)
class CommittedState:
    """What a commit's metadata says (rule 1).

    Attributes:
        topic_id: 16-byte id of the topic that the offsets belong to.
        open_versions: ids of the versions whose chunks are not done, wherever they are.
        undone: ascending runs ``(start, stop)`` of offsets, half open, that are not done.
        end: offsets from here on are not done.
    """

    topic_id: bytes
    open_versions: frozenset[bytes]
    undone: tuple[Run, ...]
    end: int

    def is_done(self, offset: int, version_id: bytes) -> bool:
        """Whether the chunk at an offset, at or above the position, was done when this was committed.

        Args:
            offset: where the chunk is.
            version_id: id of the file version that it belongs to.
        """
        if offset >= self.end or version_id in self.open_versions:
            return False
        before = bisect_right(self.undone, (offset, self.end))
        return before == 0 or offset >= self.undone[before - 1][1]


# ---------------------------------------------------------------------------------------------- encode


def encode(
    topic_id: bytes,
    position: int,
    undone: Mapping[bytes, Sequence[int]],
    end: int,
    limit_chars: int = LIMIT_CHARS,
) -> str:
    """Write which offsets in ``[position, end)`` are done.

    Args:
        topic_id: 16-byte id of the topic.
        position: the offset that is committed with this text.
        undone: version id -> its offsets that are not done, ascending, none below the position. Those at or above
            ``end`` are ignored. Every other offset in ``[position, end)`` is done.
        end: nothing is said of offsets from here on: they are not done.
        limit_chars: how long the text may be.

    Returns:
        ASCII text, never empty.

    Raises:
        MetadataTooLargeError: it can't be said in ``limit_chars`` characters.
        ValueError: the arguments contradict each other; a defect of the caller.
    """
    if len(topic_id) != TOPIC_ID_BYTES:
        raise ValueError(f"a topic id has {TOPIC_ID_BYTES} bytes, not {len(topic_id)}")
    if not 0 <= position <= end <= MAX_VARINT:
        raise ValueError(f"position {position} and end {end} are not in order")
    head = bytearray()
    write_varint(end - position, head)
    room = limit_chars * 3 // 4 - _HEAD_BYTES - 1 - len(head)
    sorted_out = _sorted_out(undone, position, end, room)
    bodies = [] if sorted_out.is_hopeless(room) else _bodies(sorted_out, position, room)
    if not bodies:
        raise MetadataTooLargeError(
            f"what is done from offset {position} to {end}, with {len(undone)} open file versions, can't be said in "
            f"{limit_chars} characters of commit metadata",
            hint="Outcomes wait until the position moves. It stays where the oldest incomplete file begins.",
        )
    form, body = min(bodies, key=lambda candidate: (len(candidate[1]), candidate))
    payload = topic_id + bytes((form,)) + head + body
    data = _MAGIC + bytes((_VERSION,)) + _checksum(position, _VERSION, payload) + payload
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


def _checksum(position: int, version: int, payload: bytes) -> bytes:
    return zlib.crc32(position.to_bytes(8, "big") + bytes((version,)) + payload).to_bytes(4, "big")


@dataclass(slots=True)
class _Undone:
    """The offsets below the end that are not done, sorted by how they are cheapest to say.

    Attributes:
        offsets: of versions with few of them.
        runs: of versions with many offsets in few runs.
        large: id and offsets of the other versions, those worth an id.
        n_large_offsets: how many offsets those have.
    """

    offsets: list[int] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    large: list[tuple[bytes, Sequence[int]]] = field(default_factory=list)
    n_large_offsets: int = 0

    def is_hopeless(self, room: int) -> bool:
        """Whether there are too many ids for the room, and too many offsets to look for another way."""
        return self.n_large_offsets > _MAX_FLATTENED and len(self.large) * VERSION_ID_BYTES > room


def _sorted_out(undone: Mapping[bytes, Sequence[int]], position: int, end: int, room: int) -> _Undone:
    sorted_out = _Undone()
    for version_id, offsets in undone.items():
        if not offsets or offsets[0] >= end:
            continue
        if offsets[0] < position:
            raise ValueError(f"offset {offsets[0]} is not done, but below the position {position}")
        below = offsets if offsets[-1] < end else offsets[: bisect_left(offsets, end)]
        if len(below) <= _FEW_RUNS:
            sorted_out.offsets += below
        elif (runs := _few_runs(below)) is not None:
            sorted_out.runs += runs
        elif len(version_id) != VERSION_ID_BYTES:
            raise ValueError(f"a version id has {VERSION_ID_BYTES} bytes, not {len(version_id)}")
        else:
            sorted_out.large.append((version_id, below))
            sorted_out.n_large_offsets += len(below)
            if sorted_out.is_hopeless(room):
                break
    return sorted_out


def _bodies(undone: _Undone, position: int, room: int) -> list[tuple[int, bytes]]:
    """Return the candidates that fit, as (form of the runs, ids and runs), after rules 4 and 6."""

    def add(ids: Sequence[bytes], runs: Sequence[Run]) -> None:
        body = bytearray()
        write_varint(len(ids), body)
        body += b"".join(sorted(ids))
        relative = [(start - position, stop - position) for start, stop in runs]
        encoded = encode_runs(relative, room - len(body))
        if encoded is not None:
            found.append((encoded[0], bytes(body) + encoded[1]))

    found: list[tuple[int, bytes]] = []
    if len(undone.large) * VERSION_ID_BYTES <= room:
        add([version_id for version_id, _ in undone.large], _joined(undone.offsets, undone.runs))
    if not undone.large or undone.n_large_offsets > (_SMALL_TOTAL if found else _MAX_FLATTENED):
        return found
    everything = _joined(chain(undone.offsets, *(offsets for _, offsets in undone.large)), undone.runs)
    add([], everything)
    if not found:
        for ids, runs in _splits(undone, everything, room // VERSION_ID_BYTES):
            add(ids, runs)
    return found


def _splits(undone: _Undone, everything: Sequence[Run], most: int) -> Iterator[tuple[list[bytes], list[Run]]]:
    """List some of the large versions by id, those with the most runs first; keep the runs that others have part in."""
    # A listed version spares at most one run for each of its offsets.
    spared = sum(sorted((len(offsets) for _, offsets in undone.large), reverse=True)[:most])
    if len(everything) - spared > MAX_RUNS:
        return
    starts = [start for start, _ in everything]

    def parts(offsets: Iterable[int]) -> set[int]:
        return {bisect_right(starts, offset) - 1 for offset in offsets}

    # The id makes the order the same each time.
    large = sorted((-len(part), version_id, part) for version_id, part in ((v, parts(o)) for v, o in undone.large))
    kept = parts(chain(undone.offsets, (start for start, _ in undone.runs)))
    most = min(most, len(large))
    for n_listed in sorted({most, most * 3 // 4, most // 2, most // 4} - {0}, reverse=True):
        runs = kept.union(*(part for _, _, part in large[n_listed:]))
        if len(runs) > MAX_RUNS:
            return  # and even more with fewer versions listed
        yield [version_id for _, version_id, _ in large[:n_listed]], [everything[index] for index in sorted(runs)]


def _few_runs(offsets: Sequence[int]) -> list[Run] | None:
    """Return the runs of ascending offsets; None if there are more than a few (rule 6)."""
    runs: list[Run] = []
    indices, first = range(len(offsets)), 0
    while first < len(offsets):
        if len(runs) == _FEW_RUNS:
            return None
        behind = first + 1
        if behind < len(offsets) and offsets[behind] == offsets[first] + 1:
            # Within a run, offset minus index stays the same; behind it, it is larger.
            behind = bisect_right(indices, offsets[first] - first, lo=behind, key=lambda at: offsets[at] - at)
        runs.append((offsets[first], offsets[behind - 1] + 1))
        first = behind
    return runs


def _joined(offsets: Iterable[int], runs: Sequence[Run]) -> list[Run]:
    """Turn offsets and runs that do not overlap into ascending runs that do not touch."""
    # Where one's stop is another's start they touch, and both go. Sets do this five times faster than a loop.
    starts = set(offsets)
    stops = {offset + 1 for offset in starts}
    starts.update(start for start, _ in runs)
    stops.update(stop for _, stop in runs)
    return list(zip(sorted(starts - stops), sorted(stops - starts), strict=True))


# ---------------------------------------------------------------------------------------------- decode


def decode(text: str, position: int) -> CommittedState:
    """Read what :func:`encode` wrote.

    Args:
        text: the metadata; not empty.
        position: the offset that was committed with it.

    Raises:
        CommitMetadataError: the text is of another program, damaged, of a later version of this program, or was
            committed with another position (rule 7).
    """
    if not text.startswith(_MAGIC_TEXT):
        raise CommitMetadataError(
            f"the metadata beside the committed offset is foreign, not written by this program: {text[:40]!r}",
            hint="Another program commits with the same group id. Choose another group_id, or delete the group.",
        )
    if not 0 <= position <= MAX_VARINT:
        raise damaged(f"it stands beside the offset {position}")
    data = _from_base64(text)
    if len(data) <= _HEAD_BYTES:
        raise damaged("it is cut off")
    version, payload = data[3], data[8:]
    if data[4:8] != _checksum(position, version, payload):
        raise damaged(f"its checksum is wrong, or it was not committed with the offset {position}")
    if version != _VERSION:
        raise CommitMetadataError(
            f"the metadata beside the committed offset has format version {version}; this program reads {_VERSION}",
            hint="A later version of this program ran with the same group id. Use that one, or another group_id.",
        )
    return _decode_payload(payload, position)


def _from_base64(text: str) -> bytes:
    if len(text) > _MAX_TEXT_CHARS:
        raise damaged(f"it has {len(text)} characters")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise damaged(f"it is not base64 ({error})") from None
    if base64.b64encode(data).rstrip(b"=").decode("ascii") != text:
        raise damaged("it is not base64 as this program writes it")
    return data


def _decode_payload(payload: bytes, position: int) -> CommittedState:
    length, at = read_varint(payload, TOPIC_ID_BYTES + 1)
    if length > MAX_VARINT - position:
        raise damaged("its end is no offset")
    count, at = read_varint(payload, at)
    runs_at = at + count * VERSION_ID_BYTES
    if runs_at > len(payload):
        raise damaged("it says that there are more versions than it holds")
    ids = [payload[i : i + VERSION_ID_BYTES] for i in range(at, runs_at, VERSION_ID_BYTES)]
    if any(one >= other for one, other in pairwise(ids)):
        raise damaged("its versions are not in order")
    runs = decode_runs(payload[TOPIC_ID_BYTES], payload[runs_at:], length)
    return CommittedState(
        topic_id=payload[:TOPIC_ID_BYTES],
        open_versions=frozenset(ids),
        undone=tuple([(position + start, position + stop) for start, stop in runs]),
        end=position + length,
    )
