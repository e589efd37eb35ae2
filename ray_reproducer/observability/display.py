"""What a run looks like while it runs, on stderr.

Rules:

1. On a terminal: a panel that keeps its layout, whatever the numbers are and however narrow the window is.
   Elsewhere: one line every few seconds.
2. Messages stand above the panel. A flood of one level is cut, and how many were left out is said.
3. Trouble with the broker is said when it begins and when it ends; and once of each kind in between: a connection that
   was lost may come back to a broker that does not let us in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ray_reproducer.core.progress import Progress
from ray_reproducer.observability.quantities import RateMeter, Rates, data_size, done, duration, rate
from ray_reproducer.observability.terminal_text import printable, printable_lines

REFRESH_PER_S: Final = 4
"""How often the panel is drawn: quick enough to look alive, too slow to cost anything."""
LINE_INTERVAL_S: Final = 5.0
"""Seconds between two lines where there is no terminal."""
MESSAGE_BURST: Final = 20
"""Messages that may come at once before they are cut: a screen of them."""
MESSAGES_PER_S: Final = 1.0
"""Messages a second that may come for ever."""
_LABEL_WIDTH: Final = 12
_VALUE_WIDTH: Final = 12
_PAIR_WIDTH: Final = _LABEL_WIDTH + _VALUE_WIDTH + 4
_STYLES: Final = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}

Clock = Callable[[], float]
"""Seconds, never going back."""


class Display:
    """Shows the progress of a run, and messages; a context manager, because a panel must be taken away again.

    Args:
        title: what runs, and between which topics.
        console: where to show it; normally made of stderr.
        live: a panel instead of lines; None: if the console is a terminal.
        line_interval_s: seconds between two lines, for the display without a panel.
        clock: the time; for tests.
    """

    def __init__(
        self,
        title: str,
        console: Console,
        *,
        live: bool | None = None,
        line_interval_s: float = LINE_INTERVAL_S,
        clock: Clock = time.monotonic,
    ) -> None:
        self._title = title
        self._console = console
        self._is_live = console.is_terminal if live is None else live
        self._line_interval_s = line_interval_s
        self._clock = clock
        self._started_s = clock()
        self._last_line_s = clock()
        self._meter = RateMeter()
        self._troubles_said: set[str] = set()
        self._latest: tuple[Progress, Rates] | None = None
        self._gates: dict[int, MessageGate] = {}
        self._live: Live | None = None

    def __enter__(self) -> Display:
        """Put the panel up; without a terminal, say what begins."""
        if self._is_live:
            self._live = Live(
                get_renderable=self._panel,  # drawn anew each time: the clock goes on while nothing else happens
                console=self._console,
                refresh_per_second=REFRESH_PER_S,
                transient=True,  # the summary takes its place
                redirect_stdout=False,  # stdout has the results, or belongs to somebody else
            )
            self._live.start()
        else:
            self._print(self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the panel away."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        left_out = sum(gate.take_left_out() for gate in list(self._gates.values()))
        if left_out:
            self._print(_left_out(left_out))

    def progress(self, progress: Progress) -> None:
        """Show where the run is."""
        now_s = self._clock()
        rates = self._meter.add(progress, now_s)
        self._latest = (progress, rates)
        self._say_trouble(progress.broker_trouble)
        if self._live is None and now_s - self._last_line_s >= self._line_interval_s:
            self._last_line_s = now_s
            self._print(line(progress, rates, now_s - self._started_s))

    def say_counts(self) -> None:
        """Say where the run is, now."""
        progress, rates = self._latest or (Progress(), Rates())
        self._print(line(progress, rates, self._clock() - self._started_s))

    def message(self, level: int, text: str) -> None:
        """Show a message; a flood of them is cut.

        Args:
            level: one of ``logging``'s levels.
            text: the message; it may have several lines.
        """
        # A gate for each level: files that fail by the thousand don't hide what the program says of itself.
        admitted, left_out = self._gates.setdefault(level, MessageGate(self._clock)).admit()
        if not admitted:
            return
        if left_out:
            self._print(_left_out(left_out))
        self._print(text, _STYLES.get(level, ""))

    def _say_trouble(self, trouble: str) -> None:
        # The client library's name of the error is in brackets at the end.
        kind = trouble.rpartition("[")[2]
        if trouble and kind not in self._troubles_said:
            self._troubles_said.add(kind)
            self._print(f"broker: {trouble} (trying again until it answers)", _STYLES[logging.WARNING])
        elif self._troubles_said and not trouble:
            self._troubles_said.clear()
            self._print("broker: answers again")

    def _print(self, text: str, style: str = "") -> None:
        # As it is: a path like [red].csv is no markup, and a log file has no width to wrap at.
        plain = printable_lines(text)
        self._console.print(plain, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _panel(self) -> Group:
        progress, rates = self._latest or (Progress(), Rates())
        elapsed = duration(self._clock() - self._started_s)
        width = self._console.width
        pairs = max(1, min(3, width // _PAIR_WIDTH))
        table = Table.grid(padding=(0, 1))
        for pair in range(pairs):
            if pair:
                table.add_column(width=1)
            table.add_column(width=min(_LABEL_WIDTH, width - 4), no_wrap=True, style="dim")
            table.add_column(width=_VALUE_WIDTH, no_wrap=True, justify="right")
        fields = _fields(progress, rates)
        for start in range(0, len(fields), pairs):
            row = fields[start : start + pairs]
            cells = [cell for label, value in row for cell in (Text(""), Text(label), value)]
            table.add_row(*cells[1:])
        title = Text(printable(f"{self._title} · {elapsed}"), style="bold", no_wrap=True, overflow="ellipsis")
        state = f"broker: {progress.broker_trouble or 'ok'}" if self._latest else "starting..."
        broker = Text(printable(state), no_wrap=True, overflow="ellipsis")
        broker.stylize("yellow" if progress.broker_trouble else "dim")
        return Group(title, table, broker)


class MessageGate:
    """Lets a burst of messages through, then a few a second; counts the others."""

    def __init__(self, clock: Clock, burst: int = MESSAGE_BURST, per_s: float = MESSAGES_PER_S) -> None:
        self._clock = clock
        self._burst = burst
        self._per_s = per_s
        self._allowed = float(burst)
        self._last_s = clock()
        self._left_out = 0

    def admit(self) -> tuple[bool, int]:
        """Say whether one more message is let through, and how many were left out before it."""
        now_s = self._clock()
        self._allowed = min(self._burst, self._allowed + (now_s - self._last_s) * self._per_s)
        self._last_s = now_s
        if self._allowed < 1:
            self._left_out += 1
            return False, 0
        self._allowed -= 1
        return True, self.take_left_out()

    def take_left_out(self) -> int:
        """Return how many messages were left out since this was last asked."""
        left_out, self._left_out = self._left_out, 0
        return left_out


def _left_out(number: int) -> str:
    return f"({number:,} more messages like these were left out)"


def _fields(progress: Progress, rates: Rates) -> list[tuple[str, Text]]:
    failed = Text(f"{progress.dead_letters:,}", style="red" if progress.dead_letters else "")
    return [
        ("files done", Text(f"{done(progress):,}", style="bold")),
        ("files/s", Text(rate(rates.files_per_s))),
        ("failed", failed),
        ("read", Text(data_size(progress.bytes_read))),
        ("per second", Text(data_size(rates.bytes_per_s))),
        ("lag", Text(_lag(progress))),
        ("in flight", Text(f"{progress.files_in_flight:,}")),
        ("waiting", Text(f"{progress.files_waiting:,}")),
        ("incomplete", Text(f"{progress.files_incomplete:,}")),
    ]


def _lag(progress: Progress) -> str:
    return "?" if progress.lag_messages is None else f"{progress.lag_messages:,}"


def line(progress: Progress, rates: Rates, elapsed_s: float) -> str:
    """Say in one line where a run is, ``elapsed_s`` seconds after its start."""
    return (
        f"{duration(elapsed_s)}: {done(progress):,} files done ({rate(rates.files_per_s)}/s), "
        f"{progress.dead_letters:,} failed, {data_size(progress.bytes_read)} read ({data_size(rates.bytes_per_s)}/s), "
        f"{progress.files_in_flight:,} in flight, {progress.files_waiting:,} waiting, "
        f"{progress.files_incomplete:,} incomplete, lag {_lag(progress)}"
    )
