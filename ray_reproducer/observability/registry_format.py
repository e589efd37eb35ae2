"""The registries' format: CSV files that OpenMSIStream writes and that other programs parse.

Rules:

1. UTF-8, one row a line, ``;`` between fields, quoted as ``csv`` does where need be. Each field is the ``repr`` of a
   Python value, so that no name, whatever is in it, breaks a row: ``csv`` and ``ast.literal_eval`` read it back.
2. Times are local, to the second, in English whatever the locale: ``'Mon Nov 23, 2026 at 16:48:12'``.
3. A time that is unknown or that no clock shows is that of the moment in which the row is made: readers need one.
"""

from __future__ import annotations

import ast
import csv
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from ray_reproducer.core.outcome import Outcome

IN_PROGRESS_COLUMNS: Final = (
    "filename",
    "rel_filepath",
    "status",
    "n_chunks",
    "first_message",
    "most_recent_message",
)
RESULTS_COLUMNS: Final = ("filename", "rel_filepath", "n_chunks", "first_message", "processed_at")
Status: TypeAlias = Literal[
    "in_progress", "mismatched_hash", "computing_result_message_failed", "producing_message_failed"
]
"""What a row of the registry of files in progress can say."""

_STATUS_OF_REASON: Final[dict[str, Status]] = {
    "hash_mismatch": "mismatched_hash",
    "result_too_large": "producing_message_failed",
}
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_END_OF_CLOCKS_MS: Final = 253_402_214_400_000
"""The last day of the year 9999: four digits are what readers expect."""
_NOT_IN_A_NAME: Final = re.compile(r"[/\0]")


def in_progress_name(source_topic: str, group_id: str) -> str:
    """Name the registry of files in progress."""
    return _NOT_IN_A_NAME.sub("_", f"consuming_from_{source_topic}_in_progress_by_{group_id}.csv")


def results_name(results_topic: str) -> str:
    """Name the registry of files that have a result."""
    return _NOT_IN_A_NAME.sub("_", f"results_produced_to_{results_topic}.csv")


def header(columns: Sequence[str]) -> str:
    """Return a registry's first line, with its newline."""
    return f"{';'.join(columns)}\n"


def row(values: Sequence[str | int]) -> str:
    """Return a row for some values, with its newline."""
    return f"{';'.join([_field(value) for value in values])}\n"


def values(line: str) -> list[str | int]:
    """Read a row back.

    Raises:
        ValueError: it is none.
    """
    try:
        fields = next(csv.reader([line], delimiter=";", strict=True))
        read = [ast.literal_eval(field) for field in fields]
    except (StopIteration, SyntaxError, ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"no row of a registry: {line[:200]!r}") from error
    if not read or not all(isinstance(value, (str, int)) for value in read):
        raise ValueError(f"no row of a registry: {line[:200]!r}")
    return read


def time_text(epoch_ms: int, otherwise_ms: int) -> str:
    """Write a time, to the second.

    Args:
        epoch_ms: milliseconds since the epoch.
        otherwise_ms: what to write if that is no time (rule 3).
    """
    return _second_text((epoch_ms if 0 < epoch_ms < _END_OF_CLOCKS_MS else otherwise_ms) // 1000)


def _field(value: str | int) -> str:
    # What csv.writer does, in a third of its time: the repr of a value has no line breaks.
    field = repr(value)
    if '"' in field or ";" in field:
        return '"' + field.replace('"', '""') + '"'
    return field


@lru_cache(maxsize=256)  # files that come together have the same times
def _second_text(epoch_s: int) -> str:
    t = time.localtime(epoch_s)
    day, month = _DAYS[t.tm_wday], _MONTHS[t.tm_mon - 1]
    return f"{day} {month} {t.tm_mday:02}, {t.tm_year} at {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"


def name_of(path: str) -> str:
    """Return a path's last part."""
    return path.rpartition("/")[2]


def status_of(outcome: Outcome) -> Status:
    """Say in OpenMSIStream's words why a file has no result."""
    return _STATUS_OF_REASON.get(outcome.reason, "computing_result_message_failed")


def result_row(outcome: Outcome) -> str:
    """Return the row of a file that has a result."""
    facts = outcome.facts
    done = time_text(facts.done_ms, facts.done_ms)
    first = time_text(facts.first_ms, facts.done_ms)
    return row([name_of(outcome.path), outcome.path, facts.n_messages, first, done])


def in_progress_row(path: str, status: Status, n_chunks: int, first_ms: int, newest_ms: int, now_ms: int) -> str:
    """Return the row of a file that has no result.

    Args:
        path: relative path.
        status: how it is.
        n_chunks: of the whole file.
        first_ms: time of its oldest message, in milliseconds since the epoch.
        newest_ms: time of its newest message.
        now_ms: stands for a time that is unknown.
    """
    first, newest = time_text(first_ms, now_ms), time_text(newest_ms, now_ms)
    return row([name_of(path), path, status, n_chunks, first, newest])
