"""A dead letter, read back from its topic. The text is not trusted: anybody may write to a topic.

The value is a JSON object (:mod:`outcome` writes it). Schema version 1:

===================  ===================================================================================
``schema``           1. It changes when a reader would have to; keys may be added without that
``path``             relative path of the file; null for a message that is no chunk of a file
``reason``           code for programs (``extractor_raised``, ``hash_mismatch``...: ``core.reasons`` has all)
``error``            one line for people
``traceback``        of the extractor, its end if it is long; or null
``attempts``         how often the extractor was started on the file, runs before this one included
``file.id``          24 hexadecimal digits: 12 bytes of BLAKE2b over content hash, number of chunks and path
``file.sha512``      of the content, as the uploader said it; absent if the first letter was too large
``file.n_chunks``    in how many chunks the content was cut; absent if the first letter was too large
``file.mtime``       seconds since the epoch, or null; absent if the first letter was too large
``file.missing``     of a file that stayed incomplete: [first, last] of the chunks that are not there, from 1
``file.chunks_missing``
                     of such a file: how many these are, also where ``missing`` was too long to list them all
``source.topic``     the source topic
``source.topic_id``  its id in hexadecimal: another topic of the same name has another id
``source.offsets``   partition (a string) -> list of inclusive [first, last] ranges of offsets
``source.exact``     false: too many ranges to list, so that each partition has its outermost offsets only
``message.base64``   of a message that is no chunk: the beginning of its value
``message.size_bytes``, ``message.truncated``
                     length of the whole value; whether ``base64`` is less than that
``extractor``        name of the extractor
``program``          name and version of the program
``time``             when it was written, ISO 8601 with the offset from UTC
===================  ===================================================================================

Rules:

1. What is no dead letter is told by one kind of error, whatever it holds; what it *says* is never allocated.
2. The file version's id is what a letter is about. A letter that gives content hash and number of chunks must give
   the id that follows from them.
3. A message that was no chunk when its letter was written may be one by now, because the program has learned: if the
   letter holds it whole and it can be decoded, the letter is about the file version that it names.
4. Keys that are not known are passed over.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Final, TypeVar

import orjson

from ray_reproducer.core.chunk import HASH_BYTES, MAX_CHUNKS, MAX_PATH_BYTES, VERSION_ID_BYTES, FileVersion, decode
from ray_reproducer.core.errors import ChunkError, DeadLetterError
from ray_reproducer.core.outcome import DEAD_LETTER_SCHEMA, MAX_ERROR_CHARS, MAX_OFFSET_RANGES, cut

SHORT_ERROR_CHARS: Final = 200
"""How much of an error is kept in :meth:`DeadLetter.brief`: a line or two on a screen."""
_MAX_NAME_CHARS: Final = 1_000
_MAX_PARTITION: Final = 2**31 - 1
_MAX_OFFSET: Final = 2**63 - 2
_TOPIC_ID_BYTES: Final = 16
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter.

    Attributes:
        path: relative path of the file; "" for a message that is no chunk.
        reason: machine-readable code.
        error: one line for a person.
        traceback: the extractor's; "" if there is none.
        attempts: how often the extractor was started on the file.
        version_id: id of the file version; empty for a message that is no chunk.
        n_chunks: number of chunks of the file version; 0 if that is not known.
        topic: the source topic.
        topic_id: its 16-byte id.
        ranges: (partition, first, last): inclusive ranges of offsets, ascending.
        exact: whether these are all offsets and no others.
        extractor: name of the extractor.
        program: name and version of the program that wrote it.
        time: when it was written, in UTC.
    """

    path: str
    reason: str
    error: str
    traceback: str
    attempts: int
    version_id: bytes
    n_chunks: int
    topic: str
    topic_id: bytes
    ranges: tuple[tuple[int, int, int], ...]
    exact: bool
    extractor: str
    program: str
    time: datetime

    @property
    def name(self) -> str:
        """What to call it on a screen: the path, or where the message is."""
        if self.path:
            return self.path
        return ", ".join(f"{self.topic} [{p}] offset {first}" for p, first, _ in self.ranges[:1]) or self.topic

    def brief(self) -> DeadLetter:
        """Return the letter as it is kept when there are many: the error cut, without a traceback."""
        return replace(self, error=cut(self.error, SHORT_ERROR_CHARS), traceback="")


