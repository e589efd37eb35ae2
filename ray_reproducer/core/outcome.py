"""What became of a file, or of a message that is none: the JSON that is produced, byte for byte.

Rules:

1. Each file version has exactly one outcome: a result (the metadata that the extractor returned) or a dead letter.
2. A result's value is the JSON object itself, UTF-8, with nothing around it (OpenMSIStream's readers parse it).
   NaN and infinities become ``null``; NumPy scalars and arrays, dates, UUIDs, enums and dataclasses become what
   orjson makes of them; bytes, sets, cycles and integers beyond 64 bits are no JSON and make a dead letter.
3. A dead letter names everything that is needed to run the file again: schema version, path, reason code, error,
   traceback, and which offsets of which partitions of the source topic hold it.
4. Both are bounded: texts are cut, offset lists become ranges, so that a dead letter always fits a message.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import orjson

from ray_reproducer.core.chunk import FileVersion

DEAD_LETTER_SCHEMA: Final = 1
"""Version of the dead letter's JSON; it changes when a reader would have to."""
MAX_ERROR_CHARS: Final = 2_000
"""Longest error line kept in a dead letter."""
MAX_TRACEBACK_CHARS: Final = 20_000
"""Longest traceback kept; its end says more than its beginning, so the beginning is cut."""
MAX_RAW_MESSAGE_BYTES: Final = 200_000
"""How much of a message that is no chunk is kept in its dead letter, before base64."""
MAX_OFFSET_RANGES: Final = 10_000
"""How many offset ranges a dead letter lists before it gives only the first and last of each partition."""
_JSON_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS

Offsets = Mapping[int, Sequence[int]]
"""Partition -> ascending offsets."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file has no metadata.

    Attributes:
        reason: machine-readable code (``extractor_raised``, ``hash_mismatch``...).
        error: one line for a person.
        traceback: the traceback in the user's code, or "".
        attempts: how often the extractor was started on the file.
    """

    reason: str
    error: str
    traceback: str = ""
    attempts: int = 1


class Facts(NamedTuple):
    """What views tell of the file, or of the message that is no chunk, besides its outcome.

    Attributes:
        n_messages: messages of the source topic that made it: a file's chunks, without repeats.
        size_bytes: content of those messages.
        first_ms: Kafka timestamp of the oldest of them, in milliseconds since the epoch; 0 if unknown.
        newest_ms: Kafka timestamp of the newest of them; 0 if unknown.
        done_ms: when a file's outcome was known, in milliseconds since the epoch; 0 for a message that is no chunk.
    """

    n_messages: int = 1
    size_bytes: int = 0
    first_ms: int = 0
    newest_ms: int = 0
    done_ms: int = 0


NO_FACTS: Final = Facts()
"""Where nobody is to be told anything."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One record to produce, and what is said about it on the screen.

    Attributes:
        path: relative path of the file, or "" for a message that is no chunk.
        kind: which topic it goes to.
        key: the record's key.
        value: the record's value, UTF-8 JSON.
        reason: "" for a result, else the code.
        error: "" for a result, else one line.
        traceback: "" unless user code raised.
        partition: where a message that is no chunk was found; -1 for a file.
        offset: where a message that is no chunk was found; -1 for a file.
        facts: what views tell besides.
    """

    path: str
    kind: Literal["result", "dead_letter"]
    key: str
    value: bytes
    reason: str = ""
    error: str = ""
    traceback: str = ""
    partition: int = -1
    offset: int = -1
    facts: Facts = NO_FACTS

    def without_record(self) -> Outcome:
        """Return the same without the record's value, for those who only list and count."""
        # Not dataclasses.replace: this is done for every file, in the committer.
        failure, place = (self.reason, self.error, self.traceback), (self.partition, self.offset)
        return Outcome(self.path, self.kind, self.key, b"", *failure, *place, self.facts)


@dataclass(frozen=True, slots=True)
class Origin:
    """What all dead letters of a run have in common.

    Attributes:
        topic: name of the source topic.
        topic_id: its 16-byte id, which changes when a topic is deleted and created again.
        extractor: name of the extractor.
        program: name and version of this program.
    """

    topic: str
    topic_id: bytes
    extractor: str
    program: str


def encode_metadata(returned: object, max_bytes: int) -> bytes | Failure:
    """Turn what an extractor returned into a result's value, or say why that can't be.

    Args:
        returned: what the extractor returned.
        max_bytes: the largest value that the result topic takes.
    """
    if not isinstance(returned, Mapping):
        return Failure("not_a_dict", f"the extractor returned {type(returned).__name__}, not a dictionary")
    try:
        value = orjson.dumps(dict(returned), default=_plain, option=_JSON_OPTIONS)
    # orjson raises JSONEncodeError (a TypeError) for what JSON can't say. But the mapping is the user's, and reading it
    # may run code of theirs that raises anything: the attributes of an HDF5 file, say, that is closed by now.
    except Exception as error:  # noqa: BLE001
        what = str(error) if isinstance(error, orjson.JSONEncodeError) else f"{type(error).__name__}: {error}"
        return Failure("not_json", f"the extractor returned something that JSON can't say: {what}")
    if len(value) > max_bytes:
        return Failure(
            "result_too_large", f"the metadata is {len(value)} bytes of JSON; a message may have {max_bytes} bytes"
        )
    return value


