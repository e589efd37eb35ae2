"""Interleavings of everything with everything, judged after each step; the rules are in the head of `simulation`."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ray_reproducer.core.batching import BatchLimits
from ray_reproducer.core.limits import MachineLimits, PatienceLimits, PoolLimits
from tests.core.simulation import CRASH_CAUSES, FileSpec, TopicSpec, World, random_spec, step, walk
from tests.core.test_ledger import limit_metadata

ROOM_FOR_LITTLE_CHARS = 48
"""A commit's text takes 40 characters when it has nothing to say: this leaves five bytes."""
ROOM_FOR_ONE_ID_CHARS = 72
ANY = st.integers(0, 7)

file_specs = st.builds(
    FileSpec,
    path=st.integers(0, 5),
    content=st.integers(0, 1),
    n_chunks=st.sampled_from([1, 1, 2, 3, 12]),
    copies=st.sampled_from([1, 1, 2]),
    repeated_chunks=st.sampled_from([0, 0, 2]),
    missing_chunk=st.sampled_from([False, False, False, True]),
    filtered=st.sampled_from([False, False, False, True]),
)
topic_specs = st.builds(
    TopicSpec,
    files=st.lists(file_specs, min_size=1, max_size=8),
    partitions=st.integers(1, 3),
    poison=st.integers(0, 2),
    gaps=st.integers(0, 3),
    seed=st.integers(0, 1_000),
    shuffled=st.sampled_from([0.0, 0.2, 1.0]),
    lasts_s=st.sampled_from([0.0, 50.0, 1_000.0]),
)
PATIENCE = PatienceLimits(incomplete_after_s=100.0, grace_s=1.0, look_interval_s=1.0)
FOR_EVER = PatienceLimits(incomplete_after_s=None)
MODES: dict[str, dict[str, Any]] = {
    "files are given up": {"patience": PATIENCE},
    "failures are held": {"failures": "hold"},
    "failures are held, and patience changes nothing": {"failures": "hold", "patience": PATIENCE},
    "repeats are files": {"duplicates": "reprocess"},
    "repeats are files, and files are given up": {"duplicates": "reprocess", "patience": PATIENCE},
}
"""Limits of the machine that are not the usual ones."""


