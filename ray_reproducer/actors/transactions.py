"""The committer's second thread: waits in transactions, so that the loop never does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from ray_reproducer.core.errors import BrokerError, RecordTooLargeError
from ray_reproducer.core.events import Commit, Event, TransactionAborted, TransactionCommitted
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.kafka.delivery import CommittedOffset, Delivery, Record

SMALLEST_LETTER_BYTES: Final = 10_000
"""A dead letter of this size can't be made smaller: if the broker refuses it, its topic can't be used."""
JOIN_TIMEOUT_S: Final = 1.0
"""How long a transaction that nobody waits for any more may take to notice that its producer is closed."""


Headers: TypeAlias = tuple[tuple[str, bytes], ...]
"""Headers of a record: name and value of each."""


def _no_headers(_outcome: Outcome) -> Headers:
    return ()


class TransactionThread:
    """Carries out one transaction after the other and reports how each ended."""

    def __init__(
        self,
        delivery: Delivery,
        results_topic: str,
        dead_letters_topic: str,
        report: Callable[[Event | Exception], None],
        headers: Callable[[Outcome], Headers] = _no_headers,
    ) -> None:
        """Prepare.

        Args:
            delivery: how records and offsets are written.
            results_topic: where metadata goes.
            dead_letters_topic: where failures go.
            report: called, in this thread, with how a transaction ended, or with what ended the thread.
            headers: gives the headers of an outcome's record.
        """
        self._delivery = delivery
        self._topics = {"result": results_topic, "dead_letter": dead_letters_topic}
        self._report = report
        self._headers = headers
        self._commits: queue.SimpleQueue[Commit | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="transactions", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, commit: Commit) -> None:
        """Let a transaction be carried out, after those submitted before."""
        self._commits.put(commit)

    def close(self) -> None:
        """End; a transaction that is under way is given up."""
        self._commits.put(None)
        self._delivery.close()
        self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        try:
            while (commit := self._commits.get()) is not None:
                self._report(self._carry_out(commit))
        # Whatever it is ends the program: the loop raises it where the driver sees it.
        except Exception as error:  # noqa: BLE001
            self._report(error)

    def _carry_out(self, commit: Commit) -> Event:
        topics, headers = self._topics, self._headers
        records = [Record(topics[o.kind], o.key, o.value, headers(o)) for o in commit.outcomes]
        offsets = {p: CommittedOffset(c.position, c.metadata) for p, c in commit.commits.items()}
        try:
            return TransactionCommitted() if self._delivery.deliver(records, offsets) else TransactionAborted()
        except RecordTooLargeError as error:
            refused = commit.outcomes[error.index]
            if refused.kind == "dead_letter" and len(refused.value) <= SMALLEST_LETTER_BYTES:
                raise BrokerError(
                    f"{self._topics['dead_letter']}: the broker refuses a dead letter of {len(refused.value)} bytes",
                    hint="Raise max.message.bytes of the topic.",
                ) from error
            return TransactionAborted(too_large=error.index)
