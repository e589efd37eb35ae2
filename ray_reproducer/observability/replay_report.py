"""What a replay says: what it is going to do, what it did, and the table of dead letters.

Rules:

1. Files that can't be replayed are named one by one, with the offsets that are in the way.
2. Texts come from topics, where anybody may write: what could steer a terminal is shown as an escape, and long texts
   are cut where they are only looked at.
3. On a terminal a list is a table that fits it; elsewhere it has one line for each row, and columns stay in line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ray_reproducer.core.dead_letter import DeadLetter
from ray_reproducer.core.outcome import cut
from ray_reproducer.core.progress import Progress
from ray_reproducer.core.replay_plan import FailedFile, ReplayPlan
from ray_reproducer.observability.quantities import count, data_size, duration
from ray_reproducer.observability.summary import meaning

MAX_NAMED: Final = 200
"""How many files are named before only their number is said: what a log file should have to carry."""
MAX_LISTED: Final = 1_000
"""How many files a list has: what a person, or a pager, can still go through."""
PLAIN_WIDTH: Final = 200
"""Columns of a list where there is no terminal."""
_MAX_RANGES: Final = 3
_CUT: Final = {"path": 60, "error": 100}


def plan_lines(plan: ReplayPlan, extractor: str, source_topic: str) -> Iterator[str]:
    """Say what a replay is going to do.

    Args:
        plan: what.
        extractor: name of the extractor.
        source_topic: where the chunks are.
    """
    line = f"{extractor}: {count(len(plan.files), 'file')} to replay, "
    line += f"{count(plan.messages, 'message')} of {source_topic} to read"
    if plan.refusals:
        reasons = Counter(refusal.why for refusal in plan.refusals)
        why = ", ".join(f"{number:,}: {reason}" for reason, number in reasons.most_common())
        line += f"; {count(len(plan.refusals), 'file')} can't be replayed ({why})"
    yield printable(f"{line}.")
    for refusal in plan.refusals[:MAX_NAMED]:
        detail = f": {refusal.detail}" if refusal.detail else ""
        yield printable(f"  can't replay {refusal.file.newest.name}: {refusal.why}{detail}")
    if len(plan.refusals) > MAX_NAMED:
        yield f"  ... and {len(plan.refusals) - MAX_NAMED:,} more"
    for topic, number in plan.elsewhere.items():
        yield printable(f"  {count(number, 'file')} of another topic left out: topics.source={topic} replays them.")


def nothing_lines(
    live: Sequence[FailedFile], others: Mapping[str, int], dead_letters_topic: str, extractor: str
) -> Iterator[str]:
    """Say why there is nothing to replay.

    Args:
        live: all failed files.
        others: other extractors than the one that is meant, with how many of them each has.
        dead_letters_topic: where the letters are.
        extractor: the extractor that is meant; "" for any.
    """
    if not live:
        yield f"No live dead letters on {dead_letters_topic}."
        return
    yield f"None of the {count(len(live), 'failed file')} on {dead_letters_topic} is meant."
    reasons = Counter(file.newest.reason for file in live if extractor in ("", file.newest.extractor))
    if reasons:
        found = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
        yield printable(f"  There are: {found}. --list shows them.")
    for name, number in others.items():
        yield printable(f"  {count(number, 'file')} failed in another extractor: replay.extractor={name}")


def summary_lines(
    progress: Progress,
    seconds: float,
    plan: ReplayPlan,
    left: Sequence[FailedFile],
    *,
    names: Mapping[str, str],
    stopped: bool,
) -> Iterator[str]:
    """Say what a replay did.

    Args:
        progress: the last counters.
        seconds: how long it took.
        plan: what was to be done.
        left: files that were to be run and have no new outcome.
        names: ``extractor``, ``results`` and ``dead_letters``: what to call things.
        stopped: whether a person or a signal ended it.
    """
    yield (
        f"{names['extractor']}: replay {'stopped' if stopped else 'done'} after {duration(seconds)}. "
        f"{count(progress.results, 'result')} on {names['results']}, "
        f"{count(progress.dead_letters, 'file')} failed again; "
        f"{count(progress.messages_read, 'message')} read ({data_size(progress.bytes_read)})."
    )
    for reason, number in sorted(progress.dead_letters_by_reason.items(), key=lambda item: (-item[1], item[0])):
        said = meaning(reason)
        yield f"    {number:>7,}  {reason}: {said}" if said else f"    {number:>7,}  {reason}"
    if plan.refusals:
        yield f"  {count(len(plan.refusals), 'file')} can't be replayed: said above, one by one."
    if left:
        why = "not done yet" if stopped else "not whole on the source topic"
        yield f"  {count(len(left), 'file')} {why}; the dead letters stay on {names['dead_letters']}:"
        yield from (printable(f"    {file.newest.name}") for file in left[:MAX_NAMED])
        if len(left) > MAX_NAMED:
            yield f"    ... and {len(left) - MAX_NAMED:,} more"
    if progress.broker_trouble:
        yield f"  The broker was in trouble at the end: {progress.broker_trouble}. Start again when it answers."


def print_reasons(console: Console, files: Sequence[FailedFile]) -> None:
    """Print a table with one line for each reason: how many files, the newest, and an example."""
    by_reason: dict[str, list[FailedFile]] = {}
    for file in files:
        by_reason.setdefault(file.newest.reason, []).append(file)
    table = _table(console)
    table.add_column("reason", no_wrap=True)
    table.add_column("files", justify="right", no_wrap=True)
    table.add_column("newest (UTC)", no_wrap=True)
    table.add_column("example", ratio=2, overflow="fold" if console.is_terminal else "ellipsis")
    table.add_column("error", ratio=3, overflow="fold" if console.is_terminal else "ellipsis")
    for reason, of_reason in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        newest = of_reason[-1].newest
        table.add_row(
            _cell(reason),
            f"{len(of_reason):,}",
            _time(newest),
            _cell(newest.name, _CUT["path"]),
            _cell(newest.error, _CUT["error"]),
        )
    _print(console, table)


def print_files(console: Console, files: Sequence[FailedFile]) -> None:
    """Print the failed files, grouped by reason, the most frequent one first."""
    numbers = Counter(file.newest.reason for file in files)
    shown = sorted(files, key=lambda file: (-numbers[file.newest.reason], file.newest.reason))[:MAX_LISTED]
    extractors = {file.newest.extractor for file in files}
    table = _table(console)
    table.add_column("reason", no_wrap=True)
    table.add_column("file", ratio=3, overflow="fold" if console.is_terminal else "ellipsis")
    table.add_column("failed (UTC)", no_wrap=True)
    table.add_column("runs", justify="right", no_wrap=True)
    if len(extractors) > 1:
        table.add_column("extractor", no_wrap=True)
    table.add_column("offsets", ratio=2, overflow="fold" if console.is_terminal else "ellipsis")
    table.add_column("error", ratio=4, overflow="fold" if console.is_terminal else "ellipsis")
    before = ""
    for file in shown:
        newest = file.newest
        # A terminal's reader sees the groups better so; a program wants each line to be complete.
        repeated = console.is_terminal and newest.reason == before
        before = newest.reason
        cells: list[Text | str] = [
            _cell("" if repeated else newest.reason),
            _cell(newest.name, _CUT["path"]),
            _time(newest),
            f"{newest.attempts:,}",
            *([_cell(newest.extractor)] if len(extractors) > 1 else []),
            _cell(offsets(newest)),
            _cell(newest.error, _CUT["error"]),
        ]
        table.add_row(*cells)
    _print(console, table)
    if len(files) > MAX_LISTED:
        console.print(Text(f"... and {len(files) - MAX_LISTED:,} more: narrow it down with replay.path and the like"))


def offsets(letter: DeadLetter) -> str:
    """Write where a letter's chunks are: ``raw [0] 3-5, [1] 7``."""
    ranges = [
        f"[{partition}] {first}" if first == last else f"[{partition}] {first}-{last}"
        for partition, first, last in letter.ranges[:_MAX_RANGES]
    ]
    more = f" and {len(letter.ranges) - _MAX_RANGES:,} more" if len(letter.ranges) > _MAX_RANGES else ""
    return f"{letter.topic} {', '.join(ranges)}{more}"


def printable(text: str) -> str:
    """Replace what a terminal would obey instead of showing it."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def write_lines(lines: Iterable[str], console: Console) -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _cell(text: str, limit_chars: int = 40) -> Text:
    return Text(printable(cut(" ".join(text.split()), limit_chars)))


def _time(letter: DeadLetter) -> str:
    return letter.time.strftime("%Y-%m-%d %H:%M:%S")


def _table(console: Console) -> Table:
    if console.is_terminal:
        return Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))


def _print(console: Console, table: Table) -> None:
    console.print(table, width=None if console.is_terminal else PLAIN_WIDTH, crop=False)
