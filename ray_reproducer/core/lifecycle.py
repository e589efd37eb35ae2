"""Which state each file version is in, and which transitions there are.

==========  ==============  ===========================================================================
state       what happens    next
==========  ==============  ===========================================================================
(none)      chunk           ASSEMBLING
(none)      poison          READY: a message that is no chunk has its dead letter at once
ASSEMBLING  chunk           ASSEMBLING
ASSEMBLING  whole           WAITING
ASSEMBLING  give up         READY: it stayed incomplete for too long, and its dead letter says what is missing
ASSEMBLING  done before     (none): another partition's metadata says that it is a repeat
WAITING     start           RUNNING
WAITING     done before     (none)
RUNNING     answer          READY
RUNNING     crash           WAITING, to run again alone
RUNNING     hold            HELD: it failed, and is left for the next start
RUNNING     done before     UNWANTED: its answer will be ignored
UNWANTED    done before     UNWANTED
UNWANTED    ignored answer  (none)
READY       plan            COMMITTING
READY       late chunk      ASSEMBLING: it was given up, but not committed as such
READY       hold            HELD: the broker does not take its result
READY       done before     (none)
COMMITTING  committed       (none), and remembered as done
COMMITTING  aborted         READY
HELD        done before     (none)
==========  ==============  ===========================================================================

Anything else is a defect of this program and raises :class:`IllegalEventError` before anything has changed.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ray_reproducer.core.errors import IllegalEventError
from ray_reproducer.core.limits import Moment
from ray_reproducer.core.story import Happening, Story

_TOLD: Final = 20
"""How many happenings an error tells: a file has six, unless something disturbs it."""


class State(str, Enum):
    """Where a file version is on its way; a string, because those hash five times as fast as other enums."""

    ASSEMBLING = "assembling"
    WAITING = "waiting"
    RUNNING = "running"
    UNWANTED = "unwanted"
    READY = "ready"
    COMMITTING = "committing"
    HELD = "held"


TRANSITIONS: Final[dict[tuple[State | None, str], State | None]] = {
    (None, "chunk"): State.ASSEMBLING,
    (None, "poison"): State.READY,
    (State.ASSEMBLING, "chunk"): State.ASSEMBLING,
    (State.ASSEMBLING, "whole"): State.WAITING,
    (State.ASSEMBLING, "give up"): State.READY,
    (State.ASSEMBLING, "done before"): None,
    (State.WAITING, "start"): State.RUNNING,
    (State.WAITING, "done before"): None,
    (State.RUNNING, "answer"): State.READY,
    (State.RUNNING, "crash"): State.WAITING,
    (State.RUNNING, "hold"): State.HELD,
    (State.RUNNING, "done before"): State.UNWANTED,
    (State.UNWANTED, "done before"): State.UNWANTED,
    (State.UNWANTED, "ignored answer"): None,
    (State.READY, "plan"): State.COMMITTING,
    (State.READY, "late chunk"): State.ASSEMBLING,
    (State.READY, "hold"): State.HELD,
    (State.READY, "done before"): None,
    (State.COMMITTING, "committed"): None,
    (State.COMMITTING, "aborted"): State.READY,
    (State.HELD, "done before"): None,
}
"""(state, what happens) -> next state; None stands for a version that is not open."""


class Lifecycle:
    """The states of all open file versions, and the story of how they came there."""

    def __init__(self, story_length: int) -> None:
        """Begin with no version open.

        Args:
            story_length: how many happenings are kept.
        """
        self._states: dict[bytes, State] = {}
        self._event = 0
        self._now_s = 0.0
        self.story = Story(story_length)

    def begin_event(self, now: Moment) -> None:
        """Take what happens from now on for what follows from the machine's next event; ``now``: when."""
        self._event += 1
        self._now_s = now.monotonic_s

    def state(self, version_id: bytes) -> State | None:
        """Return the state of a version; None if it is not open."""
        return self._states.get(version_id)

    def states(self) -> dict[bytes, State]:
        """Return a copy of all states."""
        return dict(self._states)

    def move(self, version_id: bytes, what: str, detail: tuple[object, ...] = (), path: str = "") -> None:
        """Let something happen to a version.

        Args:
            version_id: the version.
            what: what happens; with the present state it must stand in :data:`TRANSITIONS`.
            detail: what else the story should tell.
            path: relative path, for the story.

        Raises:
            IllegalEventError: there is no such transition.
        """
        state = self._states.get(version_id)
        try:
            after = TRANSITIONS[state, what]
        except KeyError:
            raise self._illegal(version_id, what, state, path) from None
        if after is None:
            del self._states[version_id]
        else:
            self._states[version_id] = after
        self.story.add(Happening(self._event, self._now_s, version_id, path, what, detail))

    def _illegal(self, version_id: bytes, what: str, state: State | None, path: str) -> IllegalEventError:
        """Say what is wrong together with what went before: who is to mend it has nothing else."""
        before = ", ".join(f"{h.number} {h.what}" for h in self.story.of_version(version_id)[-_TOLD:]) or "nothing"
        where = state.value if state else "none"
        told = f"event {self._event}, after: {before}"
        return IllegalEventError(f"{what} in state {where}: version {version_id.hex()} {path}; {told}")

    def tell(self, version_id: bytes, what: str, detail: tuple[object, ...] = (), path: str = "") -> None:
        """Let the story know of something that leaves a version's state as it is; arguments as for :meth:`move`."""
        self.story.add(Happening(self._event, self._now_s, version_id, path, what, detail))
