"""Finds what the registries lack: compares what the topics tell with the rows that are there.

Rules:

1. A record of the topic of results is missing if its row is not in the file as often as the record is on the topic.
   Rows are compared as they are, to the byte; those written meanwhile count as well.
2. It goes on in turns of limited length, and holds no more than a turn's records, the rows written meanwhile, and the
   rows found missing that the run itself may still tell: those whose record is not older than ``LATE_NEWS_S``.
3. Dead letters are read before results: a result that came later takes a failure away. What is read is told whether
   its row is missing or not, so that this holds after a crash, too.
4. While files are listed as failed, all that the topic of dead letters tells of them is read, however old it is: a
   replay may have made their results while a run wrote newer rows. The tombstones of their letters say so. Such a
   result is missing if it has no row at all; its record on the topic of results is then not missing any more.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from ray_reproducer.core.errors import PipelineError
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.observability.registry_format import result_row
from ray_reproducer.observability.registry_source import Registered, read_registered

MAX_TURN: Final = 20_000
"""Records in one turn: some 10 MB of memory."""
MAX_WRITTEN: Final = 200_000
"""Rows written meanwhile that are remembered, some 50 MB; beyond that the next start does it."""
LATE_NEWS_S: Final = 30.0
"""How long after its commit an outcome may be told: a fraction of a second, normally."""


class CatchUp:
    """One comparison of topics and file, from a time on.

    Args:
        results_path: the registry of results; the file exists.
        clients: settings of the Kafka clients.
        topics: of dead letters, and of results (rule 3).
        group_id: whose records count.
        since_ms: from which time on, in milliseconds since the epoch; 0: from the beginning.

    Attributes:
        since_ms: from which time on.
        ended: whether there is nothing more to do.
        complete: whether all that the topics told is known.
    """

    def __init__(
        self, results_path: Path, clients: ClientConfigs, topics: tuple[str, str], group_id: str, since_ms: int
    ) -> None:
        self.since_ms = since_ms
        self.ended = False
        self.complete = False
        self._path = results_path
        self._size = results_path.stat().st_size
        self._written: Counter[str] = Counter()
        self._told_perhaps: Counter[str] = Counter()
        self._late_ms = int((time.time() - LATE_NEWS_S) * 1000)
        self._failed: frozenset[str] = frozenset()
        letters_topic, results_topic = topics
        self._records: Iterator[Registered | None] = chain(
            self._letters(clients, letters_topic, group_id),
            read_registered(clients, results_topic, group_id, since_ms or None),
        )

    def look_for_failed(self, paths: Collection[str]) -> None:
        """Rule 4: look what became of these files; before the first turn."""
        self._failed = frozenset(paths)

    def turn(self, limit_s: float) -> list[tuple[str, Outcome]]:
        """Read on; return what was read, each with its row if that is missing; "" if it is there, or there is none.

        Args:
            limit_s: about how long, in seconds.

        Raises:
            ReproducerError: it can't go on, and has ended.
            OSError: the file can't be read.
        """
        try:
            if len(self._written) > MAX_WRITTEN:
                raise PipelineError("so many results are made that those of earlier runs wait for the next start")
            return self._missing(self._read(time.monotonic() + limit_s))
        except Exception:
            self.give_up()
            raise

    def give_up(self) -> None:
        """End without being complete."""
        self.ended = True
        self.complete = False
        self._written.clear()
        self._told_perhaps.clear()

    def without_known(self, rows: Sequence[str]) -> list[str]:
        """Leave out the rows that were found missing, and are written, already."""
        if not self._told_perhaps:
            return list(rows)
        return [row for row in rows if not _take(self._told_perhaps, row)]

    def written(self, rows: Sequence[str]) -> None:
        """Take note of rows that have been written."""
        if not self.ended and len(self._written) <= MAX_WRITTEN:
            self._written.update(rows)

    def _letters(self, clients: ClientConfigs, topic: str, group_id: str) -> Iterator[Registered | None]:
        since_ms = None if self._failed else self.since_ms or None
        for record in read_registered(clients, topic, group_id, since_ms):
            if record is None or (record.produced_ms < self.since_ms and record.outcome.path not in self._failed):
                yield None
            else:
                yield record._replace(by_tombstone=record.outcome.kind == "result")

    def _read(self, deadline_s: float) -> list[Registered]:
        records: list[Registered] = []
        for record in self._records:
            if record is not None:
                records.append(record)
            if len(records) >= MAX_TURN or time.monotonic() >= deadline_s:
                return records
        self.ended = self.complete = True
        return records

    def _missing(self, records: Sequence[Registered]) -> list[tuple[str, Outcome]]:
        rows = [result_row(record.outcome) if record.outcome.kind == "result" else "" for record in records]
        there = self._rows_there(Counter(filter(None, rows)))
        read: list[tuple[str, Outcome]] = []
        for record, row in zip(records, rows, strict=True):
            missing = row
            if record.by_tombstone:
                if there[row] > 0 or self._written[row] > 0:
                    missing = ""
                else:
                    self._written[row] += 1  # by this turn's end
            elif row and (_take(there, row) or _take(self._written, row)):
                missing = ""
            elif row and record.produced_ms >= self._late_ms:
                self._told_perhaps[row] += 1
            read.append((missing, record.outcome))
        return read

    def _rows_there(self, wanted: Counter[str]) -> Counter[str]:
        """Count those of the wanted rows that the file had when this began."""
        there: Counter[str] = Counter()
        if not wanted:
            return there
        left = self._size
        with self._path.open("rb") as file:
            for line in file:
                left -= len(line)
                if left < 0:
                    break
                text = line.decode("utf-8", "replace")
                if text in wanted:
                    there[text] += 1
        return there


def _take(rows: Counter[str], row: str) -> bool:
    """Take one of these rows, if there is one."""
    if rows[row] <= 0:
        del rows[row]
        return False
    rows[row] -= 1
    return True
