"""Waiting in tests: for a condition, with a deadline, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.02


def wait_until(condition: Callable[[], T], deadline_s: float, what: str) -> T:
    """Ask until the answer is true, and return it.

    Args:
        condition: asked again and again; what it raises is raised.
        deadline_s: for how long, in seconds.
        what: is waited for; ends the sentence "after N s still waiting for ...".

    Raises:
        AssertionError: the deadline has passed.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"after {deadline_s:g} s still waiting for {what} (last answer: {answer!r})")
        time.sleep(_POLL_S)