def result(version: FileVersion, value: bytes, facts: Facts = NO_FACTS) -> Outcome:
    """Make the outcome of a file whose extractor returned metadata, already encoded."""
    return Outcome(path=version.relative_path, kind="result", key=version.result_key, value=value, facts=facts)


def dead_letter(
    version: FileVersion,
    failure: Failure,
    offsets: Offsets,
    origin: Origin,
    now: str,
    facts: Facts = NO_FACTS,
) -> Outcome:
    """Make the outcome of a file that has no metadata.

    Args:
        version: the file version.
        failure: why.
        offsets: where its chunks are on the source topic.
        origin: what is the same for the whole run.
        now: time in ISO format.
        facts: what views tell besides.
    """
    record = _record(version.relative_path, failure, offsets, origin, now)
    record["file"] = {
        "sha512": version.file_hash.hex(),
        "n_chunks": version.n_chunks,
        "mtime": version.mtime,
    }
    return _dead_letter(version.relative_path, version.result_key, failure, record, facts=facts)


def poison_letter(partition: int, offset: int, message: PoisonMessage, origin: Origin, now: str) -> Outcome:
    """Make the outcome of a message that is no chunk; it carries the message itself, up to a limit."""
    failure = Failure(message.reason, message.error, attempts=0)
    record = _record(None, failure, {partition: [offset]}, origin, now)
    record["message"] = {
        "base64": base64.b64encode(message.raw).decode(),
        "size_bytes": message.size_bytes,
        "truncated": len(message.raw) < message.size_bytes,
    }
    key = f"{origin.topic}_{partition}_{offset}"
    facts = Facts(size_bytes=len(message.raw))
    return _dead_letter("", key, failure, record, place=(partition, offset), facts=facts)


def refused_by_broker(refused: Outcome, offsets: Offsets, origin: Origin, now: str) -> Outcome:
    """Make a small dead letter in the place of an outcome that the broker refused because of its size."""
    if refused.kind == "result":
        size = len(refused.value)
        failure = Failure("result_too_large", f"the broker refused the metadata: {size} bytes are too large for it")
    else:
        failure = Failure(refused.reason, refused.error)
    record = _record(refused.path or None, failure, offsets, origin, now, max_ranges=0)
    place = (refused.partition, refused.offset)
    return _dead_letter(refused.path, refused.key, failure, record, place=place, facts=refused.facts)


@dataclass(frozen=True, slots=True)
class PoisonMessage:
    """A message of the source topic that is no chunk.

    Attributes:
        reason: machine-readable code.
        error: one line for a person.
        raw: the beginning of the message's value.
        size_bytes: length of the whole value.
    """

    reason: str
    error: str
    raw: bytes
    size_bytes: int


def _record(
    path: str | None,
    failure: Failure,
    offsets: Offsets,
    origin: Origin,
    now: str,
    max_ranges: int = MAX_OFFSET_RANGES,
) -> dict[str, Any]:
    ranges, exact = _ranges(offsets, max_ranges)
    return {
        "schema": DEAD_LETTER_SCHEMA,
        "path": path,
        "reason": failure.reason,
        "error": cut(failure.error, MAX_ERROR_CHARS),
        "traceback": failure.traceback[-MAX_TRACEBACK_CHARS:] or None,
        "attempts": failure.attempts,
        "source": {
            "topic": origin.topic,
            "topic_id": origin.topic_id.hex(),
            "offsets": ranges,
            "exact": exact,
        },
        "extractor": origin.extractor,
        "program": origin.program,
        "time": now,
    }


def _dead_letter(
    path: str, key: str, failure: Failure, record: dict[str, Any], *, facts: Facts, place: tuple[int, int] = (-1, -1)
) -> Outcome:
    printable = _printable(record)
    return Outcome(
        path=path,
        kind="dead_letter",
        key=key,
        value=orjson.dumps(printable),
        reason=failure.reason,
        error=printable["error"],
        traceback=printable["traceback"] or "",
        partition=place[0],
        offset=place[1],
        facts=facts,
    )


def _ranges(offsets: Offsets, max_ranges: int) -> tuple[dict[str, list[list[int]]], bool]:
    """Write offsets as inclusive [first, last] ranges; only the outermost ones if there are too many."""
    ranges: dict[str, list[list[int]]] = {}
    for partition, of_partition in sorted(offsets.items()):
        runs: list[list[int]] = []
        for offset in of_partition:
            if runs and offset == runs[-1][1] + 1:
                runs[-1][1] = offset
            else:
                runs.append([offset, offset])
        ranges[str(partition)] = runs
    if sum(map(len, ranges.values())) <= max_ranges:
        return ranges, True
    return {partition: [[runs[0][0], runs[-1][1]]] for partition, runs in ranges.items() if runs}, False


def cut(text: str, limit_chars: int) -> str:
    """Cut a text to a limit, showing that it was cut."""
    return text if len(text) <= limit_chars else text[: limit_chars - 3] + "..."


def _printable(record: dict[str, Any]) -> dict[str, Any]:
    """Replace lone surrogates in texts that come from user code: UTF-8 can't carry them."""
    return {
        key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for key, value in record.items()
    }


def _plain(value: object) -> object:
    """Convert what orjson leaves to us: paths, mappings, and arrays or series in a layout that it does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "__fspath__"):
        return str(value)
    to_list = getattr(value, "tolist", None)
    if callable(to_list):
        return to_list()
    raise TypeError(f"{type(value).__name__} is not JSON")
