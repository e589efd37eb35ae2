"""The registries in ``LOGS``: which files are on their way, which failed, which have their result.

Rules:

1. They are made of what the committer tells, and, for what it told nobody (an earlier run that was killed, files that
   were deleted, a part of the program that was lost), of what the topics say (:mod:`registry_catch_up`). Nothing
   depends on them: they may be deleted at any time.
2. The registry of results grows by whole rows; a row that was torn by a crash is taken away first. The registry of
   files in progress, which is small, is replaced in one step.
3. A file of which a result is committed is no longer in progress and has not failed. A replay's result is seen by the
   next start. Of versions of one path, the one that came last counts: readers know one row for each path.
4. What a group has in the registry of results, which several groups may share, is complete up to the time at which its
   registry of files in progress was last modified: that time is set back while what came before has yet to be looked
   for on the topics. From there on, the next start looks. Who makes a shared registry anew sets back the others' times.
5. What waits to be written is bounded; so is the number of failed files that are listed, the oldest ones go.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ray_reproducer.core.open_files import OpenFile
from ray_reproducer.core.outcome import Outcome
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.observability import files
from ray_reproducer.observability.registry_catch_up import CatchUp
from ray_reproducer.observability.registry_format import (
    IN_PROGRESS_COLUMNS,
    RESULTS_COLUMNS,
    header,
    in_progress_name,
    in_progress_row,
    result_row,
    results_name,
    status_of,
    values,
)

MAX_WAITING: Final = 100_000
"""Outcomes that may wait to be written: 20 s of the highest rate; then they are looked for on the topics later."""
MAX_FAILED: Final = 10_000
"""Failed files that are listed; all of them are on the topic of dead letters."""
CATCH_UP_TURN_S: Final = 0.5
"""How long one turn may read topics: rows that come in meanwhile wait."""
CATCH_UP_LAST_S: Final = 2.0
"""How long the last turn may; what is not read by then, the next start reads."""
CATCH_UP_MARGIN_S: Final = 60.0
"""How much further back than the last write the topics are read: clocks differ, and a commit takes its time."""


@dataclass(frozen=True)
class RegistryNames:
    """What the registries are of.

    Attributes:
        source_topic: the topic with the chunks.
        results_topic: the topic with the metadata.
        dead_letters_topic: the topic with the failures.
        group_id: the group.
        clients: settings of the Kafka clients; None: there is nothing to be read on the topics (an embedded broker, a
            group that has just been made).
    """

    source_topic: str
    results_topic: str
    dead_letters_topic: str
    group_id: str
    clients: ClientConfigs | None


class Registries:
    """Both registries. Observers' methods only take note; ``update`` writes.

    Args:
        directory: where they are.
        names: what they are of.
    """

    def __init__(self, directory: Path, names: RegistryNames) -> None:
        self.in_progress_path = directory / in_progress_name(names.source_topic, names.group_id)
        self.results_path = directory / results_name(names.results_topic)
        self._directory = directory
        self._names = names
        self._lock = threading.Lock()
        self._waiting: deque[Outcome] = deque()
        self._open: Sequence[OpenFile] = ()
        self._open_rows: dict[OpenFile, str] = {}
        self._failed: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self._begun = False
        self._run_has_begun = False  # the topics are there by then
        self._changed = True
        self._turn_ms = 0  # when this turn began
        self._told_to_ms = 0  # up to when all that was told is written
        self._complete_to_ms = 0  # rule 4, as it was written last
        self._catch_up: CatchUp | None = None
        # Since when, in milliseconds since the epoch; 0: from the beginning.
        self._catch_up_wanted: int | None = None

    @property
    def what(self) -> str:
        """What they are, for a warning."""
        return f"the registries in {self._directory}"

    # ------------------------------------------------------------ what the run tells

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes that have been committed."""
        with self._lock:
            if len(self._waiting) + len(outcomes) > MAX_WAITING:
                self._want_catch_up(_some_time_before_ms(int(time.time() * 1000)))
                return
            self._waiting.extend(outcomes)

    def open_files(self, open_files: Sequence[OpenFile]) -> None:
        """Take the list of files on their way."""
        with self._lock:
            self._run_has_begun = True
            self._changed = self._changed or open_files != self._open
            self._open = open_files

    def restarted(self) -> None:
        """Take note that outcomes of the last moment were perhaps not told."""
        with self._lock:
            self._want_catch_up(_some_time_before_ms(int(time.time() * 1000)))

    def left_out(self, since_ms: int) -> None:
        """Take note that outcomes since then, in milliseconds since the epoch, were not told."""
        with self._lock:
            self._want_catch_up(_some_time_before_ms(since_ms))

    # ------------------------------------------------------------ in the thread that writes

    def update(self, *, last: bool) -> None:
        """Write what has changed.

        Raises:
            OSError: that is not possible; it is tried again the next time.
            BrokerError: the topics can't be read; they are not tried again.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._turn_ms = int(time.time() * 1000)
        anew = self._has_no_results()
        if not self._begun:
            self._begin()
            self._begun = True
        elif anew or self._is_set_back():  # somebody has deleted it
            self._complete_to_ms = 0
            with self._lock:
                self._want_catch_up(0)
        try:
            self._write_results()
            if anew:
                self._set_others_back()
            self._follow_topics(last=last)
        finally:
            self._write_in_progress()

    def _begin(self) -> None:
        """Take over what an earlier run has left."""
        since_ms = 0
        if self._has_no_results():
            if self.in_progress_path.exists():  # before the other is made: a run that is killed now has told nothing
                files.set_modified(self.in_progress_path, 0)
        else:
            self._mend_results()
            if self.in_progress_path.exists():
                # The older one: a registry of results that was put back from a copy lacks what came since.
                modified_ms = min(files.modified_ms(path) for path in (self.in_progress_path, self.results_path))
                since_ms = _some_time_before_ms(modified_ms)
                self._take_failed_rows()
        self._told_to_ms = self._complete_to_ms = since_ms
        with self._lock:
            self._want_catch_up(since_ms)

    def _mend_results(self) -> None:
        """Rule 2: end the last row, if it is one; else take it away."""
        line, ended = files.last_line(self.results_path)
        if ended:
            return
        try:
            whole = len(values(line)) == len(RESULTS_COLUMNS)
        except ValueError:
            whole = line == header(RESULTS_COLUMNS).rstrip()
        if whole:
            files.append(self.results_path, "\n")
        else:
            files.cut_last_line(self.results_path)

    def _take_failed_rows(self) -> None:
        lines = self.in_progress_path.read_text(encoding="utf-8", errors="replace").split("\n")
        for line in lines[1:]:
            try:
                _, path, status, *_ = values(line)
            except ValueError:
                continue  # it is a view: a row that nobody can read is not kept
            if status != "in_progress":
                self._note_failed(str(path), 0, f"{line}\n")

    def _write_results(self) -> None:
        with self._lock:
            outcomes = list(self._waiting)
        new = self._has_no_results()
        rows = [result_row(outcome) for outcome in outcomes if outcome.kind == "result"]
        catch_up = self._catch_up
        fresh = catch_up.without_known(rows) if catch_up else rows
        if fresh or new:
            files.append(self.results_path, "".join([header(RESULTS_COLUMNS), *fresh] if new else fresh))
        with self._lock:
            for _ in outcomes:
                self._waiting.popleft()
        if outcomes or new:
            self._told_to_ms = self._turn_ms
        if catch_up:
            catch_up.written(fresh)
        for outcome in outcomes:
            self._note(outcome)

    def _note(self, outcome: Outcome) -> None:
        """Rule 3: let a result take the place of an earlier failure of its file, and the other way round."""
        path, done_ms = outcome.path, outcome.facts.done_ms
        if not path or (path in self._failed and self._failed[path][0] > done_ms):
            return
        if outcome.kind == "result":
            if self._failed.pop(path, None):
                self._changed = True
        else:
            facts = outcome.facts
            row = in_progress_row(
                path, status_of(outcome), facts.n_messages, facts.first_ms, facts.newest_ms, facts.done_ms
            )
            self._note_failed(path, done_ms, row)

    def _note_failed(self, path: str, done_ms: int, row: str) -> None:
        self._failed[path] = (done_ms, row)
        self._failed.move_to_end(path)
        if len(self._failed) > MAX_FAILED:
            self._failed.popitem(last=False)
        self._changed = True

    def _write_in_progress(self) -> None:
        if self._is_set_back():  # in this very turn: the next one begins with that
            return
        complete_to_ms = self._find_complete_to_ms()
        with self._lock:
            changed = self._changed or not self.in_progress_path.exists()
            self._changed = False
            open_files = self._open
        if not changed:
            if complete_to_ms != self._complete_to_ms:
                files.set_modified(self.in_progress_path, complete_to_ms)
            self._complete_to_ms = complete_to_ms
            return
        now_ms = int(time.time() * 1000)
        known = self._open_rows
        self._open_rows = {
            file: known.get(file)
            or in_progress_row(file.path, "in_progress", file.n_chunks, file.first_ms, file.newest_ms, now_ms)
            for file in open_files
        }
        rows = {path: row for path, (_, row) in self._failed.items()}
        rows |= {file.path: row for file, row in self._open_rows.items()}
        try:
            text = "".join([header(IN_PROGRESS_COLUMNS), *rows.values()])
            files.replace(self.in_progress_path, text, complete_to_ms)
        except OSError:
            self._changed = True
            raise
        self._complete_to_ms = complete_to_ms

    # ------------------------------------------------------------ what the topics tell

    def _want_catch_up(self, since_ms: int) -> None:
        if self._names.clients is None:
            return
        wanted = self._catch_up_wanted
        self._catch_up_wanted = since_ms if wanted is None else min(wanted, since_ms)

    def _follow_topics(self, *, last: bool) -> None:
        with self._lock:
            wanted = self._catch_up_wanted
            idle = self._run_has_begun and (self._catch_up is None or self._catch_up.ended)
            if idle:
                self._catch_up_wanted = None
        if idle and wanted is not None and self._names.clients is not None:
            names, clients = self._names, self._names.clients
            topics = (names.dead_letters_topic, names.results_topic)
            if self._catch_up and not self._catch_up.complete:
                wanted = min(wanted, self._catch_up.since_ms)
            self._catch_up = CatchUp(self.results_path, clients, topics, names.group_id, wanted)
            if self._failed:
                self._catch_up.look_for_failed(self._failed)
        if self._catch_up and not self._catch_up.ended:
            try:
                self._add_missing(self._catch_up, CATCH_UP_LAST_S if last else CATCH_UP_TURN_S)
            except OSError:
                self._catch_up.give_up()
                with self._lock:
                    self._want_catch_up(self._catch_up.since_ms)
                raise

    def _add_missing(self, catch_up: CatchUp, limit_s: float) -> None:
        read = catch_up.turn(limit_s)
        files.append(self.results_path, "".join(row for row, _ in read))
        for _, outcome in read:
            self._note(outcome)
        if catch_up.complete:
            self._told_to_ms = self._turn_ms

    # ------------------------------------------------------------ up to when they are complete (rule 4)

    def _find_complete_to_ms(self) -> int:
        times = [self._told_to_ms]
        if self._catch_up and not self._catch_up.complete:
            times.append(self._catch_up.since_ms)
        with self._lock:
            if self._catch_up_wanted is not None:
                times.append(self._catch_up_wanted)
        return min(times)

    def _has_no_results(self) -> bool:
        return not self.results_path.exists() or not self.results_path.stat().st_size

    def _set_others_back(self) -> None:
        """Let other groups that may have had rows in the registry of results look for them from the beginning."""
        for path in self._directory.glob(in_progress_name("*", "*")):
            if path != self.in_progress_path:
                files.set_modified(path, 0)

    def _is_set_back(self) -> bool:
        """Whether another group, that runs meanwhile, has made the registry of results anew."""
        if self._complete_to_ms == 0 or not self.in_progress_path.exists():
            return False
        return files.modified_ms(self.in_progress_path) == 0


def _some_time_before_ms(time_ms: int) -> int:
    return max(0, time_ms - int(CATCH_UP_MARGIN_S * 1000))
