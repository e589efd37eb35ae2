"""The committer's second thread: waits in transactions, so that the loop never does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ray_reproducer.core import result_header
from ray_reproducer.core.errors import BrokerError, RecordTooLargeError
from ray_reproducer.core.events import Commit, Event, TransactionAborted, TransactionCommitted
from ray_reproducer.core.live_letters import Place, clears_header
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.kafka import finished_lately
from ray_reproducer.kafka.delivery import CommittedOffset, Record
from ray_reproducer.kafka.delivery_protocol import Delivery

SMALLEST_LETTER_BYTES: Final = 10_000
"""A dead letter of this size can't be made smaller: if the broker refuses it, its topic can't be used."""
Clears: TypeAlias = Mapping[bytes, Mapping[str, Sequence[Place]]]
"""Id of a file version -> key -> places of the dead letters with that key that its outcome clears."""
IDLE_LOOK_S: Final = 10.0
"""While there is nothing to commit: how often it is looked whether the last transaction outlived a broken connection,
in seconds. It costs nothing unless one broke."""
JOIN_TIMEOUT_S: Final = 1.0
"""How long a transaction that nobody waits for any more may take to notice that its producer is closed."""


@dataclass(frozen=True, slots=True)
class RecordHeaders:
    """What the headers of a record tell of its file.

    Attributes:
        tag: names group and source topic (``kafka.finished_lately``).
        registries_of: group id, if the registries are to be made anew from the topics some time; else "".
        owners: id of a file version -> another tag: a replayed file is the file of the group that it failed in.
        groups: id of a file version -> the id of that group, if the file is in its registries.
    """

    tag: bytes
    registries_of: str = ""
    owners: Mapping[bytes, bytes] = field(default_factory=dict)
    groups: Mapping[bytes, str] = field(default_factory=dict)

    def of(self, outcome: Outcome) -> tuple[tuple[str, bytes], ...]:
        """Make the headers of an outcome's record."""
        headers: tuple[tuple[str, bytes], ...] = ()
        if outcome.version is not None:
            # By this a later life of the program knows that the file is finished, or may be sent again.
            tag = self.owners.get(outcome.version.id, self.tag)
            headers = finished_lately.headers(tag, outcome.version.id, finished=outcome.final)
        group_id = self._group_of(outcome)
        return headers + result_header.encode(outcome, group_id) if group_id else headers

    def of_tombstone(self, outcome: Outcome) -> tuple[tuple[str, bytes], ...]:
        """Make the headers of a tombstone by which an outcome clears a letter, besides the one that says which.

        A registry that lists the file as failed looks for its result there: dead letters are few, and results many.
        """
        group_id = self._group_of(outcome)
        return result_header.encode(outcome, group_id) if group_id and outcome.kind == "result" else ()

    def _group_of(self, outcome: Outcome) -> str:
        return self.groups.get(outcome.version.id, self.registries_of) if outcome.version else self.registries_of


class TransactionThread:
    """Carries out one transaction after the other and reports how each ended."""

    def __init__(
        self,
        delivery: Delivery,
        results_topic: str,
        dead_letters_topic: str,
        headers: RecordHeaders,
        report: Callable[[Event | Exception], None],
        clears: Clears | None = None,
    ) -> None:
        """Prepare.

        Args:
            delivery: how records and offsets are written.
            results_topic: where metadata goes.
            dead_letters_topic: where failures go.
            headers: what records tell in their headers.
            report: called, in this thread, with how a transaction ended, or with what ended the thread.
            clears: which dead letters a replayed file's outcome clears; None if this is no replay.
        """
        self._clears = clears or {}
        self._delivery = delivery
        self._topics = {"result": results_topic, "dead_letter": dead_letters_topic}
        self._headers = headers
        self._report = report
        self._commits: queue.SimpleQueue[Commit | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="transactions", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, commit: Commit) -> None:
        """Let a transaction be carried out, after those submitted before."""
        self._commits.put(commit)

    def end(self) -> None:
        """Let the thread end, and wait for it, when nothing is left to commit."""
        self._commits.put(None)
        self._thread.join()

    def close(self) -> None:
        """End; a transaction that is under way is given up."""
        self._commits.put(None)
        self._delivery.close()
        self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        try:
            while (commit := self._next()) is not None:
                self._report(self._carry_out(commit))
        # Whatever it is ends the program: the loop raises it where the driver sees it.
        except Exception as error:  # noqa: BLE001
            self._report(error)

    def _next(self) -> Commit | None:
        while True:
            try:
                return self._commits.get(timeout=IDLE_LOOK_S)
            except queue.Empty:
                self._delivery.confirm_after_trouble()

    def _carry_out(self, commit: Commit) -> Event:
        records = self._records(commit)
        offsets = {p: CommittedOffset(c.position, c.metadata) for p, c in commit.commits.items()}
        try:
            return TransactionCommitted() if self._delivery.deliver(records, offsets) else TransactionAborted()
        except RecordTooLargeError as error:
            if error.index >= len(commit.outcomes):
                raise BrokerError(
                    f"{self._topics['dead_letter']}: the broker refuses a tombstone: {error.message}",
                    hint="Raise max.message.bytes of the topic.",
                ) from error
            refused = commit.outcomes[error.index]
            if refused.kind == "dead_letter" and len(refused.value) <= SMALLEST_LETTER_BYTES:
                raise BrokerError(
                    f"{self._topics['dead_letter']}: the broker refuses a dead letter of {len(refused.value)} bytes",
                    hint="Raise max.message.bytes of the topic.",
                ) from error
            return TransactionAborted(too_large=error.index)

    def _records(self, commit: Commit) -> list[Record]:
        """Make the records: first one for each outcome, then the tombstones of what these clear.

        A dead letter clears an older one of the same key by itself: where the topic is compacted, a tombstone behind it
        would take it away too.
        """
        records: list[Record] = []
        tombstones: list[Record] = []
        for version_id, outcome in zip(commit.versions, commit.outcomes, strict=True):
            clears = dict(self._clears.get(version_id, {}))
            replaced = clears.pop(outcome.key, ()) if outcome.kind == "dead_letter" else ()
            headers = self._headers.of(outcome) + ((clears_header(replaced),) if replaced else ())
            records.append(Record(self._topics[outcome.kind], outcome.key, outcome.value, headers))
            result = self._headers.of_tombstone(outcome)
            tombstones.extend(
                Record(self._topics["dead_letter"], key, None, (clears_header(places), *result))
                for key, places in clears.items()
            )
        return records + tombstones
