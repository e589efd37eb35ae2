"""Which offsets are done, and what a commit may therefore say: the page for a reviewer who doubts exactly-once."""

from __future__ import annotations

import functools
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core import commit_metadata
from ray_reproducer.core import ledger as ledger_module
from ray_reproducer.core.commit_metadata import CommittedState, decode
from ray_reproducer.core.errors import IllegalEventError
from ray_reproducer.core.ledger import CommitPlan, Ledger, PartitionCommit, PartitionStart, poison_id

TOPIC_ID = bytes(range(16))
V, W, X = (letter * 12 for letter in (b"v", b"w", b"x"))


def fresh(*partitions: int) -> Ledger:
    return Ledger(TOPIC_ID, {p: PartitionStart(0) for p in partitions or (0,)})


def described(commit: PartitionCommit) -> CommittedState:
    return decode(commit.metadata, commit.position)


def limit_metadata(monkeypatch: pytest.MonkeyPatch, chars: int) -> None:
    limited = functools.partial(commit_metadata.encode, limit_chars=chars)
    monkeypatch.setattr(ledger_module, "commit_metadata", SimpleNamespace(encode=limited))


def numbered(number: int) -> bytes:
    return number.to_bytes(12, "big")


# ---------------------------------------------------------------- rule 1


def test_rule_1_an_offset_is_done_when_its_outcome_is_committed() -> None:
    ledger = fresh()
    ledger.deliver(0, 0, 2)
    ledger.open(V, 0, 0)
    ledger.open(W, 0, 1)
    plan = ledger.plan([V])
    assert ledger.position(0) == 0, "planned is not done"
    ledger.committed(plan)
    assert ledger.position(0) == 1


def test_rule_1_an_offset_that_nobody_opened_was_filtered_or_is_a_gap_and_is_done() -> None:
    ledger = fresh()
    ledger.deliver(0, 0, 10)
    assert ledger.position(0) == 10
    ledger.deliver(0, 10, 20)
    ledger.open(V, 0, 14)
    assert ledger.position(0) == 14


def test_rule_1_a_version_is_done_on_every_partition_that_holds_a_chunk_of_it() -> None:
    ledger = fresh(0, 1)
    for partition in (0, 1):
        ledger.deliver(partition, 0, 3)
        ledger.open(V, partition, 1)
    assert ledger.offsets(V) == {0: [1], 1: [1]}
    ledger.committed(ledger.plan([V]))
    assert (ledger.position(0), ledger.position(1)) == (3, 3)


def test_rule_1_a_repeat_of_a_version_that_is_done_is_done() -> None:
    ledger = fresh()
    ledger.deliver(0, 0, 4)
    ledger.open(W, 0, 0)
    ledger.repeat(0, 3)
    commit = ledger.plan([]).commits[0]
    assert commit.position == 0
    assert [o for o in range(6) if described(commit).is_done(o, V)] == [1, 2, 3]


def test_rule_1_a_repeat_that_comes_while_the_transaction_is_open_is_done_with_it() -> None:
    ledger = fresh()
    ledger.deliver(0, 0, 2)
    ledger.open(W, 0, 0)
    ledger.open(V, 0, 1)
    plan = ledger.plan([V])
    ledger.deliver(0, 2, 6)
    ledger.open(V, 0, 4)
    assert described(plan.commits[0]).end == 2
    ledger.committed(plan)
    state = described(ledger.plan([]).commits[0])
    assert (state.end, state.is_done(4, V), state.is_done(1, V)) == (5, True, True)


def test_rule_1_a_version_that_proves_to_be_done_is_done_with_all_its_offsets() -> None:
    ledger = fresh(0, 1)
    for partition in (0, 1):
        ledger.deliver(partition, 0, 4)
    for partition, offset in [(0, 0), (0, 3), (1, 2)]:
        ledger.open(V, partition, offset)
    ledger.close(V)
    assert (ledger.position(0), ledger.position(1)) == (4, 4)


