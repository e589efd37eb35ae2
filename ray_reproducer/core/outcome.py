"""What became of a file, or of a message that is none: the JSON that is produced, byte for byte.

Rules:

1. Each file version has exactly one outcome: a result (the metadata that the extractor returned) or a dead letter.
2. A result's value is what :mod:`metadata_json` makes of the metadata, with nothing added.
3. A dead letter names everything that is needed to run the file again: schema version, path, id of the file version,
   reason code, error, traceback, and which offsets of which partitions of the source topic hold it (``dead_letter``
   has its schema, and reads it).
4. Both are bounded: texts are cut, offset lists become ranges, so that a dead letter always fits a message.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, cast

import orjson

from ray_reproducer.core.assembly import OpenVersion
from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.reasons import Reason

DEAD_LETTER_SCHEMA: Final = 1
"""Version of the dead letter's JSON; it changes when a reader would have to."""
DAMAGED: Final = frozenset({"hash_mismatch", "inconsistent_chunks"})
"""Reasons that lie in what was sent, not in the file: it may be sent again, and is no repeat then."""
MAX_ERROR_CHARS: Final = 2_000
"""Longest error line kept in a dead letter."""
MAX_TRACEBACK_CHARS: Final = 20_000
"""Longest traceback kept; its end says more than its beginning, so the beginning is cut."""
MAX_RAW_MESSAGE_BYTES: Final = 200_000
"""How much of a message that is no chunk is kept in its dead letter, before base64."""
MAX_OFFSET_RANGES: Final = 10_000
"""How many offset ranges a dead letter lists before it gives only the first and last of each partition."""

Offsets = Mapping[int, Sequence[int]]
"""Partition -> ascending offsets."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file has no metadata.

    Attributes:
        reason: machine-readable code.
        error: one line for a person.
        traceback: the traceback in the user's code, or "".
        attempts: how often the extractor was started on the file.
    """

    reason: Reason
    error: str
    traceback: str = ""
    attempts: int = 1


class Facts(NamedTuple):
    """What views tell of the file, or of the message that is no chunk, besides its outcome.

    Attributes:
        n_messages: messages of the source topic that make it: a file's chunks, without repeats.
        size_bytes: content of those that have come.
        first_ms: Kafka timestamp of the oldest of them, in milliseconds since the epoch; 0 if unknown.
        newest_ms: Kafka timestamp of the newest of them; 0 if unknown.
        done_ms: when a file's outcome was known, in milliseconds since the epoch; 0 for a message that is no chunk.
        n_missing: those of the messages that never came: of a file that was given up.
    """

    n_messages: int = 1
    size_bytes: int = 0
    first_ms: int = 0
    newest_ms: int = 0
    done_ms: int = 0
    n_missing: int = 0


NO_FACTS: Final = Facts()
"""Where nobody is to be told anything."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One record to produce, and what is said about it on the screen.

    Attributes:
        path: relative path of the file, or "" for a message that is no chunk.
        kind: which topic it goes to; one that is held goes nowhere.
        key: the record's key.
        value: the record's value, UTF-8 JSON.
        reason: "" for a result, else the code.
        error: "" for a result, else one line.
        traceback: "" unless user code raised.
        partition: where a message that is no chunk was found; -1 for a file.
        offset: where a message that is no chunk was found; -1 for a file.
        version: the file version; None for a message that is no chunk.
        final: whether chunks of the version that come later are repeats; not so for a file that was given up, or that
            arrived damaged.
        facts: what views tell besides.
    """

    path: str
    kind: Literal["result", "dead_letter", "held"]
    key: str
    value: bytes
    reason: str = ""
    error: str = ""
    traceback: str = ""
    partition: int = -1
    offset: int = -1
    version: FileVersion | None = None
    final: bool = True
    facts: Facts = NO_FACTS

    def without_record(self) -> Outcome:
        """Return the same without the record's value and the version, for those who only list and count."""
        # Not dataclasses.replace: this is done for every file, in the committer.
        failure, place = (self.reason, self.error, self.traceback), (self.partition, self.offset)
        return Outcome(self.path, self.kind, self.key, b"", *failure, *place, None, self.final, self.facts)


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


def result(version: FileVersion, value: bytes, facts: Facts = NO_FACTS) -> Outcome:
    """Make the outcome of a file whose extractor returned metadata, already encoded."""
    return Outcome(
        path=version.relative_path, kind="result", key=version.result_key, value=value, version=version, facts=facts
    )


