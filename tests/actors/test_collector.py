"""How often an actor lets Python look for garbage."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from ray_reproducer.actors import collector


class Node:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before, was_enabled = gc.get_threshold(), gc.isenabled()
    gc.enable()  # another test of this process may measure without
    yield
    gc.set_threshold(*before)
    gc.unfreeze()
    if not was_enabled:
        gc.disable()


def test_what_is_there_is_not_looked_at_again_and_the_rest_seldom() -> None:
    collector.relax()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1_000
    assert gc.get_threshold() == collector.THRESHOLDS


def test_garbage_that_refers_to_itself_is_still_found() -> None:
    collector.relax()
    node = weakref.ref(Node())
    kept: list[list[None]] = [[] for _ in range(2 * collector.THRESHOLDS[0])]
    assert node() is None
    assert kept