@pytest.mark.parametrize("in_order", [True, False])
def test_rule_1_chunks_may_be_opened_in_any_order(in_order: bool) -> None:
    ledger = fresh()
    ledger.deliver(0, 0, 10)
    for offset in sorted([2, 5, 8], reverse=not in_order):
        ledger.open(V, 0, offset)
    assert ledger.offsets(V) == {0: [2, 5, 8]}
    assert ledger.position(0) == 2


# ---------------------------------------------------------------- rule 2


def test_rule_2_position_and_metadata_come_from_one_snapshot() -> None:
    ledger = fresh()
    ledger.deliver(0, 0, 3)
    for offset, version_id in enumerate((V, W, X)):
        ledger.open(version_id, 0, offset)
    plan = ledger.plan([V, X])
    # What happens after the plan does not change what it says.
    ledger.deliver(0, 3, 9)
    ledger.open(W, 0, 7)
    assert plan.carried == (V, X)
    commit = plan.commits[0]
    assert commit.position == 1
    assert [described(commit).is_done(o, v) for o, v in [(1, W), (2, X), (3, V), (7, W)]] == [False, True, False, False]


def test_rule_2_position_is_the_lowest_offset_not_done() -> None:
    ledger = fresh()
    ledger.deliver(0, 0, 6)
    for offset, version_id in [(0, V), (3, V), (4, W)]:
        ledger.open(version_id, 0, offset)
    assert ledger.plan([W]).commits[0].position == 0
    assert ledger.plan([V]).commits[0].position == 4
    assert ledger.plan([V, W]).commits[0].position == 6


def test_rule_2_a_plan_changes_nothing() -> None:
    ledger = fresh()
    ledger.deliver(0, 0, 3)
    for offset, version_id in enumerate((V, W, X)):
        ledger.open(version_id, 0, offset)
    plans = [ledger.plan([V, X]) for _ in range(3)]
    assert plans[0] == plans[1] == plans[2]
    assert ledger.offsets(V) == {0: [0]}


def test_rule_2_while_a_version_is_open_none_of_its_offsets_is_described_as_done() -> None:
    """The metadata may list an open version by id instead of by its offsets.

    Repeats that came while the transaction was open were once still *undone* after it, and could be listed: then the
    version's offsets that the same metadata had to call done were not, and a restart gave the file a second outcome.
    """
    ledger = fresh()
    ledger.deliver(0, 0, 3)
    ledger.open(W, 0, 0)
    ledger.open(V, 0, 1)
    plan = ledger.plan([V])
    ledger.deliver(0, 3, 50_000)
    for repeat in range(400):
        ledger.open(V, 0, 3 + 100 * repeat + repeat * repeat % 97)
    ledger.open(X, 0, 49_999)
    ledger.committed(plan)
    state = described(ledger.plan([X]).commits[0])
    assert V not in state.open_versions
    assert state.is_done(1, V)
    assert state.is_done(3, V)


# ---------------------------------------------------------------- rule 3


def many_holes(ledger: Ledger, files: int) -> dict[bytes, int]:
    """Of each two offsets, one is whole and one is not, at random: that can't be said in few characters."""
    ledger.deliver(0, 0, 2 * files + 1)
    ledger.open(W, 0, 0)
    random = Random(1)
    whole: dict[bytes, int] = {}
    for number in range(files):
        pair = [2 * number + 1, 2 * number + 2]
        random.shuffle(pair)
        ledger.open(numbered(number), 0, pair[0])
        ledger.open(numbered(files + number), 0, pair[1])
        whole[numbered(number)] = pair[0]
    return whole


