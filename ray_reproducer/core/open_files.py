"""Which files are on their way: read in part or whole, without an outcome in a committed transaction yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

from ray_reproducer.core.assembly import Assembly, OpenVersion
from ray_reproducer.core.outcome import Facts, Outcome


class OpenFile(NamedTuple):
    """One file version on its way.

    Attributes:
        path: relative path of the file.
        n_chunks: in how many chunks it was cut.
        first_ms: Kafka timestamp of the oldest of those that have arrived, in milliseconds since the epoch; 0: unknown.
        newest_ms: Kafka timestamp of the newest of them; 0: unknown.
    """

    path: str
    n_chunks: int
    first_ms: int
    newest_ms: int


def open_files(assembly: Assembly, pending: Iterable[Outcome], limit: int) -> tuple[OpenFile, ...]:
    """List files on their way, those whose outcome waits for its transaction first, then in the order they came.

    Args:
        assembly: files of which chunks are held.
        pending: outcomes that are not committed.
        limit: the most files to list, so that a snapshot costs no more than that.
    """
    return tuple(islice(chain(_with_outcome(pending), _held(assembly)), limit))


def facts_of(held: OpenVersion, now_s: float) -> Facts:
    """Tell what is known of a file when its outcome is (now_s: seconds since the epoch)."""
    return Facts(
        n_messages=held.version.n_chunks,
        size_bytes=held.size_bytes,
        first_ms=held.oldest_ms,
        newest_ms=max(0, held.newest_ms),
        done_ms=int(now_s * 1000),
        n_missing=held.version.n_chunks - len(held.held),
    )


def _with_outcome(pending: Iterable[Outcome]) -> Iterator[OpenFile]:
    for outcome in pending:
        if outcome.path:
            facts = outcome.facts
            yield OpenFile(outcome.path, facts.n_messages, facts.first_ms, facts.newest_ms)


def _held(assembly: Assembly) -> Iterator[OpenFile]:
    for held in assembly:
        yield OpenFile(held.version.relative_path, held.version.n_chunks, held.oldest_ms, max(0, held.newest_ms))
