"""What was lost, in words: Ray's own name an actor by its id, and tell more of Ray than of the program."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from ray_reproducer.actors.stopping import first_line


def in_words(error: Exception, names: Mapping[str, str]) -> str:
    """Say what an error means for the program.

    Args:
        error: why it can't go on as it is.
        names: id of an actor, in hexadecimal digits -> what it is called.

    Returns:
        one line; an error that is not of an actor's loss says its own first line.
    """
    # What an actor raised because it has lost another one comes wrapped.
    cause = error.cause if isinstance(error, RayTaskError) else error
    if not isinstance(cause, RayActorError):
        return first_line(error)
    who = names.get(cause.actor_id or "", "an actor")
    if isinstance(cause, ActorUnavailableError):
        return f"{who} can't be reached"
    if cause.actor_init_failed:
        return f"{who} could not be started: {str(cause).strip().splitlines()[-1]}"
    process, machine = (re.search(rf"^\s*{key}: (\S+)$", str(cause), re.MULTILINE) for key in ("pid", "ip"))
    where = f" (process {process[1]} on {machine[1]})" if process and machine else ""
    reason = re.search(r"^The actor (?:is dead|died) because (?:of )?([^.]+)", str(cause), re.MULTILINE)
    return f"{who} died{where}" + (f": {reason[1]}" if reason else "")
