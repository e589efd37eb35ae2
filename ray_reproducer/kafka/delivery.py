"""Writes results together with the source positions that they make done.

Rules:

1. ``start`` initialises transactions first (which aborts what a predecessor left open) and reads the committed
   positions after that; the other way round an open transaction's positions are missed.
2. In a transaction: the positions, then all records, then every delivery report, then the commit. With the positions
   first, none is begun with records alone: one that the broker leaves open as a whole shows in the positions (rule 8).
3. An error is tested in this order: forbidden or unsupported (can't heal); fatal or fenced (another instance has taken
   over: stop); requires abort (abort, nothing was committed); retriable (the *same* call again); anything else
   (the producer is dropped and a new one made).
4. What was committed is never guessed. After any failure the committed positions are read and compared with what we
   sent and with what was there before; if they are neither, somebody else has committed: stop.
5. A producer whose connection broke, at any time, is replaced before the next transaction: a late copy of its request
   to commit or abort the last one could end the next one. A transaction in which it broke is not committed: the one
   before may be lost (rule 8), and would be committed in part by the same marker.
6. While the broker is away we keep trying, and say so through ``on_trouble``.
7. Who has been suspended for long may be replaced without knowing. So before the transactional id is taken over *again*
   the committed positions are looked at, and who has signed last: taking over would fence a successor.
8. A transaction that the broker has ended, but left open on some partitions, is ended before the next (``leftovers``).
   If that takes back one that the broker had said was committed, all begins anew with what is there.
9. Positions that are committed before we asked for it are put back: their records may not all be there. Nothing should
   bring that about but a late copy of a request (rule 5) that went unnoticed.
10. A broker that has just taken the group over may tell older positions (``group_offsets``). So that a commit we asked
   for is not there, and where a later life begins, is believed only when a write to the group has been replicated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from ray_reproducer.core.errors import (
    BrokerError,
    IllegalEventError,
    PipelineError,
    RecordTooLargeError,
    ReproducerError,
)
from ray_reproducer.kafka import failpoints, faults, hopeless, leftovers
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.group_offsets import STABLE_S, CommittedOffset, GroupOffsets
from ray_reproducer.kafka.outbox import DeliveryFailedError, Outbox, Record
from ray_reproducer.kafka.put_back import put_back
from ray_reproducer.kafka.time_limit import no_longer_than

__all__ = ["PAUSE_S", "CommittedOffset", "Record", "TransactionalDelivery"]

_TRANSACTION_TIMEOUT_MS: Final = 60_000
"""The library's default of transaction.timeout.ms: after it the broker aborts an open transaction by itself."""
_OUR_SHARE: Final = 0.75
"""We give a transaction up before the broker does: what the broker aborts looks as if we were fenced."""
_CALL_S: Final = 2.0
"""One try of a call that is then repeated: between tries errors of the connection are heard."""
_LONGEST_PATIENCE_S: Final = 60.0
"""For one answer of a broker that is slow: the time that the client library itself gives it by default."""
PAUSE_S: Final = (0.05, 0.2, 1.0, 5.0)
"""Pauses after the first, second, ... failure in a row."""