def test_rule_3_an_outcome_that_does_not_fit_waits_and_the_others_go(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_metadata(monkeypatch, 60)
    ledger = fresh()
    whole = many_holes(ledger, 200)
    plan = ledger.plan(whole)
    assert 0 < len(plan.carried) < len(whole)
    assert plan.carried == tuple(whole)[: len(plan.carried)], "those with the lowest offsets go first"
    assert len(plan.commits[0].metadata) <= 60
    state = described(plan.commits[0])
    for version_id, offset in whole.items():
        assert state.is_done(offset, version_id) == (version_id in plan.carried)


def test_rule_3_those_with_the_lowest_offsets_go_whatever_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_metadata(monkeypatch, 60)
    ledger = fresh()
    ledger.deliver(0, 0, 400)
    random = Random(1)
    offsets = sorted(random.sample(range(1, 400), 200))
    ledger.open(W, 0, 0)
    for offset in range(1, 400):  # the higher the offset, the lower the id
        ledger.open(numbered(1_000 - offset), 0, offset)
    plan = ledger.plan(numbered(1_000 - offset) for offset in offsets)
    lowest = {numbered(1_000 - offset) for offset in offsets[: len(plan.carried)]}
    assert 0 < len(plan.carried) < len(offsets)
    assert set(plan.carried) == lowest


def test_rule_3_what_waited_goes_when_the_position_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_metadata(monkeypatch, 60)
    ledger = fresh()
    whole = many_holes(ledger, 200)
    waiting = list(whole)
    while (plan := ledger.plan(waiting)).carried:
        ledger.committed(plan)
        waiting = [version_id for version_id in waiting if version_id not in plan.carried]
    assert waiting
    everything = [*waiting, W, *(numbered(200 + number) for number in range(200))]
    assert set(ledger.plan(everything).carried) == set(everything)


def test_rule_3_an_outcome_must_fit_on_every_partition_that_holds_a_chunk_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit_metadata(monkeypatch, 60)
    ledger = fresh(0, 1)
    ledger.deliver(1, 0, 2)
    ledger.open(X, 1, 0)
    whole = many_holes(ledger, 200)
    last = list(whole)[-1]
    ledger.open(last, 1, 1)
    plan = ledger.plan([last, *whole, X])
    assert X in plan.carried
    assert last not in plan.carried
    assert plan.commits[1].position == 1, "partition 1 is not told that it was done"


def test_rule_3_carrying_nothing_always_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_metadata(monkeypatch, 60)
    ledger = fresh()
    whole = many_holes(ledger, 200)
    ledger.committed(ledger.plan(whole))
    assert ledger.plan([], refresh=True).commits.keys() == {0}


def test_rule_3_a_repeat_that_does_not_fit_is_not_said_and_holds_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = fresh()
    limit_metadata(monkeypatch, 60)
    ledger.deliver(0, 0, 2_000)
    ledger.open(W, 0, 0)
    ledger.open(X, 0, 1)
    for number in Random(1).sample(range(2, 1_000), 300):
        ledger.open(numbered(number), 0, number)
    ledger.repeat(0, 1_500)
    plan = ledger.plan([X])
    assert plan.carried == (X,)
    assert described(plan.commits[0]).end == 2
    ledger.committed(plan)
    assert ledger.plan([W]).carried == (W,)


# ---------------------------------------------------------------- rule 4


def test_rule_4_a_position_never_moves_back() -> None:
    ledger = fresh()
    ledger.deliver(0, 0, 5)
    ledger.committed(ledger.plan([]))
    earlier = CommitPlan((), {0: PartitionCommit(4, "")}, {0: 4})
    with pytest.raises(IllegalEventError, match="partition 0"):
        ledger.committed(earlier)
    assert ledger.partitions[0].committed is not None
    assert ledger.partitions[0].committed.position == 5
    assert ledger.partitions[0].end == 5


# ---------------------------------------------------------------- rule 5


def restored(end: int, position: int = 0) -> PartitionStart:
    return PartitionStart(position, CommittedState(TOPIC_ID, frozenset(), ((position, position + 1),), end))


def test_rule_5_nothing_is_committed_until_all_that_was_described_has_been_read_again() -> None:
    ledger = Ledger(TOPIC_ID, {0: PartitionStart(0), 1: restored(end=8)})
    ledger.deliver(0, 0, 2)
    ledger.open(V, 0, 1)
    ledger.deliver(1, 0, 7)
    assert ledger.plan([V], refresh=True) == CommitPlan()
    ledger.deliver(1, 7, 8)
    assert ledger.plan([V]).carried == (V,)


def test_rule_5_the_first_commit_of_a_life_says_all_that_the_last_one_of_the_life_before_said() -> None:
    ledger = Ledger(TOPIC_ID, {0: restored(end=8)})
    ledger.deliver(0, 0, 20)
    ledger.open(V, 0, 0)
    state = described(ledger.plan([]).commits[0])
    assert [o for o in range(20) if state.is_done(o, W)] == list(range(1, 8))


# ---------------------------------------------------------------- rule 6


def test_rule_6_what_stays_the_same_is_committed_again_only_on_refresh() -> None:
    ledger = fresh(0, 1)
    first = ledger.plan([])
    assert first.commits.keys() == {0, 1}, "the first commit of a run says where it began"
    ledger.committed(first)
    assert ledger.plan([]).commits == {}
    ledger.deliver(1, 0, 5)
    assert ledger.plan([]).commits.keys() == {1}
    assert ledger.plan([], refresh=True).commits.keys() == {0, 1}


# ---------------------------------------------------------------- illegal events


@pytest.mark.parametrize(("start", "stop"), [(1, 3), (0, -1)])
def test_illegal_deliveries_raise_and_change_nothing(start: int, stop: int) -> None:
    ledger = fresh()
    with pytest.raises(IllegalEventError, match=f"offsets {start} to {stop} were delivered; expected from 0"):
        ledger.deliver(0, start, stop)
    assert ledger.position(0) == 0
    ledger.deliver(0, 0, 3)


def test_a_partition_is_added_once() -> None:
    ledger = fresh()
    ledger.add(1, 5)
    assert ledger.position(1) == 5
    with pytest.raises(IllegalEventError, match="partition 1 is not new"):
        ledger.add(1, 5)


def test_nothing_may_be_delivered() -> None:
    ledger = fresh()
    ledger.deliver(0, 0, 0)
    assert ledger.position(0) == 0


def test_offsets_are_delivered_once() -> None:
    ledger = fresh()
    ledger.deliver(0, 0, 3)
    with pytest.raises(IllegalEventError):
        ledger.deliver(0, 2, 5)
    assert ledger.position(0) == 3


# ---------------------------------------------------------------- the small parts


def test_a_poison_id_is_made_of_partition_and_offset() -> None:
    ids = {poison_id(p, o) for p in range(12) for o in range(120)}
    assert len(ids) == 12 * 120
    assert {len(i) for i in ids} == {12}


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 11), st.booleans(), st.sampled_from(["chunk", "gap", "commit"])), max_size=80
    )
)
def test_what_a_commit_says_is_the_done_set(steps: list[tuple[int, bool, str]]) -> None:
    """One partition against a model that is nothing but sets."""
    ledger = fresh()
    holds: dict[int, bytes] = {}
    done: set[bytes] = set()
    open_now: set[bytes] = set()
    for at, (number, choice, what) in enumerate(steps):
        ledger.deliver(0, at, at + 1)
        version_id = numbered(number)
        if what == "chunk":
            holds[at] = version_id
            if version_id in done:
                ledger.repeat(0, at)
            else:
                ledger.open(version_id, 0, at)
                open_now.add(version_id)
        elif what == "commit":
            carried = sorted(v for v in open_now if (v[-1] % 2 == 0) == choice)
            plan = ledger.plan(carried, refresh=True)
            assert plan.carried == tuple(carried)
            ledger.committed(plan)
            done.update(carried)
            open_now.difference_update(carried)
            commit, state = plan.commits[0], described(plan.commits[0])
            undone = [o for o, v in holds.items() if v not in done]
            assert commit.position == min(undone, default=at + 1)
            for offset, holder in holds.items():
                if offset >= commit.position:
                    assert state.is_done(offset, holder) == (holder in done)
