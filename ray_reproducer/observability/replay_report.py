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
from ray_reproducer.observability.terminal_text import printable

MAX_NAMED: Final = 200
"""How many files are named before only their number is said: what a log file should have to carry."""
MAX_LISTED: Final = 1_000
"""How many files a list has: what a person, or a pager, can still go through."""
PLAIN_WIDTH: Final = 200
"""Columns of a list where there is no terminal."""
MAX_NAME_CHARS: Final = 100
"""Longest path that is shown in a list."""
MAX_ERROR_CHARS: Final = 150
"""Longest error that is shown in a list; the whole one is in the dead letter."""
_MAX_RANGES: Final = 3


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
        why = ", ".join(f"{number:,}: {why}" for why, number in _frequent(refusal.why for refusal in plan.refusals))
        line += f"; {count(len(plan.refusals), 'file')} can't be replayed ({why})"
    yield printable(f"{line}.")
    for refusal in plan.refusals[:MAX_NAMED]:
        detail = f": {refusal.detail}" if refusal.detail else ""
        yield printable(f"  can't replay {refusal.file.newest.name}: {refusal.why}{detail}")
    if len(plan.refusals) > MAX_NAMED:
        yield f"  ... and {len(plan.refusals) - MAX_NAMED:,} more"
    for topic, number in plan.elsewhere.items():
        yield printable(f"  {count(number, 'file')} of another topic left out: topics.source={topic} replays them.")


def cleared_lines(cleared: Sequence[FailedFile], results_topic: str) -> Iterator[str]:
    """Say which files have their result already.

    Args:
        cleared: those whose dead letters were cleared.
        results_topic: where the results are.
    """
    if cleared:
        yield f"{count(len(cleared), 'file')} sent again since, with a result on {results_topic}: dead letters cleared."
    yield from (printable(f"  {file.newest.name}") for file in cleared[:MAX_NAMED])
    if len(cleared) > MAX_NAMED:
        yield f"  ... and {len(cleared) - MAX_NAMED:,} more"


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
    yield f"None of the {count(len(live), 'failed file')} on {dead_letters_topic} matches."
    reasons = _frequent(file.newest.reason for file in live if extractor in ("", file.newest.extractor))
    if reasons:
        found = ", ".join(f"{number:,} {reason}" for reason, number in reasons)
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


def list_console() -> Console:
    """Make a console for a list on stdout: as wide as the terminal, or wide enough for lines where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def print_reasons(console: Console, files: Sequence[FailedFile]) -> None:
    """Print a table with one line for each reason: how many files, the newest, and an example."""
    table = _table(console)
    table.add_column("reason", no_wrap=True)
    table.add_column("files", justify="right", no_wrap=True)
    table.add_column("newest (UTC)", no_wrap=True)
    _add_text_columns(table, "example", "error", cut_to_fit=not console.is_terminal)
    for reason, of_reason in _by_reason(files):
        newest = of_reason[-1].newest
        row = (_cell(newest.name, MAX_NAME_CHARS), _cell(newest.error, MAX_ERROR_CHARS))
        table.add_row(_cell(reason), f"{len(of_reason):,}", _time(newest), *row)
    console.print(table)


def print_files(console: Console, files: Sequence[FailedFile]) -> None:
    """Print the failed files, grouped by reason, the most frequent one first, each with where its chunks are."""
    shown = files[-MAX_LISTED:]
    if console.is_terminal:
        for number, (reason, of_reason) in enumerate(_by_reason(shown)):
            if number:
                console.print()
            said = meaning(reason)
            title = Text(f"{printable(reason)}: {said}" if said else printable(reason), style="bold")
            console.print(Text.assemble(title, f" ({count(len(of_reason), 'file')})"))
            _print_group(console, of_reason)
    else:
        _print_rows(console, [file for _, of_reason in _by_reason(shown) for file in of_reason])
    if len(files) > len(shown):
        text = f"... and {len(files) - len(shown):,} older ones: narrow it down with replay.until and the like"
        console.print(Text(text), soft_wrap=True)


def _frequent(words: Iterable[str]) -> list[tuple[str, int]]:
    """Count words: the most frequent one first, those that are equally frequent by name."""
    return sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))


def _print_group(console: Console, files: Sequence[FailedFile]) -> None:
    """For a person: where the chunks are stands below the path, so that the table is not wide."""
    table = _table(console)
    table.add_column("failed (UTC)", no_wrap=True)
    table.add_column("runs", justify="right", no_wrap=True)
    _add_text_columns(table, "file", "error", cut_to_fit=False)
    for file in files:
        newest = file.newest
        where = Text(f"\n{printable(offsets(newest))} · {printable(newest.extractor)}", style="dim")
        name = _cell(newest.name, MAX_NAME_CHARS).append_text(where)
        table.add_row(_time(newest), f"{newest.attempts:,}", name, _cell(newest.error, MAX_ERROR_CHARS))
    console.print(table)


def _print_rows(console: Console, files: Sequence[FailedFile]) -> None:
    """For a file or a pipe: each line says everything."""
    table = _table(console)
    for name in ("reason", "failed (UTC)", "runs", "extractor", "offsets"):
        table.add_column(name, no_wrap=True)
    _add_text_columns(table, "file", "error", cut_to_fit=True)
    for file in files:
        newest = file.newest
        table.add_row(
            _cell(newest.reason),
            _time(newest),
            f"{newest.attempts:,}",
            _cell(newest.extractor),
            _cell(offsets(newest), MAX_NAME_CHARS),
            _cell(newest.name, MAX_NAME_CHARS),
            _cell(newest.error, MAX_ERROR_CHARS),
        )
    console.print(table)


def _by_reason(files: Sequence[FailedFile]) -> list[tuple[str, list[FailedFile]]]:
    by_reason: dict[str, list[FailedFile]] = {}
    for file in files:
        by_reason.setdefault(file.newest.reason, []).append(file)
    return sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))


def _add_text_columns(table: Table, first: str, second: str, *, cut_to_fit: bool) -> None:
    for name, ratio in ((first, 2), (second, 3)):
        table.add_column(name, ratio=ratio, no_wrap=cut_to_fit, overflow="ellipsis" if cut_to_fit else "fold")


def offsets(letter: DeadLetter) -> str:
    """Write where a letter's chunks are: ``raw [0] 3-5, [1] 7``."""
    ranges = [
        f"[{partition}] {first}" if first == last else f"[{partition}] {first}-{last}"
        for partition, first, last in letter.ranges[:_MAX_RANGES]
    ]
    more = f" and {len(letter.ranges) - _MAX_RANGES:,} more" if len(letter.ranges) > _MAX_RANGES else ""
    return f"{letter.topic} {', '.join(ranges)}{more}"


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