class Program(RuleBasedStateMachine):
    """The program in its surroundings, driven by Hypothesis."""

    world: World

    @initialize(spec=topic_specs, consumers=st.integers(1, 3))
    def start(self, spec: TopicSpec, consumers: int) -> None:
        self.world = World(spec, consumers)
        self.world.slots(2)

    @rule(consumer=ANY, choice=ANY, messages=st.sampled_from([1, 4, 50]))
    def poll(self, consumer: int, choice: int, messages: int) -> None:
        self.world.poll(consumer, choice, messages)

    @rule(consumer=ANY)
    def flush(self, consumer: int) -> None:
        self.world.flush(consumer)

    @rule(consumer=ANY)
    def deliver(self, consumer: int) -> None:
        self.world.deliver(consumer)

    @rule(consumer=ANY, choice=ANY)
    def poll_flush_and_deliver(self, consumer: int, choice: int) -> None:
        self.world.poll(consumer, choice, 20)
        self.world.flush(consumer)
        self.world.deliver(consumer)

    @rule(choice=ANY)
    def begin(self, choice: int) -> None:
        self.world.begin(choice)

    @rule(choice=ANY, fail=st.booleans())
    def answer(self, choice: int, fail: bool) -> None:
        self.world.answer(choice, fail=fail)

    @rule(choice=ANY, cause=st.sampled_from(CRASH_CAUSES))
    def crash_task(self, choice: int, cause: str) -> None:
        self.world.crash_task(choice, next(known for known in CRASH_CAUSES if known == cause))

    @rule()
    def commit(self) -> None:
        self.world.end_transaction()

    @rule(too_large=st.integers(-1, 3))
    def abort(self, too_large: int) -> None:
        self.world.end_transaction(committed=False, too_large=too_large)

    @rule(seconds=st.sampled_from([0.5, 1.0, 100.0, 30 * 3600.0]))
    def tick(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(slots=st.integers(0, 3))
    def slots(self, slots: int) -> None:
        self.world.slots(slots)

    @rule(transaction_committed=st.booleans())
    def die(self, transaction_committed: bool) -> None:
        self.world.die(transaction_committed=transaction_committed)

    @rule()
    def stop(self) -> None:
        self.world.stop()

    @rule()
    def add_partition(self) -> None:
        self.world.add_partition()

    @invariant()
    def everything_is_told(self) -> None:
        machine = self.world.life.machine
        assert len(machine._lifecycle.states()) >= machine.progress().outcomes_pending

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


class ProgramInAllItsModes(Program):
    """The same with limits that are not the usual ones."""

    @initialize(
        spec=topic_specs, consumers=st.integers(1, 3), mode=st.sampled_from(sorted(MODES)), remembers=st.booleans()
    )
    def start(self, spec: TopicSpec, consumers: int, mode: str, remembers: bool) -> None:
        self.world = World(spec, consumers, limits(Random(spec.seed), **MODES[mode]), remembers=remembers)
        self.world.slots(2)


class ProgramOnATopicThatGrows(Program):
    """The same with partitions that are added while it runs, or while it is dead."""

    @initialize(spec=topic_specs, consumers=st.integers(1, 3), hidden=st.integers(1, 2))
    def start(self, spec: TopicSpec, consumers: int, hidden: int) -> None:
        self.world = World(spec, consumers, hidden_partitions=hidden)
        self.world.slots(2)


TestProgram = Program.TestCase
TestProgramInAllItsModes = ProgramInAllItsModes.TestCase
TestProgramOnATopicThatGrows = ProgramOnATopicThatGrows.TestCase
for test in (TestProgram, TestProgramInAllItsModes, TestProgramOnATopicThatGrows):
    test.settings = settings(stateful_step_count=60)


def limits(random: Random, **mode: Any) -> MachineLimits:
    return MachineLimits(
        **{"patience": FOR_EVER, **mode},
        commit_interval_s=1.0,
        max_records=random.choice([2, 10_000]),
        max_waiting_files=random.choice([3, 1_000]),
        pool=PoolLimits(max_crashes=2, timeout_s=50.0, batch=BatchLimits(max_files=4)),
    )


def take_a_walk(seed: int, *, room: bool, n_files: tuple[int, ...] = (3, 8, 25)) -> World:
    random = Random(seed)
    world = World(random_spec(random, random.choice(n_files)), random.choice([1, 2, 3]), limits(random), room=room)
    walk(world, random, steps=random.choice([50, 400]))
    return world


@pytest.mark.parametrize("seed", range(50))
def test_nothing_is_lost_and_nothing_comes_twice(seed: int) -> None:
    take_a_walk(seed, room=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(10))
def test_the_same_in_each_mode(seed: int, mode: str) -> None:
    random = Random(seed)
    spec = replace(random_spec(random, random.choice([3, 8, 25])), lasts_s=random.choice([0.0, 50.0, 1_000.0]))
    world = World(spec, random.choice([1, 2, 3]), limits(random, **MODES[mode]), remembers=seed % 2 == 0)
    walk(world, random, steps=random.choice([50, 400]))


@pytest.mark.parametrize("seed", range(20))
def test_the_same_while_partitions_are_added_and_files_given_up(seed: int) -> None:
    random = Random(seed)
    spec = replace(random_spec(random, random.choice([3, 8, 25])), lasts_s=random.choice([0.0, 50.0, 1_000.0]))
    machine_limits = limits(random, patience=PATIENCE)
    hidden = random.choice([1, 2])
    world = World(spec, random.choice([1, 2, 3]), machine_limits, remembers=True, hidden_partitions=hidden)
    walk(world, random, steps=random.choice([50, 400]))


@pytest.mark.parametrize("seed", range(10))
def test_the_same_while_partitions_are_added(seed: int) -> None:
    random = Random(seed)
    spec = random_spec(random, random.choice([8, 25]))
    world = World(spec, random.choice([1, 2, 3]), limits(random), hidden_partitions=random.choice([1, 2]))
    walk(world, random, steps=random.choice([50, 400]))


@pytest.mark.parametrize("chars", [ROOM_FOR_LITTLE_CHARS, ROOM_FOR_ONE_ID_CHARS])
@pytest.mark.parametrize("seed", range(20))
def test_the_same_when_outcomes_have_to_wait_for_room(monkeypatch: pytest.MonkeyPatch, seed: int, chars: int) -> None:
    limit_metadata(monkeypatch, chars)
    take_a_walk(seed, room=False)


def test_many_lives_and_one_answer_each() -> None:
    """Deaths at every moment of a drain: each time a little further."""
    random = Random(7)
    files = [FileSpec(path=n, n_chunks=1 + n % 4, copies=1 + n % 2) for n in range(20)]
    world = World(TopicSpec(files, partitions=3, poison=2, gaps=3, shuffled=0.3))
    for life in range(60):
        world.slots(3)
        for kind in ["poll", "flush", "deliver"] * 8 + ["answer"] * life + ["tick", "end_transaction"] * (life // 3):
            step(world, kind, random)
        world.die(transaction_committed=life % 2 == 0)
    world.drain()
    assert world.lives > 60
