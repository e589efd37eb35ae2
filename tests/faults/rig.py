"""The real program against a real broker, with known work, and everything that is needed to disturb and to judge it.

Rules:

1. Work comes in batches (``plan``). A fault strikes while a batch is under way; the rig then waits until every outcome
   is there and every position stands at its end, starting the program again where its end was the fault. So what is
   lost or there twice is tied to its fault.
2. What the program may do is said by the fault before it strikes: end (and with which exit code), or go on by itself.
   An end that nobody announced is an error, even if nothing is lost by it.
3. The watchers (``watching``) and the judge (``judge``) run from the first batch to the last.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import psutil
from confluent_kafka import KafkaException

from ray_reproducer.kafka import failpoints
from tests.faults import processes
from tests.faults.judge import Judge
from tests.faults.plan import Batch, Plan
from tests.faults.watching import PositionWatcher, RecordWatcher, ends
from tests.program import Program, start_program
from tests.ray_nodes import RayNodes
from tests.topics import made_topics
from tests.waiting import wait_until
from tests.workload import Topic

PARTITIONS: Final = 4
RESULT_PARTITIONS: Final = 2
RECOVERY_S: Final = 120.0
"""How long the program may take to have everything done after a fault: a start of Ray on a busy machine, and more."""
WORK_S: Final = 0.03
"""How long the extractor takes for a file: a batch of 40 keeps two cores for more than half a second."""
TIMEOUT_S: Final = 4.0
"""``extraction.timeout``: costs so much for each file that hangs."""
TRANSACTION_TIMEOUT_MS: Final = 6_000
"""So that the broker aborts by itself within a test's time."""
ACTOR_TIMEOUT_S: Final = 10
"""``actor_timeout``, in seconds: a third of the default, and three times as long as what short faults freeze."""
OBJECT_STORE_BYTES: Final = 150_000_000
LOGS_KEPT: Final = 5
"""Logs of the program's last lives that are kept."""
LAB: Final = Path(__file__).with_name("my_lab.py")


class UnexpectedEndError(AssertionError):
    """The program has ended though nothing was to end it."""


@dataclass
class Recovery:
    """How the program got over a fault.

    Attributes:
        seconds: from the beginning of the fault to the last outcome of what was on the topic.
        starts: how often the program was started again.
    """

    seconds: float
    starts: int


@dataclass
class _Expectation:
    codes: frozenset[int] = frozenset()
    any_code: bool = False
    said: str = ""


