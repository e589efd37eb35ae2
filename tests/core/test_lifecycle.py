"""Which state each file version is in: the table in the module's head, and nothing else."""

from __future__ import annotations

import itertools
import re

import pytest

from ray_reproducer.core import lifecycle
from ray_reproducer.core.errors import IllegalEventError
from ray_reproducer.core.lifecycle import TRANSITIONS, Lifecycle, State
from ray_reproducer.core.limits import Moment

V = b"v" * 12
NOW = Moment(3.0, 1_700_000_000.0)
WHATS = sorted({what for _, what in TRANSITIONS})
STATES: list[State | None] = [None, *State]

WAYS: dict[State | None, list[str]] = {
    None: [],
    State.ASSEMBLING: ["chunk"],
    State.WAITING: ["chunk", "whole"],
    State.RUNNING: ["chunk", "whole", "start"],
    State.UNWANTED: ["chunk", "whole", "start", "done before"],
    State.READY: ["poison"],
    State.COMMITTING: ["poison", "plan"],
    State.HELD: ["chunk", "whole", "start", "hold"],
}
"""How a version gets into each state."""


def in_state(state: State | None) -> Lifecycle:
    made = Lifecycle(story_length=100)
    made.begin_event(NOW)
    for what in WAYS[state]:
        made.move(V, what)
    assert made.state(V) is state
    return made


@pytest.mark.parametrize(("before", "after"), TRANSITIONS.items())
def test_every_transition_of_the_table_leads_where_it_says(
    before: tuple[State | None, str], after: State | None
) -> None:
    state, what = before
    made = in_state(state)
    made.begin_event(Moment(4.0, 1_700_000_001.0))
    made.move(V, what, ("detail",), "a.csv")
    assert made.state(V) is after
    assert made.states() == ({V: after} if after else {})
    last = made.story.of_path("a.csv")[-1]
    assert last == (2, 4.0, V, "a.csv", what, ("detail",))


@pytest.mark.parametrize(
    ("state", "what"), [pair for pair in itertools.product(STATES, [*WHATS, "nonsense"]) if pair not in TRANSITIONS]
)
def test_everything_else_raises_and_changes_nothing(state: State | None, what: str) -> None:
    made = in_state(state)
    told = made.story.of_path("")
    with pytest.raises(IllegalEventError, match=re.escape(what)):
        made.move(V, what)
    assert made.state(V) is state
    assert made.story.of_path("") == told


def test_an_error_tells_what_went_before() -> None:
    made = in_state(State.RUNNING)
    made.begin_event(NOW)
    with pytest.raises(
        IllegalEventError, match=r"plan in state running: .* a\.csv; event 2, after: 1 chunk, 1 whole, 1 start"
    ):
        made.move(V, "plan", (), "a.csv")
    with pytest.raises(IllegalEventError, match="event 2, after: nothing"):
        made.move(b"w" * 12, "plan")


def test_the_table_in_the_head_is_the_table_in_the_code() -> None:
    assert lifecycle.__doc__ is not None
    names = {"(none)": None, **{state.name: state for state in State}}
    rows: dict[tuple[State | None, str], State | None] = {}
    for line in lifecycle.__doc__.splitlines():
        cells = re.split(r"\s{2,}", line)
        if len(cells) == 3 and cells[0] in names:
            rows[names[cells[0]], cells[1]] = names[re.split(r"[:,]", cells[2])[0]]
    assert rows == TRANSITIONS


def test_each_version_has_its_own_state() -> None:
    made = in_state(State.RUNNING)
    made.move(b"w" * 12, "poison")
    assert made.states() == {V: State.RUNNING, b"w" * 12: State.READY}


def test_what_leaves_the_state_as_it_is_can_be_told_too() -> None:
    made = in_state(State.RUNNING)
    made.tell(V, "repeat", ((0, 7),), "a.csv")
    assert made.state(V) is State.RUNNING
    assert made.story.of_offset(0, 7)[-1].what == "repeat"
