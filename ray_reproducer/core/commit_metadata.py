"""What a commit says beside the position: which offsets above it are done, in at most 4095 characters.

Rules:

1. An offset at or above the position is *not done* if its file version is listed by id, or if it lies in a listed
   run of offsets, or if it is at or above the end. Every other one is done.
2. A listed version is not done wherever its chunks are: :func:`encode` must be given all versions that have an
   offset in ``[position, end)`` that is not done, and none of them may have one there that is done. (A repeated
   chunk is done with its version, so this holds by itself.)
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
import binascii
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ray_reproducer.core.chunk import VERSION_ID_BYTES
from ray_reproducer.core.errors import CommitMetadataError, MetadataTooLargeError
from ray_reproducer.core.offset_encoding import (
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
    _check_arguments(topic_id, position, undone, end)
    head = bytearray()
    write_varint(end - position, head)
    room = limit_chars * 3 // 4 - _HEAD_BYTES - 1 - len(head)
    described = _Described(position, end)
    described.add(undone)
    bodies = described.bodies(room)
    if not bodies:
        raise MetadataTooLargeError(
            f"the offsets from {position} to {end}, with {described.n_versions} open file versions among them, can't be "
            f"described in {limit_chars} characters of commit metadata",
            hint="Outcomes wait until the position moves. It stays where the oldest incomplete file begins.",
        )
    form, body = min(bodies, key=lambda candidate: (len(candidate[1]), candidate))
    payload = topic_id + bytes((form,)) + head + body
    data = _MAGIC + bytes((_VERSION,)) + _checksum(position, _VERSION, payload) + payload
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


def _check_arguments(topic_id: bytes, position: int, undone: Mapping[bytes, Sequence[int]], end: int) -> None:
    if len(topic_id) != TOPIC_ID_BYTES:
        raise ValueError(f"a topic id has {TOPIC_ID_BYTES} bytes, not {len(topic_id)}")
    if not 0 <= position <= end <= MAX_VARINT:
        raise ValueError(f"position {position} and end {end} are not in order")
    lowest = min((offsets[0] for offsets in undone.values() if offsets), default=position)
    if lowest < position:
        raise ValueError(f"offset {lowest} is not done, but below the position {position}")


def _checksum(position: int, version: int, payload: bytes) -> bytes:
    return zlib.crc32(position.to_bytes(8, "big") + bytes((version,)) + payload).to_bytes(4, "big")


@dataclass(slots=True)
class _Described:
    """The offsets that are not done, sorted by how they are cheapest to say.

    Runs are kept as their starts and stops, relative to the position. As versions share no offsets, runs touch
    exactly where one's stop is another's start: set differences join them at the speed of C.
    """

    position: int
    end: int
    n_versions: int = 0
    starts: list[int] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    large: list[tuple[int, bytes, Sequence[int]]] = field(default_factory=list)

    def add(self, undone: Mapping[bytes, Sequence[int]]) -> None:
        """Sort versions into those with few runs and large ones, cut off at the end (rule 3)."""
        position, end = self.position, self.end
        for version_id, offsets in undone.items():
            if not offsets or offsets[0] >= end:
                continue
            self.n_versions += 1
            if len(offsets) == 1:
                self.starts.append(offsets[0] - position)
                self.stops.append(offsets[0] - position + 1)
            else:
                self._add_several(version_id, offsets if offsets[-1] < end else offsets[: bisect_left(offsets, end)])
        # Those with the most offsets first; the id only makes the order the same each time.
        self.large.sort(key=lambda entry: (entry[0], entry[1]))

    def _add_several(self, version_id: bytes, offsets: Sequence[int]) -> None:
        runs = _few_runs(offsets)
        if runs is None:
            if len(version_id) != VERSION_ID_BYTES:
                raise ValueError(f"a version id has {VERSION_ID_BYTES} bytes, not {len(version_id)}")
            self.large.append((-len(offsets), version_id, offsets))
            return
        self.starts += [start - self.position for start, _ in runs]
        self.stops += [stop - self.position for _, stop in runs]

    def bodies(self, room: int) -> list[tuple[int, bytes]]:
        """Return the candidates that fit, as (form, bytes): ids of listed versions, then runs (rule 4)."""
        total = sum(-size for size, _, _ in self.large)
        found: list[tuple[int, bytes]] = []
        if len(self.large) * VERSION_ID_BYTES <= room:
            found += self._body(len(self.large), *_joined(self.starts, self.stops), room)
        if total > _SMALL_TOTAL and (found or total > _MAX_FLATTENED):
            return found
        everything = self._flat(0)
        for n_listed in self._splits(room):
            if found and n_listed:
                break
            found += self._body(n_listed, *_containing(everything, self._flat(n_listed)[0]), room)
        return found

    def _splits(self, room: int) -> Iterator[int]:
        most = max(0, min(len(self.large), room // VERSION_ID_BYTES))
        yield 0
        yield from sorted({most * quarters // 4 for quarters in (1, 2, 3, 4)} - {0}, reverse=True)

    def _flat(self, n_listed: int) -> tuple[list[int], list[int]]:
        """Return starts and stops of the runs of all versions but the first ``n_listed`` large ones."""
        position = self.position
        starts, stops = list(self.starts), list(self.stops)
        for _, _, offsets in self.large[n_listed:]:
            starts += [offset - position for offset in offsets]
            stops += [offset - position + 1 for offset in offsets]
        return _joined(starts, stops)

    def _body(self, n_listed: int, starts: list[int], stops: list[int], room: int) -> Iterator[tuple[int, bytes]]:
        body = bytearray()
        write_varint(n_listed, body)
        body += b"".join(sorted(version_id for _, version_id, _ in self.large[:n_listed]))
        runs = list(zip(starts, stops, strict=True))
        encoded = encode_runs(runs, self.end - self.position, room - len(body))
        if encoded is not None:
            form, data = encoded
            yield form, bytes(body) + data


def _few_runs(offsets: Sequence[int]) -> list[Run] | None:
    """Return the runs of ascending offsets; None if there are more than a few (rule 6)."""
    runs: list[Run] = []
    first, n_offsets = 0, len(offsets)
    while first < n_offsets:
        if len(runs) == _FEW_RUNS:
            return None
        # Within a run, offset minus index stays the same; behind it, it is larger.
        behind = bisect_right(
            range(n_offsets), offsets[first] - first, lo=first, key=lambda index: offsets[index] - index
        )
        runs.append((offsets[first], offsets[behind - 1] + 1))
        first = behind
    return runs


def _joined(starts: Iterable[int], stops: Iterable[int]) -> tuple[list[int], list[int]]:
    """Join runs that touch; return all starts and all stops, ascending."""
    unique_starts, unique_stops = set(starts), set(stops)
    return sorted(unique_starts - unique_stops), sorted(unique_stops - unique_starts)


def _containing(runs: tuple[list[int], list[int]], offsets: Iterable[int]) -> tuple[list[int], list[int]]:
    """Return those of the runs, as starts and stops, in which one of the offsets lies."""
    starts, stops = runs
    kept = sorted({bisect_right(starts, offset) - 1 for offset in offsets})
    return [starts[index] for index in kept], [stops[index] for index in kept]


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
    except (binascii.Error, ValueError) as error:  # ValueError: not ASCII
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
    if any(one >= other for one, other in zip(ids, ids[1:], strict=False)):
        raise damaged("its versions are not in order")
    runs = decode_runs(payload[TOPIC_ID_BYTES], payload[runs_at:], length)
    return CommittedState(
        topic_id=payload[:TOPIC_ID_BYTES],
        open_versions=frozenset(ids),
        undone=tuple([(position + start, position + stop) for start, stop in runs]),
        end=position + length,
    )
