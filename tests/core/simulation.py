"""A world around the core: a topic, a broker, consumers, workers, and a judge that watches every step.

The core is wired as the actors wire it: each consumer's deliveries arrive in their order, those of several consumers
interleave; tasks come back in any order, or not at all; a transaction is committed or aborted, and the program may die
without having heard which. After a death everything starts again from what the broker holds, and from nothing else.

What the judge demands:

1. No version and no poison gets a second outcome. One exception is inherent: what lies below the position is
   forgotten by a restart (it is no longer described anywhere), so when *all* offsets of a done version that a commit
   describes lie below the position, a repeat of the version that was not yet recorded is a file like any other to the
   next life. The same goes for a file in several chunks, because a chunk that is done does not say that its file is:
   it may have been given up. A second outcome is therefore a violation if it comes in the life of the first one, or if
   the metadata with which the life began describes the only chunk of the version as done; or if the life was told what
   earlier ones have finished.
2. Positions never move back, and what was once described as done stays so.
3. Position and metadata describe no offset as done whose version has no committed outcome (nothing is lost), and
   describe as done: every delivered offset of what the transaction carries, and, if there is room, every repeat that
   was delivered before the transaction was planned.
4. Workers find the bytes that the uploader cut, in segments that were put and not released; a segment is released
   once, and not while a worker has it.
5. After a drain everything that is whole has an outcome, and only incomplete files hold segments. If incomplete files
   are given up after a while, and all are that old, nothing is open any more and each position is at the end.
6. A dead letter of a file that was given up says which chunks are missing: all but those at the offsets that it names.
   Each offset is done by it. A file of which everything is on the topic is not given up,
   unless a chunk is younger than the others by the time that is waited.
7. With ``failures=hold`` no file's failure is produced; with everything else done, the next life does these, too.
8. With ``duplicates=reprocess`` a version has no more outcomes than there are copies of each of its chunks. If a life
   is told what earlier ones have finished, there is no second outcome at all otherwise.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal

from ray_reproducer.core.batching import BatchLimits
from ray_reproducer.core.chunk import Chunk, FileVersion, encode
from ray_reproducer.core.chunk import decode as decode_chunk
from ray_reproducer.core.commit_metadata import CommittedState, decode
from ray_reproducer.core.done_lately import DoneLately
from ray_reproducer.core.events import (
    Announce,
    CancelTask,
    Commit,
    CrashCause,
    Delivered,
    DrainTo,
    Event,
    Finish,
    Instruction,
    PartitionsAdded,
    ReadPartitions,
    ReleaseSegments,
    SetReading,
    SlotsChanged,
    StartTask,
    StopRequested,
    TaskBegan,
    TaskCrashed,
    TaskFinished,
    Tick,
    TransactionAborted,
    TransactionCommitted,
)
from ray_reproducer.core.intake import Delivery, Intake
from ray_reproducer.core.ledger import Ledger, PartitionCommit, PartitionStart, poison_id
from ray_reproducer.core.limits import MachineLimits, Moment, PatienceLimits, PoolLimits
from ray_reproducer.core.machine import Machine
from ray_reproducer.core.outcome import Failure, Origin, Outcome
from ray_reproducer.core.segment import Segment

TOPIC_ID = b"a topic's own id"
ORIGIN = Origin(topic="raw", topic_id=TOPIC_ID, extractor="mine", program="ray_reproducer 0")
REGEX = r"(?!skipped)"
BIG_CHUNK_BYTES = 70_000
EPOCH_S = 1_700_000_000
"""Time of day when a world begins."""

CRASH_CAUSES: Sequence[CrashCause] = ("worker_crashed", "out_of_memory", "node_died")

Kind = Literal["chunk", "poison", "filtered", "gap"]


# ---------------------------------------------------------------- the topic


@dataclass(frozen=True)
class FileSpec:
    """A file to upload: the same path with another content, or another number of chunks, is another version."""

    path: int
    content: int = 0
    n_chunks: int = 1
    copies: int = 1
    repeated_chunks: int = 0
    missing_chunk: bool = False
    filtered: bool = False
    big: bool = False


@dataclass(frozen=True)
class TopicSpec:
    """What is on the topic before anything runs; its messages have timestamps of ``lasts_s`` seconds."""

    files: Sequence[FileSpec]
    partitions: int = 2
    poison: int = 0
    gaps: int = 0
    seed: int = 0
    shuffled: float = 1.0
    lasts_s: float = 0.0


@dataclass(frozen=True)
class Message:
    """What one offset holds; ``content`` is the id of the version, or of the poison."""

    kind: Kind
    content: bytes = b""
    value: bytes | None = None
    index: int = 0
    timestamp_ms: int = EPOCH_S * 1000


def cut_file(spec: FileSpec) -> tuple[bytes, list[Chunk]]:
    """Cut a file into chunks as an uploader does."""
    unit = f"{spec.path}/{spec.content};".encode()
    size = BIG_CHUNK_BYTES if spec.big else 10
    content = (unit * (size * spec.n_chunks // len(unit) + 1))[: size * spec.n_chunks]
    version = FileVersion(
        subdir="skipped" if spec.filtered else f"dir{spec.path % 2}",
        filename=f"f{spec.path}.dat",
        filename_append="",
        file_hash=hashlib.sha512(content).digest(),
        n_chunks=spec.n_chunks,
        mtime=1.0 + spec.content,
    )
    pieces = [content[i * size : (i + 1) * size] for i in range(spec.n_chunks)]
    return content, [
        Chunk(version, i + 1, i * size, hashlib.sha512(piece).digest(), piece) for i, piece in enumerate(pieces)
    ]


class Topic:
    """The source topic: messages at offsets, and what a reader should make of them."""

    def __init__(self, spec: TopicSpec) -> None:
        random = Random(spec.seed)
        self.contents: dict[bytes, bytes] = {}
        self.incomplete: set[bytes] = set()
        messages = self._uploaded(spec.files, random)
        poison = [None, b"", b"junk", b"\x93\x01\x02\x03", (messages[0].value or b"")[:-3]]
        messages += [Message("poison", value=random.choice(poison)) for _ in range(spec.poison)]
        messages += [Message("gap")] * spec.gaps
        self.partitions: dict[int, list[Message]] = {p: [] for p in range(spec.partitions)}
        for number, message in enumerate(_partly_shuffled(messages, spec.shuffled, random)):
            partition = random.randrange(spec.partitions)
            log = self.partitions[partition]
            content = poison_id(partition, len(log)) if message.kind == "poison" else message.content
            age_s = spec.lasts_s * (1 - number / len(messages))
            log.append(replace(message, content=content, timestamp_ms=round((EPOCH_S - age_s) * 1000)))
        self.places: dict[bytes, list[tuple[int, int]]] = {}
        for partition, log in self.partitions.items():
            for offset, message in enumerate(log):
                if message.kind in ("chunk", "poison"):
                    self.places.setdefault(message.content, []).append((partition, offset))
        self.wanted = set(self.places) - self.incomplete
        self.lasts_s = spec.lasts_s

    def _uploaded(self, files: Sequence[FileSpec], random: Random) -> list[Message]:
        messages: list[Message] = []
        held: dict[FileVersion, set[int]] = {}
        for file in files:
            content, chunks = cut_file(file)
            kind: Kind = "filtered" if file.filtered else "chunk"
            if file.missing_chunk and len(chunks) > 1:
                chunks.pop(random.randrange(len(chunks)))
            sent = chunks * file.copies + random.choices(chunks, k=file.repeated_chunks)
            messages += [Message(kind, chunk.version.id, encode(chunk), chunk.index) for chunk in sent]
            if kind == "chunk":
                version = chunks[0].version
                self.contents[version.id] = content
                held.setdefault(version, set()).update(chunk.index for chunk in chunks)
        self.incomplete.update(version.id for version, indices in held.items() if len(indices) < version.n_chunks)
        return messages

    def message(self, place: tuple[int, int]) -> Message:
        return self.partitions[place[0]][place[1]]

    def copies(self, content: bytes) -> int:
        """How often the rarest chunk of a file, or a poison, is there."""
        return min(Counter(self.message(place).index for place in self.places[content]).values())

    @property
    def ends(self) -> dict[int, int]:
        return {p: len(log) for p, log in self.partitions.items()}


def _partly_shuffled(messages: list[Message], share: float, random: Random) -> list[Message]:
    """Interleave files: each message moves by up to ``share`` of the topic's length."""
    reach = share * len(messages)
    order = sorted(range(len(messages)), key=lambda i: i + random.uniform(0, reach))
    return [messages[i] for i in order]


