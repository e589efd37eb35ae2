"""Runs a soak: one fault after the other on a rig of the fault tests, and a verdict after each.

Rules:

1. What happens follows from the seed: kinds of faults, their moments, the work; not what the machine makes of it.
2. Each kind strikes once, in random order; from then on they are drawn by their weights. Now and then a second fault
   strikes while the program is still getting over the first.
3. After each fault everything must be there before the next one strikes, and every `WHOLE_CHECK_EVERY` faults all
   topics are read again from their beginning: so a failure is tied to its fault.
4. After a failure the logs are kept, and the soak goes on: with a new start of the program if that heals it, else with
   new topics.
"""

from __future__ import annotations

import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil
from confluent_kafka import KafkaException

from soaking.tally import SoakTally
from tests.faults.catalogue import FAULTS
from tests.faults.fault import FILES_AFTERWARDS, Fault
from tests.faults.rig import Rig, UnexpectedEndError
from tests.faults.stages import Stage
from tests.topics import read_committed

WHOLE_CHECK_EVERY: Final = 20
"""Faults between two readings of everything."""
SECOND_FAULT: Final = 0.25
"""How often a second fault strikes while the program gets over the first."""
COSTLY_EVERY: Final = 5
"""One in so many batches has a file that costs a worker process."""
FILES: Final = (20, 60)
"""Fewest and most files of a batch."""
BOTH_FAULTS: Final = ("kill", "freeze", "lose", "refuse")
"""How the names of faults begin that may strike while another is not over."""