def parse(value: bytes) -> DeadLetter:
    """Read the value of a record of the dead-letter topic.

    Raises:
        DeadLetterError: it is no dead letter, or one of a later version of this program.
    """
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise DeadLetterError(f"it is no JSON: {cut(str(error), 100)}") from None
    if not isinstance(record, dict):
        raise DeadLetterError(f"it is a JSON {type(record).__name__}, not an object")
    schema = _get(record, "schema", int)
    if schema != DEAD_LETTER_SCHEMA:
        raise DeadLetterError(
            f"it has schema version {schema}; this program knows {DEAD_LETTER_SCHEMA}",
            hint="Use the version of the program that wrote it, or a newer one.",
        )
    source = _get(record, "source", dict)
    path = _text(record, "path", 4 * MAX_PATH_BYTES) if record.get("path") is not None else ""
    version_id, n_chunks = _file(record, path) if path else _message(record)
    return DeadLetter(
        path=path,
        reason=_text(record, "reason", _MAX_NAME_CHARS),
        error=cut(_get(record, "error", str), MAX_ERROR_CHARS),
        traceback=_get(record, "traceback", str) if record.get("traceback") is not None else "",
        attempts=_integer(record, "attempts", 0, _MAX_OFFSET),
        version_id=version_id,
        n_chunks=n_chunks,
        topic=_text(source, "topic", _MAX_NAME_CHARS),
        topic_id=_hex(source, "topic_id", _TOPIC_ID_BYTES),
        ranges=_ranges(_get(source, "offsets", dict)),
        exact=_get(source, "exact", bool),
        extractor=_text(record, "extractor", _MAX_NAME_CHARS),
        program=_text(record, "program", _MAX_NAME_CHARS),
        time=_time(_get(record, "time", str)),
    )


def _file(record: dict[str, Any], path: str) -> tuple[bytes, int]:
    """Return id and number of chunks of the file version (rule 2)."""
    file = _get(record, "file", dict)
    said = _hex(file, "id", VERSION_ID_BYTES)
    if "n_chunks" not in file:
        return said, 0
    n_chunks = _integer(file, "n_chunks", 1, MAX_CHUNKS)
    subdir, _, name = path.rpartition("/")
    if FileVersion(subdir, name, "", _hex(file, "sha512", HASH_BYTES), n_chunks).id != said:
        raise DeadLetterError("file.id is not the one that follows from path, file.sha512 and file.n_chunks")
    return said, n_chunks


def _message(record: dict[str, Any]) -> tuple[bytes, int]:
    """Return id and number of chunks of the file version that a message turns out to belong to (rule 3)."""
    message = record.get("message")
    if message is None:
        return b"", 0
    if not isinstance(message, dict):
        raise DeadLetterError(f"message is {type(message).__name__}, not an object")
    if _get(message, "truncated", bool):
        return b"", 0
    try:
        version = decode(base64.b64decode(_get(message, "base64", str), validate=True)).version
    except (binascii.Error, ValueError) as error:
        raise DeadLetterError(f"message.base64 can't be read: {cut(str(error), 100)}") from None
    except ChunkError:
        return b"", 0
    return version.id, version.n_chunks


def _ranges(offsets: dict[str, Any]) -> tuple[tuple[int, int, int], ...]:
    found: list[tuple[int, int, int]] = []
    for partition, ranges in offsets.items():
        number = int(partition) if partition.isascii() and partition.isdigit() and len(partition) <= 10 else -1
        if not 0 <= number <= _MAX_PARTITION:
            raise DeadLetterError(f"source.offsets: {cut(partition, 40)!r} is no partition")
        if not isinstance(ranges, list) or len(found) + len(ranges) > MAX_OFFSET_RANGES:
            raise DeadLetterError(f"source.offsets: partition {number} has no list of ranges, or too many")
        found.extend((number, *_range(number, pair)) for pair in ranges)
    return tuple(sorted(found))


def _range(partition: int, pair: object) -> tuple[int, int]:
    if isinstance(pair, list) and len(pair) == 2:
        first, last = pair
        if type(first) is int and type(last) is int and 0 <= first <= last <= _MAX_OFFSET:
            return first, last
    raise DeadLetterError(f"source.offsets: partition {partition} has a range that is none: {cut(repr(pair), 80)}")


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise ValueError("it has no offset from UTC")
        return time.astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        raise DeadLetterError(f"time is no ISO time: {cut(str(error), 80)}") from None


def _get(record: dict[str, Any], key: str, kind: type[_T]) -> _T:
    value = record.get(key)
    # bool is an int for Python, not for JSON.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DeadLetterError(f"{key} is {type(value).__name__}, not {kind.__name__}")
    return value


def _text(record: dict[str, Any], key: str, max_chars: int) -> str:
    text = _get(record, key, str)
    if not text or len(text) > max_chars:
        raise DeadLetterError(f"{key} has {len(text)} characters; it must have from 1 to {max_chars}")
    return text


def _integer(record: dict[str, Any], key: str, low: int, high: int) -> int:
    value = _get(record, key, int)
    if not low <= value <= high:
        raise DeadLetterError(f"{key} is {value}; it must be from {low} to {high}")
    return value


def _hex(record: dict[str, Any], key: str, n_bytes: int) -> bytes:
    text = _get(record, key, str)
    if len(text) == 2 * n_bytes and text.isascii() and text.isalnum():
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    raise DeadLetterError(f"{key} is not {n_bytes} bytes in hexadecimal")
