"""Says of each record that becomes visible, and of each committed position, whether it may be.

Rules:

1. Each file version has one outcome: the value that the same function gives here, or a dead letter with the planned
   reason that names the messages which hold the file. Nothing else is on the topics.
2. A batch whose outcomes are all there is closed and forgotten. A record of a closed batch is there twice.
3. A committed position, and the metadata beside it, speak only of files whose outcome was produced before.
4. What is wrong is kept as a line of text; nothing is forgiven.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ray_reproducer.core import commit_metadata
from tests.faults.plan import Batch
from tests.faults.watching import Position, Seen
from tests.workload import Place, Rubbish, SentFile, places_in

_CLOCK_STEP_S: Final = 0.002
"""Timestamps of records are cut to milliseconds."""


@dataclass
class Tally:
    """What was counted.

    Attributes:
        files: file versions and messages that are no chunks, put on the topic.
        results: seen.
        letters_planned: dead letters that are due.
        letters: dead letters seen that were planned.
        duplicates: outcomes seen again.
        losses: outcomes that did not come.
        wrong: outcomes that nobody planned, or with another value.
        steps_back: committed positions that went back, or spoke of files that were not done.
    """

    files: int = 0
    results: int = 0
    letters_planned: int = 0
    letters: int = 0
    duplicates: int = 0
    losses: int = 0
    wrong: int = 0
    steps_back: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.duplicates or self.losses or self.wrong or self.steps_back)


@dataclass
class _Due:
    """An outcome that is due, and when it was produced if it is there."""

    what: SentFile | Rubbish
    value: dict[str, Any] | None
    times: int = 0
    produced_s: float = 0.0

    @property
    def path(self) -> str | None:
        return self.what.version.relative_path if isinstance(self.what, SentFile) else None

    def __str__(self) -> str:
        reason = self.what.reason
        return f"{self.path or sorted(self.what.places)}{f' ({reason})' if reason else ''}"


@dataclass
class _OpenBatch:
    due: list[_Due]
    by_path: dict[str, list[_Due]] = field(default_factory=dict)


class Judge:
    """Knows what is due, and takes what is seen.

    Args:
        function: what the extractor gives for a good file.
        results: the topic of results; all else is dead letters.
        repeats_allowed: whether an outcome that comes again is counted only (``delivery=at_least_once``).
    """

    def __init__(self, function: Callable[[Any], dict[str, Any]], results: str, *, repeats_allowed: bool) -> None:
        self._function = function
        self._results = results
        self._repeats_allowed = repeats_allowed
        self._open: dict[int, _OpenBatch] = {}
        self._closed: set[int] = set()
        self._rubbish_done: set[Place] = set()
        self._history: dict[int, list[Position]] = {}
        self._seen_steps_back = 0
        self.tally = Tally()
        self.repeats = 0
        self.problems: list[str] = []

    def sent(self, batch: Batch) -> None:
        """Take note of a batch that is on the topic now."""
        due = [
            _Due(file, None if file.reason else json.loads(file.expected(self._function)[1])) for file in batch.files
        ]
        due += [_Due(bad, None) for bad in batch.rubbish]
        by_path: dict[str, list[_Due]] = {}
        for one in due:
            by_path.setdefault(one.path or "", []).append(one)
        self._open[batch.number] = _OpenBatch(due, by_path)
        self.tally.files += len(due)
        self.tally.letters_planned += sum(bool(one.what.reason) for one in due)

    def take(self, records: Sequence[Seen]) -> None:
        """Look at records."""
        for record in records:
            self._result(record) if record.topic == self._results else self._letter(record)

    def take_positions(self, history: Mapping[int, Sequence[Position]], steps_back: Sequence[str]) -> None:
        """Look at committed positions."""
        for partition, positions in history.items():
            self._history.setdefault(partition, []).extend(positions)
        for text in steps_back[self._seen_steps_back :]:
            self._problem("steps_back", f"a committed position went back: {text}")
        self._seen_steps_back = len(steps_back)

    def done(self, number: int) -> int:
        """How many outcomes of a batch are there."""
        batch = self._open.get(number)
        return sum(one.times > 0 for one in batch.due) if batch else 0

    def missing(self) -> list[str]:
        """What is due and not there."""
        return [str(one) for batch in self._open.values() for one in batch.due if not one.times]

    def close(self) -> None:
        """Check the positions against the batches (rule 3), count what is missing as lost, and forget them."""
        for lost in self.missing():
            self._problem("losses", f"no outcome: {lost}")
        self._check_positions()
        for batch in self._open.values():
            self._rubbish_done.update(place for one in batch.due if not one.path for place in one.what.places)
        self._closed.update(self._open)
        self._open.clear()
        self._history.clear()

    def _value(self, file: SentFile) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(file.expected(self._function)[1])
        return value

    # ------------------------------------------------------------ one record

    def _result(self, record: Seen) -> None:
        path = record.value.get("path") if isinstance(record.value, dict) else None
        candidates = self._candidates(path, record)
        if candidates is None:
            return
        for due in candidates:
            if due.value == record.value:
                self._outcome(due, record, "results")
                return
        self._problem("wrong", f"a result that nobody planned: {record.key} {record.value!r:.300}")

    def _letter(self, record: Seen) -> None:
        path, reason, places = record.value["path"], record.value["reason"], places_in(record.value)
        if path is None and places <= self._rubbish_done:
            self._again(str(record))
            return
        candidates = self._candidates(path, record)
        if candidates is None:
            return
        for due in candidates:
            if due.what.reason == reason and places and places <= due.what.places:
                if isinstance(due.what, SentFile) and len(places) < len(due.what.chunks):
                    self._problem("wrong", f"the dead letter of {path} does not name all chunks: {sorted(places)}")
                self._outcome(due, record, "letters")
                return
        self._problem(
            "wrong",
            f"a dead letter that nobody planned: {path} {reason} {sorted(places)} {record.value['error']:.300}",
        )

    def _candidates(self, path: str | None, record: Seen) -> list[_Due] | None:
        """What the record may be; None if it was dealt with: its batch is closed, so it is there twice."""
        if path is None:
            return [due for batch in self._open.values() for due in batch.by_path.get("", [])]
        number = int(path.partition("/")[0])
        if number in self._closed:
            self._again(str(record))
            return None
        batch = self._open.get(number)
        return batch.by_path.get(path, []) if batch else []

    def _outcome(self, due: _Due, record: Seen, kind: str) -> None:
        due.times += 1
        if due.times > 1:
            self._again(str(record))
            return
        due.produced_s = record.produced_s
        setattr(self.tally, kind, getattr(self.tally, kind) + 1)

    def _again(self, what: str) -> None:
        self.repeats += 1
        if not self._repeats_allowed:
            self._problem("duplicates", f"there twice: {what}")

    def _problem(self, kind: str, text: str) -> None:
        setattr(self.tally, kind, getattr(self.tally, kind) + 1)
        self.problems.append(text)

    # ------------------------------------------------------------ positions

    def _check_positions(self) -> None:
        for batch in self._open.values():
            for due in batch.due:
                version_id = due.what.version.id if isinstance(due.what, SentFile) else b""
                for partition, offset in due.what.places:
                    said = next(self._claims(partition, offset, version_id), None)
                    if said and (not due.times or said.seen_s + _CLOCK_STEP_S < due.produced_s):
                        self._problem(
                            "steps_back",
                            f"partition {partition}: the position {said.offset} and its metadata say that offset "
                            f"{offset} is done, but {due} was not: seen {due.produced_s - said.seen_s:.3f} s too early",
                        )

    def _claims(self, partition: int, offset: int, version_id: bytes) -> Iterator[Position]:
        """The committed positions that say that a chunk is done."""
        for position in self._history.get(partition, []):
            if position.offset > offset:
                yield position
            elif position.metadata:
                state = commit_metadata.decode(position.metadata, position.offset)
                if state.is_done(offset, version_id):
                    yield position