class Soak:
    """See the module's head.

    Args:
        servers: gives the address of the soak's own broker.
        directory: for the rigs' files.
        kept: where logs go after a failure.
        seed: what all follows from.
        say: takes a line of text for the person who waits.
        only: parts of names; other faults do not strike.
    """

    def __init__(
        self,
        servers: Callable[[], str],
        directory: Path,
        kept: Path,
        seed: int,
        say: Callable[[str], None],
        only: Sequence[str] = (),
    ) -> None:
        self._servers = servers
        self._seed = seed
        self._directory = directory
        self._kept = kept
        self._dice = random.Random(seed)  # noqa: S311 - no secret
        self._say = say
        self._only = only
        self._rigs = 0
        self.tally = SoakTally()

    def run(self, minutes: float, stages: Sequence[Stage]) -> None:
        """Let faults strike for so long, then finish what is on the topics and check everything.

        Args:
            minutes: for all stages together.
            stages: each gets its share of the time, one after the other.
        """
        shares = sum(stage.share for stage in stages)
        until_s = time.monotonic()
        for stage in stages:
            until_s += 60 * minutes * stage.share / shares
            while time.monotonic() < until_s:
                self._rigs += 1
                try:
                    self._on_stage(stage, until_s)
                except AssertionError as error:  # of the stage itself; the next one may do better
                    self.tally.failures.append(f"stage {stage.name}: {str(error).splitlines()[0]}")
                    self._say(f"FAILURE stage {stage.name}: {error}")

    def _on_stage(self, stage: Stage, until_s: float) -> None:
        """Let faults strike on a rig of its own, until it is time or the rig is of no use any more."""
        with stage.rig(self._directory / f"rig{self._rigs}", self._servers, self._seed + self._rigs) as rig:
            self._say(f"stage {stage.name}, for {(until_s - time.monotonic()) / 60:.1f} min")
            try:
                self._one_rig(rig, until_s)
            finally:
                self.tally.add(rig.judge.tally, rig.judge.repeats)
                self.tally.starts += rig.starts
                self.tally.looks += rig.positions.looks

    def _one_rig(self, rig: Rig, until_s: float) -> None:
        kinds = self._kinds(rig)
        rig.start()
        rig.put()
        if not self._judged(rig, "start", lambda: rig.recover().seconds):
            return
        while time.monotonic() < until_s and not rig.is_spoilt:
            self._strike(rig, kinds)
            if self.tally.faults % WHOLE_CHECK_EVERY == 0:
                self._read_everything(rig)
        if not rig.is_spoilt:
            self._finish(rig)

    def _kinds(self, rig: Rig) -> Iterator[Fault]:
        possible = [f for f in FAULTS.values() if f.needs <= set(rig.features)]
        if self._only:
            possible = [fault for fault in possible if any(part in fault.name for part in self._only)]
        first = self._dice.sample(possible, k=len(possible))
        yield from (fault() for fault in first if not self.tally.kind(fault.name).times)
        while True:
            yield self._dice.choices(possible, [fault.weight for fault in possible])[0]()

    def _strike(self, rig: Rig, kinds: Iterator[Fault]) -> None:
        faults = [next(kinds)]
        if self._dice.random() < SECOND_FAULT and faults[0].name.startswith(BOTH_FAULTS):
            second = next(kinds)
            if second.name.startswith(BOTH_FAULTS):
                faults.append(second)
        costly = 1 if self._dice.randrange(COSTLY_EVERY) == 0 else 0
        files, share = self._dice.randint(*FILES), self._dice.uniform(0.0, 0.8)
        names = " + ".join(fault.name for fault in faults)

        def struck() -> float:
            rig.is_spoilt = True
            batch = rig.put(files, costly + faults[0].costly)
            rig.wait_for_share(batch, share)
            began_s = time.monotonic()
            for fault in faults:
                if not rig.has_ended():
                    self.tally.kind(fault.name).times += 1
                    fault.strike(rig, batch)
            rig.put(FILES_AFTERWARDS)
            return rig.recover(began_s).seconds

        starts, began = rig.starts, time.monotonic()
        well = self._judged(rig, names, struck)
        last = self.tally.kind(faults[-1].name)
        last.starts += rig.starts - starts
        last.failures += not well
        self._say(
            f"{self.tally.faults:4} {names}: {'well' if well else 'NOT WELL'} after "
            f"{time.monotonic() - began:.1f} s, {self.tally.totals['files'] + rig.judge.tally.files} files so far"
        )

    def _judged(self, rig: Rig, names: str, act: Callable[[], float]) -> bool:
        """Act, and note how that went (rule 4)."""
        try:
            seconds = act()
        except UnexpectedEndError as error:
            self.tally.unexpected_ends += 1
            self._failed(rig, names, error)
            self._heal(rig, names)
            return False
        # The last two: something of the soak itself went wrong, which is to be mended as well.
        except (AssertionError, psutil.Error, KafkaException) as error:
            self._failed(rig, names, error)
            if rig.judge.missing():
                self.tally.stuck += 1
                self._heal(rig, names)
            return False
        last = names.rpartition(" + ")[2]
        if last in self.tally.kinds:
            self.tally.kind(last).recoveries_s.append(seconds)
        return True

    def _heal(self, rig: Rig, names: str) -> None:
        """See whether a new start gets over it; what is missing then is lost."""
        rig.running().kill()
        rig.expect_end()
        try:
            rig.recover()
        except AssertionError as error:
            self._failed(rig, f"{names}, and a new start", error)
            rig.judge.close()

    def _failed(self, rig: Rig, names: str, error: Exception) -> None:
        where = self._kept / f"failure{len(self.tally.failures) + 1}"
        where.mkdir(parents=True)
        for log in rig.directory.glob("*.txt"):
            shutil.copy(log, where)
        (where / "what.txt").write_text(f"{names}\n{error}\n", encoding="utf-8")
        text = f"{names}: {(str(error).splitlines() or [repr(error)])[0]}"
        self.tally.failures.append(text)
        self._say(f"FAILURE {text}\n  logs: {where}")

    def _read_everything(self, rig: Rig) -> None:
        """Read all topics from their beginning (rule 3): an outcome twice, or too few or many, would show."""
        self.tally.whole_checks += 1
        counted = rig.judge.tally
        results = Counter(
            (record.value["path"], record.value["sha256"]) for record in read_committed(rig.servers, rig.results)
        )
        letters = Counter(
            (record.value["path"], str(record.value["source"]["offsets"]))
            for record in read_committed(rig.servers, rig.dead_letters)
        )
        twice = [str(what) for what, times in (results + letters).items() if times > 1]
        if rig.delivery == "at_least_once":
            twice = []
        seen, due = (len(results), len(letters)), (counted.results, counted.letters)
        if twice or seen != due:
            text = f"results and dead letters: {due} were seen as they came, {seen} are there now; twice: {twice[:5]}"
            self._failed(rig, "reading everything again", AssertionError(text))

    def _finish(self, rig: Rig) -> None:
        """Stop it in order, and let a drain find that nothing is left."""
        program = rig.running()
        program.process.terminate()
        code, _, err = program.wait()
        drained, _, said = rig.launch("run=drain").wait()
        if code or drained or not re.search(r"\b0 results", said):
            self._failed(rig, "the end", AssertionError(f"stopped with {code}, drained with {drained}\n{err}\n{said}"))
        self._read_everything(rig)
