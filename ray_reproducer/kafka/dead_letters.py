"""Reads the dead-letter topic, from its beginning to where it ends now and later on from there, and clears letters.

Rules:

1. Read is what is committed, up to the end as it was when the reading began: not up to where readers of committed
   records get at that moment. Behind a transaction that another program has open there may be records that clear
   letters; they are waited for, as long as a broker lets a transaction be open by default.
2. A second call of ``refresh`` reads only what came since the first.
3. Nothing is committed, and no group is joined.
4. Waiting has an end: only what brings a partition further that is not read to its end yet puts it off. What others
   write to the rest of the topic meanwhile does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from confluent_kafka import KafkaException

from ray_reproducer.core import result_header
from ray_reproducer.core.errors import BrokerError, TransactionOpenError
from ray_reproducer.core.live_letters import CLEARS_HEADER, Letter, LiveLetters, Place, clears_header
from ray_reproducer.kafka import admin, faults, finished_lately
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.outbox import DeliveryFailedError, Outbox, Record
from ray_reproducer.kafka.source import Event, OffsetLost, PartitionEnd, Source

STANDSTILL_S: Final = 90.0
"""How long nothing may come before the reading is given up: a transaction may be open for 60 s by default."""
_SAY_AFTER_S: Final = 5.0
"""After how long without anything it is said what is waited for."""
_POLL_S: Final = 0.2
_CLEAR_S: Final = 60.0
"""How long it may take to write tombstones: half the time that the library itself gives a record by default."""
_GROUP: Final = "ray_reproducer.replay"
"""A group in name only, for permissions: nothing is committed for it."""


class DeadLetterReader:
    """Keeps live letters up to date with their topic.

    Args:
        clients: the user's client settings.
        topic: the dead-letter topic.
        letters: takes what is read.
        tell: called with a line of text when it takes long, and why.
    """

    def __init__(self, clients: ClientConfigs, topic: str, letters: LiveLetters, tell: Callable[[str], None]) -> None:
        self.letters = letters
        self._clients = clients
        self._topic = topic
        self._tell = tell
        self._next: dict[int, int] = {}

    def refresh(self, standstill_s: float = STANDSTILL_S) -> None:
        """Read up to where the topic ends now.

        Args:
            standstill_s: how long nothing may come before it is given up.

        Raises:
            TransactionOpenError: a transaction is open on the topic, and does not end.
            BrokerError: the broker does not answer, the topic does not exist or may not be read, or it was made anew.
        """
        partitions = admin.describe_topic(self._clients, self._topic).partitions
        limits = admin.watermarks(self._clients, self._topic, partitions, committed=False)
        for partition, (low, high) in limits.items():
            if self._next.setdefault(partition, low) > high:
                raise self._made_anew(partition)
        open_partitions = {p: high for p, (_, high) in limits.items() if self._next[p] < high}
        if not open_partitions:
            return
        starts = {partition: self._next[partition] for partition in open_partitions}
        source = Source(self._clients, _GROUP, self._topic, starts, faults.as_lines(self._tell))
        try:
            self._read(source, open_partitions, standstill_s)
        finally:
            source.close()

    def _read(self, source: Source, open_partitions: dict[int, int], standstill_s: float) -> None:
        last_s, said = time.monotonic(), False
        while open_partitions:
            event = source.poll(_POLL_S)
            now = time.monotonic()
            if event is not None and self._goes_on(event, open_partitions):
                last_s = now
            elif now - last_s > standstill_s:
                raise self._standstill(open_partitions, standstill_s)
            elif now - last_s > _SAY_AFTER_S and not said:
                said = True
                self._tell(f"waiting for {self._topic}: a transaction is open there, or the broker is slow")

    def _goes_on(self, event: Event, open_partitions: dict[int, int]) -> bool:
        """Take what came, and tell whether it brought a partition further that is waited for (rule 4)."""
        partition = event.partition if isinstance(event, (PartitionEnd, OffsetLost)) else event.partition() or 0
        before = self._next[partition]
        self._next[partition] = self._take(event, partition)
        if partition not in open_partitions:
            return False
        if self._next[partition] >= open_partitions[partition]:
            del open_partitions[partition]
        return self._next[partition] > before

    def _take(self, event: Event, partition: int) -> int:
        """Take what came; return the offset that is next on its partition."""
        if isinstance(event, PartitionEnd):
            return event.offset
        if isinstance(event, OffsetLost):
            if event.resumes_at is None:
                raise self._made_anew(partition)
            return event.resumes_at
        offset = event.offset() or 0
        headers: list[Any] = list(event.headers() or ())
        clears = dict(headers).get(CLEARS_HEADER)
        clears = clears.encode() if isinstance(clears, str) else clears
        key = (event.key() or b"").decode("utf-8", "backslashreplace")
        owner = finished_lately.said_by(headers)
        group_id = result_header.group_of(dict(headers).get(result_header.HEADER))
        self.letters.take(Place(partition, offset), key, event.value(), clears, owner, group_id)
        return offset + 1

    def _made_anew(self, partition: int) -> BrokerError:
        return BrokerError(
            f"{self._topic} [{partition}] ends before what was read of it: the topic was deleted and made anew, or cut",
            hint="Start again.",
        )

    def _standstill(self, open_partitions: dict[int, int], standstill_s: float) -> TransactionOpenError:
        where = ", ".join(f"[{p}] {self._next[p]} of {end}" for p, end in sorted(open_partitions.items()))
        return TransactionOpenError(
            f"{self._topic} can't be read to its end: nothing came for {standstill_s:g} s ({where})",
            hint="Does a program that writes to it leave a transaction open (kafka-transactions.sh list)? "
            "What is behind it can't be seen by anybody until the broker ends it.",
        )


def clear(clients: ClientConfigs, topic: str, letters: Iterable[Letter], tell: Callable[[str], None]) -> None:
    """Write tombstones for letters that have become untrue. To clear a letter a second time changes nothing.

    Args:
        clients: the user's client settings.
        topic: the dead-letter topic.
        letters: which.
        tell: called with a line of text when the broker is in trouble.

    Raises:
        BrokerError: the broker does not take them.
    """
    places: dict[str, list[Place]] = {}
    for letter in letters:
        places.setdefault(letter.key, []).append(letter.place)
    tombstones = [Record(topic, key, None, (clears_header(cleared),)) for key, cleared in places.items()]
    outbox = Outbox(clients, {}, faults.Health(faults.as_lines(tell)))
    try:
        outbox.send(tombstones, time.monotonic() + _CLEAR_S)
    except DeliveryFailedError as failed:
        raise _not_cleared(topic, faults.text(failed.error)) from None
    except KafkaException as exception:
        raise _not_cleared(topic, faults.text(faults.of(exception))) from None
    finally:
        outbox.drop()


def _not_cleared(topic: str, why: str) -> BrokerError:
    return BrokerError(
        f"dead letters of files that have their result can't be cleared on {topic}: {why}",
        hint=f"Grant WRITE on the topic {topic}.",
    )
