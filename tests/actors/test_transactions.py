"""Which records a transaction has, and what is made of a refusal."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from ray_reproducer.actors import transactions
from ray_reproducer.actors.transactions import Clears, RecordHeaders, TransactionThread
from ray_reproducer.core import result_header
from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.errors import BrokerError, RecordTooLargeError
from ray_reproducer.core.events import Commit, Event, TransactionAborted, TransactionCommitted
from ray_reproducer.core.ledger import PartitionCommit
from ray_reproducer.core.live_letters import Place
from ray_reproducer.core.outcome import Facts, Outcome, result
from ray_reproducer.kafka import finished_lately
from ray_reproducer.kafka.delivery import CommittedOffset, Record

ANSWER_S = 20.0
A, B, C = (bytes([number]) * 12 for number in range(3))
RESULT = Outcome("a", "result", "key a", b"{}")
LETTER = Outcome("b", "dead_letter", "key b", b"why", "timeout", "slow")
FRESH = Outcome("c", "dead_letter", "key c", b"new", "timeout", "slow")
TAG = bytes(8)


class FakeDelivery:
    """Takes what is delivered, or refuses one record."""

    def __init__(self, refused: int | None = None) -> None:
        self.refused = refused
        self.delivered: list[tuple[list[Record], dict[int, CommittedOffset]]] = []
        self.looked = threading.Event()

    def start(self) -> dict[int, CommittedOffset]:
        return {}

    def deliver(self, records: Sequence[Record], offsets: Mapping[int, CommittedOffset]) -> bool:
        if self.refused is not None:
            raise RecordTooLargeError("too large", index=self.refused)
        self.delivered.append((list(records), dict(offsets)))
        return True

    def confirm(self) -> None:
        pass

    def confirm_after_trouble(self) -> None:
        self.looked.set()

    def close(self) -> None:
        pass


def carried_out(
    delivery: FakeDelivery, clears: Clears | None = None, outcomes: tuple[Outcome, ...] = (RESULT, LETTER, FRESH)
) -> Event | Exception:
    """How a transaction with up to three outcomes ended."""
    reports: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
    thread = TransactionThread(delivery, "results", "letters", RecordHeaders(TAG), reports.put, clears)
    thread.start()
    thread.submit(Commit((A, B, C)[: len(outcomes)], outcomes, {0: PartitionCommit(7, "text")}))
    report = reports.get(timeout=ANSWER_S)
    thread.close()
    return report


def test_while_there_is_nothing_to_commit_it_is_looked_whether_the_last_transaction_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transactions, "IDLE_LOOK_S", 0.01)
    delivery = FakeDelivery()
    thread = TransactionThread(delivery, "results", "letters", RecordHeaders(TAG), lambda _: None)
    thread.start()
    assert delivery.looked.wait(ANSWER_S)
    thread.close()


def test_each_outcome_is_a_record_of_its_topic() -> None:
    delivery = FakeDelivery()
    assert carried_out(delivery) == TransactionCommitted()
    ((records, offsets),) = delivery.delivered
    assert records == [
        Record("results", "key a", b"{}"),
        Record("letters", "key b", b"why"),
        Record("letters", "key c", b"new"),
    ]
    assert offsets == {0: CommittedOffset(7, "text")}


def test_a_replayed_result_brings_tombstones_and_a_replayed_failure_takes_the_place_of_its_letter() -> None:
    delivery = FakeDelivery()
    clears = {
        A: {"key a": [Place(0, 4)], "raw_0_9": [Place(1, 5), Place(1, 6)]},
        B: {"key b": [Place(0, 8)], "raw_0_10": [Place(2, 1)]},
    }
    assert carried_out(delivery, clears) == TransactionCommitted()
    ((records, _),) = delivery.delivered
    assert records == [
        Record("results", "key a", b"{}"),
        Record("letters", "key b", b"why", (("clears", b"0:8"),)),
        Record("letters", "key c", b"new"),
        Record("letters", "key a", None, (("clears", b"0:4"),)),
        Record("letters", "raw_0_9", None, (("clears", b"1:5,1:6"),)),
        Record("letters", "raw_0_10", None, (("clears", b"2:1"),)),
    ]


def test_a_replayed_file_stays_in_the_registries_of_the_group_that_it_failed_in() -> None:
    versions = [FileVersion("", name, "", bytes(64), 1) for name in ("mended", "fails again", "in no registry")]
    mended, fails, without = versions
    facts = Facts(n_messages=3, done_ms=7)
    outcomes = (
        result(mended, b"{}", facts),
        replace(FRESH, path=fails.relative_path, version=fails, facts=facts),
        result(without, b"{}", facts),
    )
    headers = RecordHeaders(TAG, groups={mended.id: "ours", fails.id: "theirs"})
    clears = {version.id: {"another key": [Place(0, 4)]} for version in versions}
    delivery = FakeDelivery()
    reports: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
    thread = TransactionThread(delivery, "results", "letters", headers, reports.put, clears)
    thread.start()
    thread.submit(Commit(tuple(version.id for version in versions), outcomes, {}))
    assert reports.get(timeout=ANSWER_S) == TransactionCommitted()
    thread.close()
    ((records, _),) = delivery.delivered
    said = [result_header.group_of(dict(record.headers).get(result_header.HEADER)) for record in records]
    assert said == ["ours", "theirs", "", "ours", "", ""]
    by_tombstone = result_header.decode("k", dict(records[3].headers)[result_header.HEADER], "ours")
    assert by_tombstone == replace(outcomes[0], key="k", value=b"", version=None)


@pytest.mark.parametrize(("refused", "said"), [(1, "refuses a dead letter of 3 bytes"), (3, "refuses a tombstone")])
def test_what_can_not_be_made_smaller_ends_the_run(refused: int, said: str) -> None:
    report = carried_out(FakeDelivery(refused), {A: {"key a": [Place(0, 4)]}})
    assert isinstance(report, BrokerError)
    assert said in str(report)


def test_an_outcome_that_is_too_large_is_named() -> None:
    assert carried_out(FakeDelivery(refused=0)) == TransactionAborted(too_large=0)


VERSION = FileVersion("", "a", "", bytes(64), 1)
OTHER = bytes([7]) * 8


@pytest.mark.parametrize(("owners", "tag"), [({}, TAG), ({VERSION.id: OTHER}, OTHER), ({A: OTHER}, TAG)])
@pytest.mark.parametrize("final", [True, False])
def test_a_record_says_which_file_of_whose_is_finished_or_may_be_sent_again(
    owners: dict[bytes, bytes], tag: bytes, final: bool
) -> None:
    outcome = replace(LETTER, version=VERSION, final=final)
    ((name, said),) = RecordHeaders(TAG, owners=owners).of(outcome)
    assert name == finished_lately.HEADER
    assert said == tag + VERSION.id + (b"" if final else b"\0")
    assert finished_lately.tag_of(said) == tag
    assert finished_lately.may_come_again(said) is not final


def test_a_record_of_a_message_that_is_no_chunk_says_nothing_of_a_file() -> None:
    assert RecordHeaders(TAG, "group", {VERSION.id: OTHER}).of(replace(LETTER, path="")) == ()


def test_where_registries_are_on_a_record_tells_its_file_too() -> None:
    outcome = replace(RESULT, version=VERSION)
    assert RecordHeaders(TAG, "group").of(outcome) == (
        *RecordHeaders(TAG).of(outcome),
        *result_header.encode(outcome, "group"),
    )


def test_the_headers_go_with_the_records() -> None:
    delivery = FakeDelivery()
    carried_out(delivery, outcomes=(replace(RESULT, version=VERSION), replace(LETTER, version=VERSION, final=False)))
    ((records, _),) = delivery.delivered
    assert [record.headers for record in records] == [
        ((finished_lately.HEADER, TAG + VERSION.id),),
        ((finished_lately.HEADER, TAG + VERSION.id + b"\0"),),
    ]
