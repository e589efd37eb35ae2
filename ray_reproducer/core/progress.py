"""How far the program is: one snapshot of counters, made by the machine and shown by whoever wants to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray_reproducer.core.intake import Delivery
from ray_reproducer.core.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Progress:
    """Counters of one run, all taken in the same moment.

    Attributes:
        messages_read: messages of the source topic delivered to this run.
        bytes_read: file content in those messages, in bytes.
        messages_processed: those of them whose file, or which themselves, have their outcome committed; repeats and
            messages left out do not count.
        bytes_processed: file content in those, in bytes.
        results: metadata records in committed transactions of this run.
        bytes_produced: length of the values of those records, in bytes.
        dead_letters: dead letters in committed transactions of this run.
        duplicates: chunks that repeated a file already done.
        filtered: messages left out because of ``filepath_regex``.
        offsets_lost: offsets of the source topic that were gone (retention, deleted records) before they were read.
        held: files that failed and are left for the next start (``failures=hold``).
        files_incomplete: files of which some chunks have not arrived, now.
        files_waiting: whole files that wait for a worker, now.
        files_in_flight: files that a worker has, now.
        outcomes_pending: outcomes that wait for their transaction, now.
        lag_messages: messages on the topic that were not read yet; None while unknown.
        dead_letters_by_reason: how many dead letters of each reason code.
        broker_trouble: what a client last said about the broker while it lasts; "" if all is well.
        drained: whether everything that was to be drained has its outcome committed.
    """

    messages_read: int = 0
    bytes_read: int = 0
    messages_processed: int = 0
    bytes_processed: int = 0
    results: int = 0
    bytes_produced: int = 0
    dead_letters: int = 0
    duplicates: int = 0
    filtered: int = 0
    offsets_lost: int = 0
    held: int = 0
    files_incomplete: int = 0
    files_waiting: int = 0
    files_in_flight: int = 0
    outcomes_pending: int = 0
    lag_messages: int | None = None
    dead_letters_by_reason: Mapping[str, int] = field(default_factory=dict)
    broker_trouble: str = ""
    drained: bool = False

    def after(self, earlier: Progress) -> Progress:
        """Return these counters with those of an earlier life of the same run added; what is *now* stays."""
        return replace(
            self,
            messages_read=earlier.messages_read + self.messages_read,
            bytes_read=earlier.bytes_read + self.bytes_read,
            messages_processed=earlier.messages_processed + self.messages_processed,
            bytes_processed=earlier.bytes_processed + self.bytes_processed,
            results=earlier.results + self.results,
            bytes_produced=earlier.bytes_produced + self.bytes_produced,
            dead_letters=earlier.dead_letters + self.dead_letters,
            duplicates=earlier.duplicates + self.duplicates,
            filtered=earlier.filtered + self.filtered,
            offsets_lost=earlier.offsets_lost + self.offsets_lost,
            dead_letters_by_reason=dict(Counter(earlier.dead_letters_by_reason) + Counter(self.dead_letters_by_reason)),
        )


@dataclass
class Counters:
    """What the machine counts in one life; the attributes are those of :class:`Progress`."""

    messages_read: int = 0
    bytes_read: int = 0
    messages_processed: int = 0
    bytes_processed: int = 0
    results: int = 0
    bytes_produced: int = 0
    dead_letters: int = 0
    duplicates: int = 0
    filtered: int = 0
    offsets_lost: int = 0
    held: int = 0
    dead_letters_by_reason: Counter[str] = field(default_factory=Counter)

    def delivered(self, delivery: Delivery) -> None:
        """Count what a consumer took."""
        self.messages_read += delivery.messages
        self.bytes_read += delivery.size_bytes
        self.filtered += delivery.filtered
        self.offsets_lost += sum(stop - start for _, start, stop in delivery.lost)

    def committed(self, outcome: Outcome) -> None:
        """Count an outcome in a committed transaction."""
        self.messages_processed += outcome.facts.n_messages - outcome.facts.n_missing
        self.bytes_processed += outcome.facts.size_bytes
        if outcome.kind == "result":
            self.results += 1
            self.bytes_produced += len(outcome.value)
        else:
            self.dead_letters += 1
            self.dead_letters_by_reason[outcome.reason] += 1

    def snapshot(self, **now: Any) -> Progress:
        """Return the counters together with what is so *now*: further attributes of :class:`Progress`."""
        counted = dict(vars(self), dead_letters_by_reason=dict(self.dead_letters_by_reason))
        return Progress(**counted, **now)