# ---------------------------------------------------------------- the broker


class Broker:
    """What survives a death: committed positions with metadata, and committed outcomes."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.committed: dict[int, PartitionCommit] = {}
        self.outcomes: Counter[bytes] = Counter()
        self.finished: list[bytes] = []
        self.given_up: dict[tuple[int, int], bytes] = {}
        self.reprocess = False
        self.described: dict[int, set[int]] = {p: set() for p in topic.partitions}

    def state(self, partition: int) -> CommittedState | None:
        commit = self.committed.get(partition)
        return decode(commit.metadata, commit.position) if commit else None

    def start(self, partition: int) -> PartitionStart:
        commit = self.committed.get(partition)
        return PartitionStart(commit.position, self.state(partition)) if commit else PartitionStart(0)

    def commit(self, commits: Mapping[int, PartitionCommit], contents: Iterable[bytes]) -> None:
        for partition, commit in commits.items():
            before = self.committed.get(partition)
            assert before is None or commit.position >= before.position, "rule 2: position moved back"
            self.committed[partition] = commit
        contents = list(contents)
        self.outcomes.update(contents)
        self.finished += contents
        for partition in commits:
            before_it, now = self.described[partition], self.done_offsets(partition)
            again = {offset for offset in before_it - now if self.may_come_again((partition, offset))}
            assert now >= before_it - again, "rule 2: what was done is done no more"
            self.described[partition] = now
            for offset in now - before_it:
                message = self.topic.partitions[partition][offset]
                has_outcome = self.outcomes[message.content] or (partition, offset) in self.given_up
                assert message.kind in ("filtered", "gap") or has_outcome, (
                    f"rule 3: {partition}:{offset} is done without outcome"
                )

    def may_come_again(self, place: tuple[int, int]) -> bool:
        """Whether a chunk's version was opened again: a version that is listed by its id is not done anywhere."""
        return place in self.given_up or self.reprocess

    def done_offsets(self, partition: int) -> set[int]:
        """What position and metadata describe as done."""
        commit = self.committed.get(partition)
        state = self.state(partition)
        if commit is None or state is None:
            return set()
        above = enumerate(self.topic.partitions[partition][commit.position :], commit.position)
        done = set(range(commit.position))
        for offset, message in above:
            if message.kind == "filtered" and offset < state.end:
                assert state.is_done(offset, message.content), "rule 3: filtered, and yet to be done"
            if message.kind != "gap" and state.is_done(offset, message.content):
                done.add(offset)
        return done


