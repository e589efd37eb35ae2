"""The soak's table, on the screen and as plain text."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from soaking.tally import SoakTally


def show(console: Console, tally: SoakTally, described: dict[str, Any], seed: int, minutes: float) -> None:
    """Print what a soak has found.

    Args:
        console: where.
        tally: what was counted.
        described: the machine.
        seed: of the soak.
        minutes: how long it took.
    """
    _show_kinds(console, tally)
    _show_totals(console, tally, seed, minutes)
    for failure in tally.failures:
        console.print(f"[bold red]FAILURE[/] {failure}", markup=True, highlight=False)
    versions = ", ".join(f"{name} {version}" for name, version in described["packages"].items())
    console.print(
        f"{described['date']}, commit {described['git_commit'][:12]} ({described['git_changed_files']} files changed)\n"
        f"{described['cpu']}, {described['cores']} cores, {described['memory_gb']} GB; {described['system']}; "
        f"Kafka {described['kafka']}; Python {described['python']}, {versions}, librdkafka {described['librdkafka']}",
        highlight=False,
        markup=False,
    )


def _show_kinds(console: Console, tally: SoakTally) -> None:
    table = Table(title="faults", title_justify="left")
    table.add_column("fault")
    for heading in ("times", "program started again", "median recovery", "slowest recovery", "not well"):
        table.add_column(heading, justify="right")
    for name, kind in sorted(tally.kinds.items()):
        if kind.times:
            row = (str(kind.times), str(kind.starts), f"{kind.median_s:.1f} s", f"{kind.slowest_s:.1f} s")
            table.add_row(name, *row, str(kind.failures))
    console.print(table)


def _show_totals(console: Console, tally: SoakTally, seed: int, minutes: float) -> None:
    totals = tally.totals
    slowest_s, slowest = tally.slowest
    table = Table(title="altogether", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "seed": seed,
        "minutes": f"{minutes:.1f}",
        "faults": tally.faults,
        "starts of the program": tally.starts,
        "files and messages that are no chunks": totals["files"],
        "results": totals["results"],
        "dead letters planned / seen": f"{totals['letters_planned']} / {totals['letters']}",
        "lost": totals["losses"],
        "there twice": totals["duplicates"],
        "there twice where that may be (at_least_once)": tally.repeats_allowed,
        "wrong or unplanned": totals["wrong"],
        "positions that went back or ahead of what was done": totals["steps_back"],
        "ends of the program that nothing explains": tally.unexpected_ends,
        "not recovered without a new start": tally.stuck,
        "looks at the committed positions": tally.looks,
        "times that all topics were read again": tally.whole_checks,
        "slowest recovery": f"{slowest_s:.1f} s ({slowest})",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)
