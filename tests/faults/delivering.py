"""A stream of transactions, as the committer makes them, to disturb: record n goes together with position n."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType

from ray_reproducer.core.errors import ReproducerError
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.delivery import CommittedOffset, Record, TransactionalDelivery
from tests.waiting import wait_until

PROGRESS_S = 60.0
"""How long it may take until records are committed again, after a broker has come back."""
RECORDS = 5
"""A transaction's records: positions n to n + 4 at once."""


class Delivering:
    """Delivers one transaction after the other in a thread of its own, until it is told to end.

    Args:
        clients: of the program under test.
        group_id: whose positions.
        source: the topic that they are of (partition 0).
        results: where records go.
    """

    def __init__(self, clients: ClientConfigs, group_id: str, source: str, results: str) -> None:
        self.heard: list[str] = []
        self.committed = 0
        self.error: BaseException | None = None
        self.attempts = 0
        self.confirms = False  # after each transaction whether its positions are there
        self._results = results
        self._delivery = TransactionalDelivery(
            clients, group_id, source, (0,), f"ray_reproducer.{group_id}", self.heard.append, topics=(results,)
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivering", daemon=True)

    def __enter__(self) -> Delivering:
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._stop.set()
        self._delivery.close()
        self._thread.join(PROGRESS_S)

    def goes_on(self, transactions: int = 3) -> float:
        """Wait until so many more transactions are committed, and return how long that took, in seconds."""
        began_s = time.monotonic()
        goal = self.committed + transactions * RECORDS

        def enough() -> bool:
            if self.error is not None:
                raise AssertionError(f"it has ended: {self.error}") from self.error
            return self.committed >= goal

        wait_until(enough, PROGRESS_S, f"{transactions} more transactions; heard {self.heard[-3:]}")
        return time.monotonic() - began_s

    def ends(self) -> BaseException:
        """Wait until it has ended by itself, and return with what."""
        wait_until(lambda: self.error is not None, PROGRESS_S, "its end")
        assert self.error is not None
        return self.error

    def finish(self) -> list[str]:
        """End after the transaction that is under way, and return what must be on the topic."""
        self._stop.set()
        self._thread.join(PROGRESS_S)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise AssertionError(f"it has ended: {self.error}") from self.error
        return expected(self.committed)

    def _run(self) -> None:
        try:
            known = self._delivery.start()
            self.committed = known[0].offset if known else 0
            while not self._stop.is_set():
                self._transaction(range(self.committed + 1, self.committed + 1 + RECORDS))
        except ReproducerError as error:
            self.error = error

    def _transaction(self, numbers: Sequence[int]) -> None:
        records = [Record(self._results, f"k{number}", b"%d" % number) for number in numbers]
        self.attempts += 1
        if self._delivery.deliver(records, {0: CommittedOffset(numbers[-1], f"up to {numbers[-1]}")}):
            self.committed = numbers[-1]
            if self.confirms:
                self._delivery.confirm()


def expected(committed: int) -> list[str]:
    """The values that must be on the topic, sorted as text."""
    return sorted(str(number) for number in range(1, committed + 1))