# ---------------------------------------------------------------- one life of the program


@dataclass
class Task:
    contents: tuple[bytes, ...]
    segments: frozenset[int]


class Consumer:
    """A consumer actor: polls its partitions, and has deliveries on their way to the committer."""

    def __init__(self, number: int, starts: Mapping[int, PartitionStart], topic: Topic) -> None:
        self.intake = Intake(number, starts, REGEX)
        self.topic = topic
        self.at = {p: start.position for p, start in starts.items()}
        self.sent: list[Delivery] = []

    def poll(self, partition: int) -> bool:
        """Take the next message of a partition; at its end, say so."""
        log, offset = self.topic.partitions[partition], self.at[partition]
        while offset < len(log) and log[offset].kind == "gap":
            offset += 1
        more = offset < len(log)
        if more:
            self.intake.message(partition, offset, log[offset].value, log[offset].timestamp_ms)
            offset += 1
        else:
            self.intake.reached(partition, len(log))
        self.at[partition] = offset
        return more


@dataclass
class Life:
    """Everything that dies with the program."""

    machine: Machine
    consumers: list[Consumer]
    known_at_start: frozenset[bytes]
    segments: dict[int, Segment] = field(default_factory=dict)
    released: set[int] = field(default_factory=set)
    tasks: dict[int, Task] = field(default_factory=dict)
    transaction: Commit | None = None
    planned_to: dict[int, int] = field(default_factory=dict)
    delivered_to: dict[int, int] = field(default_factory=dict)
    carried: set[bytes] = field(default_factory=set)
    held: set[bytes] = field(default_factory=set)
    reading: bool = True
    stopping: bool = False
    finished: bool = False