class TransactionalDelivery:
    """Exactly once: records and positions become visible together or not at all.

    Args:
        clients: the user's client settings.
        group_id: whose positions are committed.
        source_topic: the topic that the positions are of.
        partitions: its partitions.
        transactional_id: the instance that uses it last fences the others.
        on_trouble: called with a line of text when the broker is in trouble, with "" when it is well again.
        topics: that records go to.
        takes_over_once: end rather than take the id over again.
        refuse_newer: called before the id is taken over again; raises FencedError if a newer instance has signed, and
            returns whether the broker has told.
        is_later_life: whether an earlier life of this instance has taken the id over.
    """

    def __init__(  # noqa: PLR0913 - what is rarely given goes by keyword
        self,
        clients: ClientConfigs,
        group_id: str,
        source_topic: str,
        partitions: Sequence[int],
        transactional_id: str,
        on_trouble: Callable[[str], None],
        *,
        topics: Sequence[str] = (),
        takes_over_once: bool = False,
        refuse_newer: Callable[[], bool] = lambda: True,
        is_later_life: bool = False,
    ) -> None:
        self._clients = clients
        self._topics = topics
        self._refuse_newer, self._is_later_life = refuse_newer, is_later_life
        self._partitions = set(partitions)
        self._take_overs_left = 1.0 if takes_over_once else float("inf")
        self._transactional_id = transactional_id
        self._closed = threading.Event()
        self._health = faults.Health(on_trouble)
        # 10 ms: the broker answers CONCURRENT_TRANSACTIONS while it writes the markers of the last transaction, and the
        # client waits one back-off: 34 ms a transaction with the default of 100 ms, 10-18 ms with this.
        self._outbox = Outbox(clients, {"transactional.id": transactional_id, "retry.backoff.ms": 10}, self._health)
        self._group = GroupOffsets(clients, group_id, source_topic, self._health, self._wait)
        config = clients.for_producer()
        self._timeout_s = _OUR_SHARE * int(config.get("transaction.timeout.ms", _TRANSACTION_TIMEOUT_MS)) / 1000
        self._known: dict[int, CommittedOffset] = {}
        self._before: dict[int, CommittedOffset] | None = None  # the last transaction
        self._verified_at_s = 0.0
        self._confirmed_at_s = 0.0
        self._failures = 0
        self._asked_to_commit = False  # in the present transaction

    def start(self) -> dict[int, CommittedOffset]:
        """See ``Delivery.start``."""
        self._initialise()
        if self._take_overs_left == 0:
            self._end_leftovers()  # the group is a new one: positions tell nothing of what was left open
        elif self._is_later_life:
            self._write_to_group(self._read())
        self._known = self._read()
        self._is_certain()
        self._health.well()
        return dict(self._known)

    def confirm(self) -> None:
        """See ``Delivery.confirm``."""
        found = self._read(self._known)
        if found != self._known:
            raise self._not_ours(found)

    def confirm_after_trouble(self) -> None:
        """See ``Delivery.confirm_after_trouble``.

        Nothing is taken over for it: that may be the right of an instance that has begun meanwhile (rule 7).
        """
        self._outbox.hear()
        if self._is_disturbed() and self._health.disturbed_at_s >= self._confirmed_at_s:
            self._outbox.drop()  # by rule 5; while the broker is away nobody would listen to it
            found = self._group.peek(sorted(self._partitions), self._known, self._before)
            if found not in (self._known, self._before):
                raise self._not_ours(found)
            if found != self._known:
                self.confirm()
            self._confirmed_at_s = time.monotonic()
            self._health.well()

    def deliver(self, records: Sequence[Record], offsets: Mapping[int, CommittedOffset]) -> bool:
        """See ``Delivery.deliver``."""
        if records and all(self._known.get(partition) == sent for partition, sent in offsets.items()):
            raise IllegalEventError("records were handed over whose positions are committed already")
        self._partitions.update(offsets)  # a topic may get more partitions
        self._make_ready()
        deadline_s = time.monotonic() + self._timeout_s
        self._asked_to_commit = False
        try:
            failpoints.around("begin", self._outbox.producer.begin_transaction)()
            self._send_positions(offsets, deadline_s)
            failpoints.around("produce", lambda: self._outbox.send(records, deadline_s))()
            self._commit(deadline_s)
        except RecordTooLargeError:
            self._abort(deadline_s)
            raise
        except DeliveryFailedError as failed:
            committed = self._recover(self._outbox.reason(failed.error), offsets, abort_until_s=deadline_s)
        except KafkaException as exception:
            error = faults.of(exception)
            abort_until_s = deadline_s if error.txn_requires_abort() else 0.0
            committed = self._recover(error, offsets, abort_until_s=abort_until_s)
        else:
            committed = True
            self._failures = 0
            self._health.well()
        if committed:
            self._before = self._known
            self._known = {**self._known, **offsets}
        return committed

    def _is_certain(self) -> None:
        """Take note that it is known what is committed, with nothing under way: what broke so far does not matter."""
        self._outbox.hear()
        self._verified_at_s = time.monotonic()

    def _is_disturbed(self) -> bool:
        """Whether a connection broke since it was certain what is committed."""
        return self._health.disturbed_at_s >= self._verified_at_s

    def close(self) -> None:
        """See ``Delivery.close``."""
        self._closed.set()
        self._outbox.drop()
        self._group.close()

    def _commit(self, deadline_s: float) -> None:
        producer = self._outbox.producer
        self._outbox.poll(0.0)
        if self._is_disturbed():
            raise KafkaException(KafkaError(faults.BROKEN, "the connection broke", txn_requires_abort=True))
        self._verified_at_s = time.monotonic()
        self._asked_to_commit = True
        self._repeat(failpoints.around("commit", lambda: producer.commit_transaction(_CALL_S)), deadline_s)
        self._outbox.poll(0.0)
        if self._is_disturbed():
            self._outbox.drop()

    def _send_positions(self, offsets: Mapping[int, CommittedOffset], deadline_s: float) -> None:
        positions, membership = self._group.positions(offsets), self._group.membership()
        send = partial(self._outbox.producer.send_offsets_to_transaction, positions, membership, _CALL_S)
        in_time = partial(no_longer_than, send, deadline_s, _CALL_S, self._look_around)
        self._repeat(failpoints.around("offsets", in_time), deadline_s)

    def _repeat(self, call: Callable[[], None], deadline_s: float) -> None:
        """Make a call, the same again while it says that it is retriable and there is time."""
        while error := faults.attempt(call):
            if not faults.same_call_again(error) or time.monotonic() >= deadline_s:
                raise KafkaException(error)
            self._health.report(faults.text(error), vague=faults.is_vague(error))
            self._outbox.poll(0.01)
            self._wait(0)

    def _look_around(self) -> None:
        """While a call is waited for: hear of trouble, and leave it if this is closed."""
        self._outbox.poll(0.0)
        self._wait(0)

    def _recover(self, error: KafkaError, sent: Mapping[int, CommittedOffset], *, abort_until_s: float) -> bool:
        """After a failed transaction: find out what is committed (rules 3 and 4)."""
        self._refuse_hopeless(error)
        again_at_once = self._outbox.is_outdated
        if not again_at_once:
            self._health.report(f"a transaction failed: {faults.text(error)}", vague=faults.is_vague(error))
        self._abort(abort_until_s)
        self._group.refuse_metadata(error)
        if again_at_once or self._is_disturbed():
            self._outbox.drop()
        takes_over = not self._outbox.is_open
        if takes_over:
            self._refuse_if_replaced({**self._known, **sent})
            self._initialise()
        committed = self._decide(sent)
        if takes_over and not committed:
            self._end_leftovers()
        if not committed and not again_at_once:
            self._wait(PAUSE_S[min(self._failures, len(PAUSE_S) - 1)])
            self._failures += 1
        return committed

    def _decide(self, sent: Mapping[int, CommittedOffset]) -> bool:
        """Compare what is committed with what was sent and what was there before (rule 4)."""
        after = {**self._known, **sent}
        found = self._read(self._known, after)
        if found == self._known != after and self._asked_to_commit:
            self._write_to_group(found)
            found = self._read(self._known, after)
        self._is_certain()
        if found == self._known:
            # Nothing of the transaction is there, unless it had nothing new to say: then it does not matter.
            return all(found.get(partition) == position for partition, position in sent.items())
        if found == after:
            if not self._asked_to_commit:
                put_back(self._group, self._known, sent)
            return True
        raise self._not_ours(found)

    def _not_ours(self, found: dict[int, CommittedOffset]) -> ReproducerError:
        """Say why other positions are committed than those known or sent: some were lost, or another is at work."""
        if found == self._before:
            self._end_leftovers()  # of its records, those that are on partitions which nothing has touched since
            # Some of its records may be visible all the same: the ids beside them tell a new life which.
            return PipelineError("the broker has lost a transaction that it had said was committed")
        if not found:  # they go with the topic that they are of; the next life will look at that first
            return PipelineError(f"the committed positions of group {self._group.group_id} are gone")
        return hopeless.fenced(self._group.group_id, "the committed positions are not ours")

    def _make_ready(self) -> None:
        """Begin with a new producer if the last one was given up, or is no longer to be trusted (rule 5)."""
        self._outbox.hear()
        if self._outbox.is_open:
            if not self._is_disturbed():
                return
            self._outbox.drop()
        self._refuse_if_replaced()
        self._initialise()
        self.confirm()
        self._is_certain()

    def _refuse_if_replaced(self, sent: Mapping[int, CommittedOffset] | None = None) -> None:
        """Stop if somebody else has come, or committed: neither what is known, nor sent, nor known before (7 and 8)."""
        found = self._group.peek(sorted(self._partitions), self._known, sent, self._before)
        self._leave_to_newer()
        if found not in (self._known, sent, self._before):
            raise self._not_ours(found)

    def _leave_to_newer(self) -> None:
        """Rule 7: ask who has signed, until the broker tells. Whoever begins takes over, whatever stands there."""
        while (self._verified_at_s or self._is_later_life) and not self._refuse_newer():
            self._wait(PAUSE_S[2])

    def _read(self, *expected: dict[int, CommittedOffset]) -> dict[int, CommittedOffset]:
        """Read the committed positions; what the broker has left open of ours is ended first (rule 8)."""
        partitions = sorted(self._partitions)
        patience_s = STABLE_S
        while not self._group.is_stable(partitions, patience_s):
            self._end_leftovers(positions=partitions)
            patience_s = min(2 * patience_s, _LONGEST_PATIENCE_S)  # perhaps it was only slow
        return self._group.read(partitions, *expected)

    def _end_leftovers(self, positions: Sequence[int] = ()) -> None:
        """Abort a transaction that touches what is open, and the positions of some partitions; until that is done."""
        while True:
            records = leftovers.touching_records(self._clients, self._topics, self._health)
            if records is None:
                self._wait(PAUSE_S[2])
                continue
            if not (records or positions):
                return
            self._health.report("the broker has left a transaction of ours open: it is ended now")
            if self._touch(records, dict.fromkeys(positions, CommittedOffset(0, ""))):
                return

    def _write_to_group(self, found: Mapping[int, CommittedOffset]) -> None:
        """Write what is there, and take it back, so that the broker learns what is replicated (rule 10)."""
        while not self._touch((), found or {min(self._partitions): CommittedOffset(0, "")}):
            self._wait(0)

    def _touch(self, records: Sequence[Record], positions: Mapping[int, CommittedOffset]) -> bool:
        """Write all that in a transaction, and take it back; return whether that is done."""
        deadline_s, error = time.monotonic() + self._timeout_s, None
        if not self._outbox.is_open:
            self._refuse_if_replaced()
            self._initialise()
        try:
            self._outbox.producer.begin_transaction()
            if positions:
                self._send_positions(positions, deadline_s)
            self._outbox.send(records, deadline_s)
        except DeliveryFailedError as failed:
            error = failed.error
        except KafkaException as exception:
            error = faults.of(exception)
        self._abort(deadline_s)
        if error is not None:
            self._refuse_hopeless(error)
            self._group.refuse_metadata(error)
            self._outbox.drop()
            self._wait(PAUSE_S[2])
        if self._outbox.is_open:
            return True
        self._leave_to_newer()
        self._initialise()
        return False

    def _abort(self, deadline_s: float) -> None:
        """Abort the open transaction; if that fails or is too late, the next producer's initialisation does it.

        After the deadline the broker may abort by itself, and would answer us as if we were fenced.
        """
        if time.monotonic() >= deadline_s:
            self._outbox.drop()
            return
        producer, began_s = self._outbox.producer, time.monotonic()
        call = failpoints.around("abort", lambda: producer.abort_transaction(_CALL_S))
        error = faults.attempt(lambda: self._repeat(call, deadline_s))
        self._outbox.hear()
        if error:
            if not faults.is_nothing_to_abort(error):
                self._refuse_hopeless(error)
            self._health.report(f"can't abort a transaction: {faults.text(error)}", vague=faults.is_vague(error))
        if error or self._health.disturbed_at_s >= began_s:
            self._outbox.drop()

    def _initialise(self) -> None:
        """Take the transactional id over, aborting what is open; tries until it succeeds."""
        if not self._take_overs_left:
            raise PipelineError("the connection to the broker broke in a transaction")
        self._take_overs_left -= 1
        while error := faults.attempt(self._take_over):
            self._refuse_hopeless(error)
            self._health.report(f"can't begin transactions yet: {faults.text(error)}", vague=faults.is_vague(error))
            self._outbox.drop()
            self._wait(PAUSE_S[2])
            self._leave_to_newer()  # one may have come while the broker was away

    def _take_over(self) -> None:
        # Once closed, a successor may have taken the id over: taking it back would fence that one.
        self._wait(0)
        producer = self._outbox.producer
        self._repeat(failpoints.around("init", lambda: producer.init_transactions(_CALL_S)), float("inf"))

    def _refuse_hopeless(self, error: KafkaError) -> None:
        hopeless.refuse(error, self._group.group_id, self._transactional_id)

    def _wait(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise BrokerError("the connection was closed while the broker was still awaited")
        self._outbox.hear()  # what nobody hears, the library keeps
