"""How a run is asked to end while the driver waits."""

from __future__ import annotations

import threading

import pytest

from ray_reproducer.actors.stopping import StopFlag, StoppedError, interruptible


def test_the_first_request_is_an_orderly_end_and_the_second_an_immediate_one() -> None:
    stop = StopFlag()
    assert (stop.graceful, stop.now) == (False, False)
    stop.request()
    assert (stop.graceful, stop.now) == (True, False)
    stop.request()
    assert (stop.graceful, stop.now) == (True, True)


def test_a_call_returns_what_it_returns_and_raises_what_it_raises() -> None:
    assert interruptible(lambda: 7, lambda: False) == 7

    def fail() -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        interruptible(fail, lambda: False)


def test_a_call_that_takes_long_is_left_alone_when_the_run_is_to_end() -> None:
    stop, for_ever = StopFlag(), threading.Event()
    threading.Timer(0.05, stop.request).start()
    with pytest.raises(StoppedError):
        interruptible(for_ever.wait, lambda: stop.graceful)
    for_ever.set()