class World:
    """The program in its surroundings. Each method is a step; each step is judged."""

    def __init__(
        self,
        spec: TopicSpec,
        n_consumers: int = 2,
        limits: MachineLimits | None = None,
        *,
        room: bool = True,
        remembers: bool = False,
        hidden_partitions: int = 0,
    ) -> None:
        """Begin with a topic, and the program started on it.

        Args:
            spec: what is on the topic.
            n_consumers: how many consumers share the partitions.
            limits: what the machine keeps to.
            room: whether metadata always has room for all that is done (else outcomes may have to wait).
            remembers: whether each life is told what earlier ones have finished.
            hidden_partitions: how many partitions the topic gets later, by ``add_partition``.
        """
        self.topic = Topic(spec)
        self.broker = Broker(self.topic)
        self.n_consumers = n_consumers
        self.limits = limits or MachineLimits(
            commit_interval_s=1.0,
            patience=PatienceLimits(incomplete_after_s=None),
            pool=PoolLimits(max_crashes=2, timeout_s=50.0, batch=BatchLimits(max_files=4)),
        )
        self.broker.reprocess = self.limits.duplicates == "reprocess"
        self.room = room
        self.remembers = remembers
        self.n_partitions = max(1, spec.partitions - hidden_partitions)
        self.all_there = self.n_partitions == spec.partitions
        self.now_s = 0.0
        self.lives = 0
        self.life = self._start()

    # ------------------------------------------------ steps

    def poll(self, consumer: int, choice: int, messages: int = 1) -> None:
        if self.life.reading:
            chosen = self.life.consumers[consumer % self.n_consumers]
            for number in range(messages if chosen.at else 0):
                chosen.poll(sorted(chosen.at)[(choice + number) % len(chosen.at)])

    def flush(self, consumer: int) -> None:
        chosen = self.life.consumers[consumer % self.n_consumers]
        flush = chosen.intake.flush()
        if flush is None:
            return
        assert not flush.segments.keys() & (self.life.segments.keys() | self.life.released), "a segment id came twice"
        self.life.segments.update(flush.segments)
        chosen.sent.append(flush.delivery)

    def deliver(self, consumer: int) -> None:
        chosen = self.life.consumers[consumer % self.n_consumers]
        if chosen.sent:
            delivery = chosen.sent.pop(0)
            for partition, start, stop in delivery.ranges:
                assert start == self.life.delivered_to.get(partition, start)
                self.life.delivered_to[partition] = stop
            self.handle(Delivered(delivery))

    def begin(self, choice: int) -> None:
        if self.life.tasks:
            self.handle(TaskBegan(self._chosen_task(choice)))

    def answer(self, choice: int, *, fail: bool = False, seconds: float = 0.01) -> None:
        if self.life.tasks:
            number = self._chosen_task(choice)
            task = self.life.tasks.pop(number)
            answers = tuple(
                Failure("extractor_raised", "no") if fail else json.dumps({"v": content.hex()}).encode()
                for content in task.contents
            )
            self.handle(TaskFinished(number, answers, seconds))

    def crash_task(self, choice: int, cause: CrashCause = "worker_crashed") -> None:
        if self.life.tasks:
            number = self._chosen_task(choice)
            del self.life.tasks[number]
            self.handle(TaskCrashed(number, cause, "signal 11"))

    def end_transaction(self, *, committed: bool = True, too_large: int = -1) -> None:
        transaction = self.life.transaction
        if transaction is None:
            return
        self.life.transaction = None
        if committed:
            self._apply(transaction)
            self.handle(TransactionCommitted())
        else:
            refused = too_large % len(transaction.outcomes) if too_large >= 0 and transaction.outcomes else -1
            self.handle(TransactionAborted(refused))

    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        self.handle(Tick())

    def slots(self, slots: int) -> None:
        self.handle(SlotsChanged(slots))

    def add_partition(self) -> None:
        """Let the topic have one partition more, and the program hear of it."""
        partition = self.n_partitions
        if partition in self.topic.partitions:
            self.n_partitions += 1
            self.handle(PartitionsAdded({partition: 0}))

    def stop(self) -> None:
        self.life.stopping = True
        self.handle(StopRequested())

    def die(self, *, transaction_committed: bool) -> None:
        """Everything ends at once; an open transaction was committed, or not."""
        if self.life.transaction is not None and transaction_committed:
            self._apply(self.life.transaction)
        self.life = self._start()

    def drain(self) -> None:
        """Finish everything, in a new life if this one is stopping; what it holds is done by another one."""
        self._drain()
        if self.life.held:
            self.die(transaction_committed=False)
            self._drain()
            assert not self.life.held

    def _drain(self) -> None:
        if self.life.stopping:
            self.die(transaction_committed=False)
        while self.n_partitions < len(self.topic.partitions):
            self.add_partition()
        self.tick(self.limits.patience.incomplete_after_s or 0.0)
        self.slots(2)
        self.handle(DrainTo(self.topic.ends))
        rounds = 0
        while not self.life.finished:
            rounds += 1
            assert rounds < 1_000 + 10 * sum(self.topic.ends.values()), "the drain does not end"
            self._work_a_little()
        self._judge_drained()

    def _work_a_little(self) -> None:
        for number, consumer in enumerate(self.life.consumers):
            for choice in range(len(consumer.at)):
                self.poll(number, choice)
            self.flush(number)
            while consumer.sent and not self.life.finished:
                self.deliver(number)
        while self.life.tasks:
            self.answer(0)
        self.end_transaction()
        self.tick(1.0)

    # ------------------------------------------------ wiring

    def _start(self) -> Life:
        self.lives += 1
        starts = {p: self.broker.start(p) for p in range(self.n_partitions)}
        known = {
            self.topic.partitions[p][offset].content
            for p, start in starts.items()
            for offset in self.broker.done_offsets(p)
            if offset >= start.position
            and self.topic.partitions[p][offset].kind == "chunk"
            and decode_chunk(self.topic.partitions[p][offset].value).version.n_chunks == 1
        }
        finished = self.broker.finished if self.remembers else []
        known |= set(finished)
        done_lately = DoneLately(self.limits.versions_remembered, self.limits.duplicates, finished)
        machine = Machine(Ledger(TOPIC_ID, starts), ORIGIN, self.limits, self._moment(), done_lately)
        consumers = [
            Consumer(n, {p: s for p, s in starts.items() if p % self.n_consumers == n}, self.topic)
            for n in range(self.n_consumers)
        ]
        delivered_to = {p: start.position for p, start in starts.items()}
        return Life(machine, consumers, frozenset(known), delivered_to=delivered_to)

    def _moment(self) -> Moment:
        return Moment(self.now_s, EPOCH_S + self.now_s)

    def _chosen_task(self, choice: int) -> int:
        return sorted(self.life.tasks)[choice % len(self.life.tasks)]

    def handle(self, event: Event) -> None:
        if self.life.finished:
            return
        for instruction in self.life.machine.handle(event, self._moment()):
            self._carry_out(instruction)
        self._judge_counters()
        self._begin_anew_if_stopped()

    def _begin_anew_if_stopped(self) -> None:
        if self.life.finished and self.life.stopping:
            self.die(transaction_committed=False)

    def _carry_out(self, instruction: Instruction) -> None:
        life = self.life
        if isinstance(instruction, StartTask):
            life.tasks[instruction.task] = self._read_files(instruction)
        elif isinstance(instruction, CancelTask):
            assert instruction.task in life.tasks
        elif isinstance(instruction, ReleaseSegments):
            self._release(instruction.segments)
        elif isinstance(instruction, Commit):
            assert life.transaction is None, "two transactions at a time"
            life.transaction = instruction
            life.planned_to = dict(life.delivered_to)
        elif isinstance(instruction, SetReading):
            assert instruction.reading != life.reading
            life.reading = instruction.reading
        elif isinstance(instruction, ReadPartitions):
            for partition, start in instruction.starts.items():
                consumer = life.consumers[partition % self.n_consumers]
                consumer.intake.add({partition: start})
                consumer.at[partition] = start
        elif isinstance(instruction, Finish):
            life.finished = True
        else:
            assert isinstance(instruction, Announce)
            life.held.update(o.version.id for o in instruction.outcomes if o.kind == "held" and o.version)

    def _read_files(self, start: StartTask) -> Task:
        """Read the files as a worker does: the first of each chunk counts."""
        for work in start.files:
            chunks: dict[int, tuple[int, bytes]] = {}
            for part in work.slices:
                segment = self.life.segments[part.segment]
                for entry in segment.table.read(part.first, part.n_entries)[1]:
                    data = segment.buffers[entry.buffer][entry.start : entry.start + entry.size]
                    chunks.setdefault(entry.chunk, (entry.write_offset, data))
            joined = b"".join(data for _, data in sorted(chunks.values()))
            assert joined == self.topic.contents[work.version.id], "rule 4: the bytes are not the file's"
        segments = frozenset(part.segment for work in start.files for part in work.slices)
        return Task(tuple(work.version.id for work in start.files), segments)

    def _release(self, segments: Sequence[int]) -> None:
        for segment in segments:
            assert segment not in self.life.released, "rule 4: released twice"
            assert all(segment not in task.segments for task in self.life.tasks.values()), "rule 4: in use"
            del self.life.segments[segment]
            self.life.released.add(segment)

    def _apply(self, transaction: Commit) -> None:
        """Commit a transaction on the broker, and judge it."""
        life = self.life
        final = [self._content_of(outcome) for outcome in transaction.outcomes if outcome.final]
        given_up = [place for outcome in transaction.outcomes if not outcome.final for place in self._give_up(outcome)]
        for content in final:
            self._judge_outcome(content)
            life.carried.add(content)
        self.broker.commit(transaction.commits, final)
        known = life.carried | life.known_at_start if self.room else set(final)
        if self.limits.duplicates == "reprocess":
            known = set()
        for partition, offset in [*given_up, *(place for content in known for place in self.topic.places[content])]:
            assert offset >= life.planned_to.get(partition, 0) or offset in self.broker.described[partition], (
                "rule 3: done, and not described so"
            )

    def _judge_outcome(self, content: bytes) -> None:
        before, life = self.broker.outcomes[content], self.life
        if self.limits.duplicates == "reprocess":
            assert before < self.topic.copies(content), "rule 8: more outcomes than copies"
            return
        assert content not in life.carried, "rule 1: two outcomes in one life"
        known = content in life.known_at_start or content not in self.topic.contents
        assert not before or not (known or self.remembers), "rule 1: a second outcome of what was known to be done"

    def _give_up(self, outcome: Outcome) -> list[tuple[int, int]]:
        """Judge the dead letter of an incomplete file; return the offsets that it names (rule 6)."""
        record: dict[str, Any] = json.loads(outcome.value)
        assert outcome.version is not None
        content, n_chunks = outcome.version.id, outcome.version.n_chunks
        places = [
            (int(partition), offset)
            for partition, ranges in record["source"]["offsets"].items()
            for first, last in ranges
            for offset in range(first, last + 1)
            if record["source"]["exact"] or self.topic.message((int(partition), offset)).content == content
        ]
        named = [self.topic.message(place) for place in places]
        assert {message.content for message in named} == {content}
        if record["reason"] == "result_too_large" or "missing" not in record["file"]:
            self.broker.given_up.update(dict.fromkeys(places, content))
            return []  # the small letter in the place of one that the broker did not take
        missing = {index for first, last in record["file"]["missing"] for index in range(first, last + 1)}
        assert missing, "rule 6: given up and whole"
        assert {message.index for message in named} == set(range(1, n_chunks + 1)) - missing
        after_s = self.limits.patience.incomplete_after_s
        assert after_s is not None
        # What is left of the repeats of a file is a file that stays incomplete, if they are not known for repeats.
        forgotten = self.broker.outcomes[content] and (not self.remembers or self.broker.reprocess)
        if self.topic.lasts_s < after_s and self.all_there and not forgotten:
            assert content in self.topic.incomplete, "rule 6: a file that is there was given up"
        self.broker.given_up.update(dict.fromkeys(places, content))
        return places

    def _content_of(self, outcome: Outcome) -> bytes:
        """Which version or poison an outcome speaks of."""
        record: dict[str, Any] = json.loads(outcome.value)
        if outcome.kind == "result":
            return bytes.fromhex(str(record["v"]))
        first_range: dict[int, int] = {int(p): ranges[0][0] for p, ranges in record["source"]["offsets"].items()}
        contents = {self.topic.partitions[p][offset].content for p, offset in first_range.items()}
        assert len(contents) == 1, "a dead letter names offsets of several files"
        return contents.pop()

    # ------------------------------------------------ more of the judge

    def _judge_counters(self) -> None:
        progress = self.life.machine.progress()
        running = sum(len(task.contents) for task in self.life.tasks.values())
        assert progress.files_in_flight == running
        assert min(progress.files_incomplete, progress.files_waiting, progress.outcomes_pending) >= 0

    def _judge_drained(self) -> None:
        done = {content for content, count in self.broker.outcomes.items() if count}
        given_up = set(self.broker.given_up.values())
        assert done <= self.topic.wanted
        if self.room or not self.topic.incomplete:
            wanted = self.topic.wanted - given_up - self.life.held
            assert done >= wanted, "rule 5: something whole has no outcome"
        assert self.life.held <= self.topic.wanted - done
        # What is held belongs to files that are incomplete; a repeat that a restart made unknown may be one as well.
        open_files = self.life.machine.progress().files_incomplete
        assert bool(self.life.segments) <= bool(open_files)
        if self.limits.patience.incomplete_after_s is not None and self.limits.failures == "dead_letter" and self.room:
            assert not open_files, "rule 5: nobody gave these up"
            for partition, end in self.topic.ends.items():
                assert self.broker.committed[partition].position == end, "rule 5: the position is not at the end"
            return
        if self.life.held or self.limits.duplicates == "reprocess":
            return
        if self.lives == 1 and self.limits.duplicates == "skip":
            assert open_files == len(self.topic.incomplete)
        for partition, end in self.topic.ends.items():
            position = self.broker.committed[partition].position
            holders = {m.content for m in self.topic.partitions[partition][position : position + 1]}
            assert position == end or self.lives > 1 or not self.room or holders <= self.topic.incomplete


