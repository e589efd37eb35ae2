"""How a run is asked to end while the driver waits."""

from __future__ import annotations

import threading
import time

import pytest
import ray
from ray.exceptions import RayTaskError

from ray_reproducer.actors.stopping import StopFlag, StoppedError, interruptible, result
from ray_reproducer.core.errors import FencedError
from ray_reproducer.error_report import causes

DEADLINE_S = 10.0


def test_the_first_request_is_an_orderly_end_and_the_second_an_immediate_one() -> None:
    stop = StopFlag()
    assert (stop.graceful, stop.now) == (False, False)
    stop.request()
    assert (stop.graceful, stop.now) == (True, False)
    stop.request()
    assert (stop.graceful, stop.now) == (True, True)


def test_who_waits_is_woken_by_a_request_and_waits_again_for_the_next() -> None:
    stop = StopFlag()
    for _ in range(2):
        began_s = time.monotonic()
        threading.Timer(0.05, stop.request).start()
        stop.wait_for_next(DEADLINE_S)
        assert time.monotonic() - began_s < DEADLINE_S
    assert stop.now
    began_s = time.monotonic()
    stop.wait_for_next(0.05)
    assert time.monotonic() - began_s >= 0.05, "a driver that looks at its actors meanwhile would do nothing else"
    stop.wait(DEADLINE_S)  # not at all: it was asked already


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


@pytest.mark.parametrize(("raised", "comes_out"), [(FencedError("gone"), FencedError), (KeyError("x"), RayTaskError)])
def test_what_an_actor_raised_comes_out_and_is_never_its_own_cause(
    raised: Exception, comes_out: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(_reference: object, timeout: float) -> object:
        assert timeout == 1.0
        raise RayTaskError("run", "Traceback ...", raised)

    monkeypatch.setattr(ray, "wait", lambda references, **_: (references, []))
    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(comes_out) as caught:
        result(object(), 1.0)
    assert caught.value.__cause__ is not caught.value


def test_causes_that_go_round_in_a_circle_are_yielded_once() -> None:
    first, second = KeyError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    assert list(causes(first)) == [first, second]