def held(version: FileVersion, failure: Failure, facts: Facts = NO_FACTS) -> Outcome:
    """Say that a file has failed and is left for the next start: nothing is produced for it."""
    error, traceback = cut(failure.error, MAX_ERROR_CHARS), failure.traceback[-MAX_TRACEBACK_CHARS:]
    return Outcome(
        path=version.relative_path,
        kind="held",
        key=version.result_key,
        value=b"",
        reason=failure.reason,
        error=_whole_characters(error),
        traceback=_whole_characters(traceback),
        version=version,
        facts=facts,
    )


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
    record["file"] = _file(version)
    letter = _dead_letter(version.relative_path, version.result_key, failure, record, facts, version)
    return replace(letter, final=failure.reason not in DAMAGED)


def given_up(
    open_version: OpenVersion, offsets: Offsets, origin: Origin, now: str, waited_s: float, facts: Facts = NO_FACTS
) -> Outcome:
    """Make the outcome of a file of which chunks are missing for too long.

    Args:
        open_version: the file version, and what there is of it.
        offsets: where the chunks that are there are on the source topic.
        origin: what is the same for the whole run.
        now: time in ISO format.
        waited_s: how old its newest chunk is, in seconds.
        facts: what views tell besides.
    """
    version, missing = open_version.version, open_version.missing()
    n_missing = version.n_chunks - len(open_version.held)
    named = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in missing[:10])
    more = " and more" if len(missing) > 10 else ""
    what = f"{n_missing} of {version.n_chunks} chunks are missing ({named}{more}); the newest came {waited_s:.0f} s ago"
    if open_version.superseded:
        failure = Failure("superseded", f"a newer version of the file has come, and of this one {what}", attempts=0)
    else:
        failure = Failure("incomplete", what, attempts=0)
    record = _record(version.relative_path, failure, offsets, origin, now)
    record["file"] = _file(version) | {
        "chunks_missing": n_missing,
        "missing": [list(run) for run in missing[:MAX_OFFSET_RANGES]],
    }
    return _dead_letter(version.relative_path, version.result_key, failure, record, facts, version, final=False)


def _file(version: FileVersion) -> dict[str, Any]:
    return {
        "id": version.id.hex(),
        "sha512": version.file_hash.hex(),
        "n_chunks": version.n_chunks,
        "mtime": version.mtime,
    }


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
    letter = _dead_letter("", key, failure, record, facts=Facts(size_bytes=len(message.raw)))
    return replace(letter, partition=partition, offset=offset)


def refused_by_broker(refused: Outcome, offsets: Offsets, origin: Origin, now: str) -> Outcome:
    """Make a small dead letter in the place of an outcome that the broker refused because of its size.

    Args:
        refused: what was refused.
        offsets: where its chunks are on the source topic.
        origin: what is the same for the whole run.
        now: time in ISO format.
    """
    if refused.kind == "result":
        size = len(refused.value)
        failure = Failure("result_too_large", f"the broker refused the metadata: {size} bytes are too large for it")
    else:
        attempts = orjson.loads(refused.value)["attempts"]
        failure = Failure(cast("Reason", refused.reason), refused.error, attempts=attempts)
    record = _record(refused.path or None, failure, offsets, origin, now, max_ranges=0)
    if refused.version is not None:
        record["file"] = _file(refused.version)
    return replace(
        _dead_letter(refused.path, refused.key, failure, record, refused.facts, refused.version, final=refused.final),
        partition=refused.partition,
        offset=refused.offset,
    )


@dataclass(frozen=True, slots=True)
class PoisonMessage:
    """A message of the source topic that is no chunk.

    Attributes:
        reason: machine-readable code.
        error: one line for a person.
        raw: the beginning of the message's value.
        size_bytes: length of the whole value.
    """

    reason: Reason
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
    path: str,
    key: str,
    failure: Failure,
    record: dict[str, Any],
    facts: Facts,
    version: FileVersion | None = None,
    *,
    final: bool = True,
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
        version=version,
        final=final,
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
    """Return a record whose texts UTF-8 can carry: some come from user code."""
    return {key: _whole_characters(value) if isinstance(value, str) else value for key, value in record.items()}


def _whole_characters(text: str) -> str:
    """Replace lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