# ---------------------------------------------------------------- walks


def random_spec(random: Random, n_files: int) -> TopicSpec:
    """Make up a topic."""
    files = [
        FileSpec(
            path=random.randrange(n_files),
            content=random.randrange(2),
            n_chunks=random.choice([1, 1, 1, 1, 2, 2, 3, 5, 12, 60]),
            copies=random.choice([1, 1, 1, 1, 1, 2, 2, 3]),
            repeated_chunks=random.choice([0, 0, 0, 1, 4]),
            missing_chunk=random.random() < 0.1,
            filtered=random.random() < 0.1,
            big=random.random() < 0.05,
        )
        for _ in range(n_files)
    ]
    return TopicSpec(
        files,
        partitions=random.choice([1, 2, 3, 4]),
        poison=random.randrange(4),
        gaps=random.randrange(6),
        seed=random.randrange(2**32),
        shuffled=random.choice([0.0, 0.02, 0.2, 1.0]),
    )


STEPS = {
    "poll": 30,
    "flush": 12,
    "deliver": 20,
    "begin": 3,
    "answer": 15,
    "crash_task": 2,
    "end_transaction": 10,
    "tick": 10,
    "slots": 1,
    "add_partition": 0.5,
    "stop": 0.1,
    "die": 1,
}
"""How often each step is taken on a walk."""


def walk(world: World, random: Random, steps: int) -> None:
    """Take steps at random, then drain."""
    for kind in random.choices(list(STEPS), list(STEPS.values()), k=steps):
        step(world, kind, random)
    world.drain()


def step(world: World, kind: str, random: Random) -> None:
    """Take one step, with what it leaves open chosen at random."""
    choice = random.randrange(8)
    if kind == "poll":
        world.poll(choice, random.randrange(8), random.choice([1, 3, 20]))
    elif kind == "answer":
        world.answer(choice, fail=random.random() < 0.2, seconds=random.choice([0.001, 1.0]))
    elif kind == "crash_task":
        world.crash_task(choice, random.choice(CRASH_CAUSES))
    elif kind == "end_transaction":
        world.end_transaction(committed=random.random() < 0.8, too_large=random.choice([-1, -1, choice]))
    elif kind == "tick":
        world.tick(random.choice([0.3, 1.0, 30.0, 30 * 3600.0]))
    elif kind == "slots":
        world.slots(random.randrange(4))
    elif kind == "add_partition":
        world.add_partition()
    elif kind == "stop":
        world.stop()
    elif kind == "die":
        world.die(transaction_committed=random.random() < 0.5)
    else:
        getattr(world, kind)(choice)
