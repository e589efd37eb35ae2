"""How a run is asked to end, and how the driver waits for something without becoming deaf to that."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import ray
from ray.exceptions import (
    GetTimeoutError,
    ObjectStoreFullError,
    OutOfDiskError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from ray_reproducer.core.errors import ConfigurationError, PipelineError, ReproducerError

LISTEN_S: Final = 0.1
"""How often a wait looks whether the run is to end: quick enough for a person who has pressed Ctrl-C."""

_T = TypeVar("_T")


class StoppedError(Exception):
    """The run was asked to end while the driver waited for something."""


class StopFlag:
    """How a signal handler, or another thread, asks a run to end."""

    def __init__(self) -> None:
        """Begin with nothing asked."""
        self._requests = 0
        self._changed = threading.Condition()

    def request(self) -> None:
        """Ask; the first time for an orderly end, then for an immediate one. Not from a signal handler: it locks."""
        with self._changed:
            self._requests += 1
            self._changed.notify_all()

    @property
    def graceful(self) -> bool:
        """Whether the run is to end."""
        return self._requests >= 1

    @property
    def now(self) -> bool:
        """Whether it is to end at once."""
        return self._requests >= 2

    def wait(self, timeout_s: float) -> None:
        """Wait until something is asked, at most ``timeout_s`` seconds; not at all if it was asked already once."""
        with self._changed:
            self._changed.wait_for(lambda: self._requests > 0, timeout_s)

    def wait_for_next(self, timeout_s: float) -> None:
        """Wait until something is asked again, at most ``timeout_s`` seconds."""
        with self._changed:
            before = self._requests
            self._changed.wait_for(lambda: self._requests > before, timeout_s)


def interruptible(call: Callable[[], _T], is_asked: Callable[[], bool]) -> _T:
    """Make a call that may take long, in a thread of its own, and return what it returns.

    Args:
        call: what to do; it goes on by itself, unheard, if the run is to end.
        is_asked: whether the run is to end.

    Raises:
        StoppedError: the run is to end.
        Exception: what the call raised.
    """
    answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def make_call() -> None:
        try:
            answers.put((True, call()))
        # Whatever it is, it is raised where somebody waits for it.
        except BaseException as error:  # noqa: BLE001
            answers.put((False, error))

    threading.Thread(target=make_call, name="interruptible", daemon=True).start()
    while True:
        if is_asked():
            raise StoppedError
        try:
            succeeded, answer = answers.get(timeout=LISTEN_S)
        except queue.Empty:
            continue
        if not succeeded:
            raise answer
        result: _T = answer
        return result


def result(reference: Any, timeout_s: float, is_asked: Callable[[], bool] = lambda: False) -> Any:
    """Get an actor's answer; errors of ours come out as themselves, without Ray's wrapping.

    Args:
        reference: of the answer.
        timeout_s: how long the actor may take, in seconds.
        is_asked: whether the run is to end; then nothing is waited for any more.

    Raises:
        StoppedError: the run is to end.
        ReproducerError: what the actor raised.
        RayActorError: the actor is lost.
        ConfigurationError: Ray's runtime environment can't be set up.
        PipelineError: a part of the program, or of Ray, is lost.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        while not ray.wait([reference], timeout=LISTEN_S, fetch_local=False)[0]:
            if is_asked():
                raise StoppedError
            if time.monotonic() >= deadline_s:
                raise _silent(timeout_s)
        return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError:
        raise _silent(timeout_s) from None
    except RayActorError:
        raise
    except RayTaskError as error:
        known = unwrapped(error)
        if known is error:  # raised from itself, it would be its own cause, for ever
            raise
        raise known from error
    except RuntimeEnvSetupError as error:
        raise ConfigurationError(f"ray.runtime_env can't be set up: {first_line(error)}") from error
    except RayError as error:
        raise PipelineError(f"{type(error).__name__}: {first_line(error)}") from error


def _silent(timeout_s: float) -> PipelineError:
    return PipelineError(
        f"an actor has not answered for {timeout_s:g} s",
        hint="Has the Ray cluster room for it (`ray status`), and does the broker answer?",
    )


def unwrapped(error: RayTaskError) -> Exception:
    """Return what a task or an actor raised, in our words if it is ours or can be said in them."""
    cause = error.cause
    if isinstance(cause, (OutOfDiskError, ObjectStoreFullError)):
        return PipelineError(
            f"Ray has no room left for files on their way: {first_line(cause)}",
            hint="Raise ray.object_store_memory, or make room where Ray spills to (/tmp).",
        )
    return cause if isinstance(cause, ReproducerError) else error


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
