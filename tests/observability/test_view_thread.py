"""Rules of the views' thread: failures are said once, and the end is bounded."""

from __future__ import annotations

import threading
import time

from ray_reproducer.observability.view_thread import ViewThread
from tests.waiting import wait_until


class Counting:
    """A view that counts its turns, and fails if told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.turns: list[bool] = []
        self.error = error

    what = "the view"

    def update(self, *, last: bool) -> None:
        self.turns.append(last)
        if self.error:
            raise self.error


def test_rule_1_a_failure_is_said_once_and_tried_again() -> None:
    said: list[str] = []
    bad, good = Counting(OSError(28, "No space left on device")), Counting()
    thread = ViewThread("test", [bad, good], 0.001, said.append)
    thread.start()
    wait_until(lambda: len(good.turns) > 3, 20, "some turns")
    thread.end()
    thread.join(time.monotonic() + 20)
    assert bad.turns == good.turns
    assert bad.turns[-1] is True
    assert bad.turns.count(True) == 1
    assert len(said) == 1
    assert said[0].startswith("the view: [Errno 28] No space left on device. The run goes on")


def test_rule_2_a_view_that_hangs_does_not_keep_the_end() -> None:
    said: list[str] = []
    let_go = threading.Event()

    class Hanging(Counting):
        def update(self, *, last: bool) -> None:
            super().update(last=last)
            let_go.wait(60)

    view = Hanging()
    thread = ViewThread("test", [view], 0.001, said.append)
    thread.start()
    wait_until(lambda: view.turns, 20, "the view to hang")
    thread.end()
    thread.join(time.monotonic() + 0.05)
    assert said == ["the view: not finished in time, and left as is."]
    let_go.set()


def test_without_views_there_is_no_thread() -> None:
    before = threading.active_count()
    thread = ViewThread("test", [], 0.001, lambda _: None)
    thread.start()
    assert threading.active_count() == before
    thread.end()
    thread.join(time.monotonic())