@dataclass
class Rig:
    """See the module's head. To be used as a context manager.

    Attributes:
        directory: where logs and the user's module are.
        servers: the broker's own address.
        seed: what the work follows from.
        overrides: added to the program's command line.
        delivery: ``exactly_once`` or ``at_least_once``.
        program_servers: the address that the program is given; another one if there is a proxy in between.
        features: what there is for faults that need it (``proxy``, ``own_broker``, ...).
        environment: added to the program's environment.
        broker: whatever the faults of the broker need.
        nodes: the Ray cluster that the program runs on; None: it starts a Ray of its own.
        stale_s: for so long the broker may tell older positions, in seconds (``PositionWatcher``).
        sends_again: whether chunks and files come again.
    """

    directory: Path
    servers: str
    seed: int
    overrides: Sequence[str] = ()
    delivery: str = "exactly_once"
    program_servers: str = ""
    features: Collection[str] = frozenset()
    environment: dict[str, str] = field(default_factory=dict)
    broker: Any = None
    nodes: RayNodes | None = None
    stale_s: float = 0.0
    sends_again: bool = True

    def __enter__(self) -> Rig:
        """Make the topics and the user's directory, and begin to watch; the program is not started yet."""
        self.program_servers = self.program_servers or self.servers
        unique = uuid.uuid4().hex[:12]
        self.source, self.results = f"test.faults.source.{unique}", f"test.faults.results.{unique}"
        self.dead_letters = f"{self.results}.dead_letters"
        self.group = f"test.faults.{unique}"
        self.failpoints = failpoints_directory(self.directory)
        self.failpoints.mkdir(parents=True, exist_ok=True)
        self._make_workspace()
        wanted = {self.source: PARTITIONS, self.results: RESULT_PARTITIONS, self.dead_letters: 1}
        self._topics = made_topics(self.servers, wanted)
        self._topics.__enter__()
        self.topic = Topic(self.servers, self.source, PARTITIONS)
        self.plan = Plan(self.seed, PARTITIONS)
        self.judge = Judge(digest_function(), self.results, repeats_allowed=self.delivery == "at_least_once")
        self.records = RecordWatcher(self.servers, {t: n for t, n in wanted.items() if t != self.source})
        self.positions = PositionWatcher(self.servers, self.group, self.source, PARTITIONS, self.stale_s)
        self.program: Program | None = None
        self.starts = 0
        self._batches = 0
        self._last: Batch | None = None
        self._others: list[Program] = []
        self._logs: deque[Path] = deque()
        self._expected = _Expectation()
        self.is_spoilt = False
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """End the program and the watchers, and delete the topics."""
        try:
            self.end_program()
        finally:
            try:
                self.records.close()
                self.positions.close()
            finally:
                self._topics.__exit__(None, None, None)

    def _make_workspace(self) -> None:
        self.workspace = self.directory / "lab"
        (self.workspace / "conf" / "extractor").mkdir(parents=True)
        shutil.copy(LAB, self.workspace / "my_lab.py")
        spec = f"_target_: my_lab.work\nseconds: {WORK_S}\n"
        (self.workspace / "conf" / "extractor" / "mine.yaml").write_text(spec)

    # ------------------------------------------------------------ the program

    def arguments(self) -> list[str]:
        """The program's command line."""
        return [
            "+extractor=mine",
            f"kafka.bootstrap.servers={self.program_servers}",
            f"topics.source={self.source}",
            f"topics.results={self.results}",
            f"group_id={self.group}",
            f"delivery={self.delivery}",
            "consumers=2",
            *self._ray(),
            f"extraction.timeout={TIMEOUT_S}",
            f"actor_timeout={ACTOR_TIMEOUT_S}",
            "extraction.max_batch_files=8",
            f"producer.transaction.timeout.ms={TRANSACTION_TIMEOUT_MS}",
            *self.overrides,
        ]

    def _ray(self) -> list[str]:
        if self.nodes is not None:
            return ["ray=cluster", f"ray.address={self.nodes.address}"]
        return ["ray.num_cpus=2", f"ray.object_store_memory={OBJECT_STORE_BYTES}"]

    def launch(self, *more: str) -> Program:
        """Start an instance of the program, and leave it alone."""
        self.starts += 1
        log = self.directory / f"program{self.starts}.txt"
        self._logs.append(log)
        while len(self._logs) > LOGS_KEPT:
            self._logs.popleft().unlink()
        environment = {
            failpoints.ENVIRONMENT_VARIABLE: str(self.failpoints),
            **({"RAY_AUTH_MODE": "disabled"} if self.nodes else {}),
            **self.environment,
        }
        return start_program(self.workspace, log, *self.arguments(), *more, environment=environment)

    def start(self, *more: str) -> Program:
        """Start the program; it becomes the one that is watched."""
        self.program = self.launch(*more)
        return self.program

    def running(self) -> Program:
        """The program; it must be there."""
        assert self.program is not None, "the program was not started"
        return self.program

    def end_program(self) -> None:
        """Kill all that was started."""
        for program in (*self._others, self.program):
            if program is not None:
                program.kill()

    def adopt(self, program: Program) -> Program:
        """Make another instance the one that is watched; return the one before, which is ended with the rig."""
        before, self.program = self.running(), program
        self._others.append(before)
        return before

    def has_ended(self) -> bool:
        """Whether the program is gone."""
        return self.running().process.poll() is not None

    def family(self) -> list[psutil.Process]:
        """All processes of the program, the driver first; with those of the cluster, if it runs on one."""
        return processes.tree(self.running().process.pid) + (self.nodes.processes() if self.nodes else [])

    def find(self, role: str) -> list[psutil.Process]:
        """The processes that have a role at present, oldest first: ``driver``, or see ``processes``."""
        family = self.family()
        return family[:1] if role == "driver" else processes.of_role(family, role)

    def processes_of(self, role: str, deadline_s: float = RECOVERY_S) -> list[psutil.Process]:
        """The same, waited for until there is one."""

        def found() -> list[psutil.Process]:
            self.revive()
            return self.find(role)

        return wait_until(found, deadline_s, f"a process of role {role}")

    def expect_end(self, *codes: int, said: str = "") -> None:
        """Let the program end, with one of these codes (none: any), until the rig has recovered.

        Args:
            codes: exit codes.
            said: text that its stderr must have then.
        """
        self._expected = _Expectation(frozenset(codes), any_code=not codes, said=said)

    # ------------------------------------------------------------ work

    def put(self, files: int = 40, costly: int = 0) -> Batch:
        """Put the next batch on the topic."""
        self._batches += 1
        earlier = self._last if self.sends_again else None
        batch = self._last = self.plan.batch(
            self._batches, files, costly, earlier=earlier, repeats_chunks=self.sends_again
        )
        self.topic.put_in_order(batch.messages)
        self.judge.sent(batch)
        return batch

    def look(self) -> None:
        """Take what the watchers have seen."""
        self.judge.take(self.records.take())
        self.judge.take_positions(self.positions.take(), self.positions.steps_back())

    def wait_for_share(self, batch: Batch, share: float, deadline_s: float = RECOVERY_S) -> None:
        """Wait until this share of a batch's outcomes is there, or the program has ended."""

        def enough() -> bool:
            self.look()
            return self.has_ended() or self.judge.done(batch.number) >= share * batch.size

        wait_until(enough, deadline_s, f"{share:.0%} of batch {batch.number}")

    def hold(self, seconds: float, unless: Callable[[], bool] = lambda: False) -> None:
        """Let a fault last; its length is what it is. Ends early if ``unless``."""
        until = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() >= until or unless(), seconds + RECOVERY_S, "the end of a fault")

    def recover(self, since_s: float | None = None, deadline_s: float = RECOVERY_S) -> Recovery:
        """Wait until all is done, starting the program again where that was announced, and judge it (rule 1).

        Args:
            since_s: when the fault began (``time.monotonic()``), for saying how long it took; None: now.
            deadline_s: how long it may take from now.

        Raises:
            AssertionError: something is missing after the deadline, or the judge has found something.
            UnexpectedEndError: the program has ended unannounced.
        """
        self.is_spoilt = True  # unless all goes well
        began_s, starts_before = time.monotonic() if since_s is None else since_s, self.starts

        def all_there() -> bool:
            self.look()
            self.revive()
            return not self.judge.missing()

        problems = len(self.judge.problems)
        try:
            wait_until(all_there, deadline_s, "the outcomes of all that is on the topic")
            seconds = time.monotonic() - began_s
            wait_until(self._at_ends, deadline_s, "the committed positions to stand at the ends of the topic")
        except AssertionError as error:
            self.look()
            missing = self.judge.missing()
            found = "\n".join(self.judge.problems[problems:][:20])
            raise AssertionError(f"{error}\nmissing: {missing[:20]}\n{found}\n{self.log_tail()}") from error
        self._expected = _Expectation()
        self.look()
        self.judge.close()
        assert len(self.judge.problems) == problems, "\n".join([*self.judge.problems[problems:][:20], self.log_tail()])
        self.is_spoilt = False
        return Recovery(seconds, self.starts - starts_before)

    def revive(self) -> None:
        """Start the program again if it has ended.

        Raises:
            UnexpectedEndError: that was not announced.
        """
        if self.has_ended():
            self._take_end()
            self.start()

    def keep_busy(self, files: int = 10) -> None:
        """Let there be work for the program: for faults that wait for something that happens only then."""
        self.look()
        self.revive()
        if not self.judge.missing():
            self.put(files)

    def _at_ends(self) -> bool:
        self.revive()
        try:
            wanted = ends(self.servers, self.source, PARTITIONS)
        except KafkaException:
            return False
        return self.positions.positions() == {p: end for p, end in wanted.items() if end}

    def _take_end(self) -> None:
        program, expected = self.running(), self._expected
        code = program.process.returncode
        err = program.err()
        program.kill()  # what is left of its tree
        if not expected.any_code and code not in expected.codes:
            raise UnexpectedEndError(self._end_text(f"(expected: {sorted(expected.codes) or 'none'})"))
        assert expected.said in err, f"it does not say {expected.said!r}:\n{self.log_tail()}"

    def _end_text(self, detail: str) -> str:
        return f"the program ended with code {self.running().process.returncode} {detail}\n{self.log_tail()}"

    def log_tail(self, lines: int = 40) -> str:
        """The end of what the program has said."""
        return "\n".join(self.running().err().splitlines()[-lines:])


def failpoints_directory(directory: Path) -> Path:
    """Where a rig of this directory arms failpoints: processes that are started beforehand must know it, too."""
    return directory / "failpoints"


def digest_function() -> Callable[[Any], dict[str, Any]]:
    """What the extractor gives for a good file: the very function of the user's module."""
    spec = importlib.util.spec_from_file_location("faults_my_lab", LAB)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[Any], dict[str, Any]] = module.digest
    return function
