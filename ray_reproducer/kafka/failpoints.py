"""Places in a transaction where a test makes the process die, stand still, or not hear the broker's answer.

Rules:

1. Only the environment variable ``RAY_REPRODUCER_FAILPOINTS`` switches them on; it is read once, when this module is
   imported. Without it ``around`` returns the call as it is, and nothing else happens.
2. The variable names a directory. A file in it arms a failpoint: it is named like the failpoint, ``commit.before``, and
   says what to do and at which pass: ``kill``, ``stop@3``. So failpoints can be armed while the program runs.
3. The file is removed before its action is carried out: each happens once, over all processes and restarts.
4. A variable, name or action that makes no sense ends the program at its start.

What can be done: ``kill`` (SIGKILL to this process), ``stop`` (SIGSTOP), ``lose`` (the error of an answer that did not
come in time), ``refuse`` (the error of a broker that wants the transaction to be aborted).
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from confluent_kafka import KafkaError, KafkaException

from ray_reproducer.core.errors import ConfigurationError

T = TypeVar("T")

ENVIRONMENT_VARIABLE: Final = "RAY_REPRODUCER_FAILPOINTS"
"""Names the directory of rule 2."""
CALLS: Final = ("init", "read", "begin", "produce", "flush", "offsets", "commit", "abort", "positions")
"""What is called: ``init_transactions``, reading what is committed, ``begin_transaction``, producing all records,
waiting for their delivery reports, ``send_offsets_to_transaction``, ``commit_transaction``, ``abort_transaction``, and
(without transactions) committing positions."""
NAMES: Final = tuple(f"{call}.{side}" for call in CALLS for side in ("before", "after"))
"""All failpoints."""
ACTIONS: Final = ("kill", "stop", "lose", "refuse")
"""What can be done at one."""


def arm(directory: Path, name: str, action: str, at_pass: int = 1) -> None:
    """Arm a failpoint; the file appears at once and whole.

    Args:
        directory: what the environment variable of the program names.
        name: one of ``NAMES``.
        action: one of ``ACTIONS``.
        at_pass: which time, counted from now on in the process that passes it, the action is carried out.

    Raises:
        ConfigurationError: there is no such failpoint, or no such action.
    """
    armed = f"{action}@{at_pass}"
    _parsed(name, armed)
    hidden = directory / f".{name}"
    hidden.write_text(armed)
    hidden.rename(directory / name)


class Failpoints:
    """The failpoints of a process for which they are switched on.

    Args:
        directory: where they are armed.

    Raises:
        ConfigurationError: it is no directory, or what is in it makes no sense (rule 4).
    """

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise ConfigurationError(
                f"{ENVIRONMENT_VARIABLE}={directory} is no directory",
                hint="It is for tests of this program: unset it, or see ray_reproducer/kafka/failpoints.py.",
            )
        for path in directory.iterdir():
            if not path.name.startswith("."):
                _parsed(path.name, path.read_text())
        self._directory = directory
        self._passes: Counter[str] = Counter()

    def around(self, call: str, function: Callable[[], T]) -> Callable[[], T]:
        """Make a function with a failpoint before and one after it."""

        def watched() -> T:
            self._reach(f"{call}.before")
            answer = function()
            self._reach(f"{call}.after")
            return answer

        return watched

    def _reach(self, name: str) -> None:
        path = self._directory / name
        try:
            action, at_pass = _parsed(name, path.read_text())
            self._passes[name] += 1
            if self._passes[name] < at_pass:
                return
            path.unlink()
        except FileNotFoundError:  # not armed, or another process was faster
            self._passes.pop(name, None)
            return
        self._passes.pop(name)
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            raise KafkaException(_error(action, name))


def _error(action: str, name: str) -> KafkaError:
    if action == "lose":
        return KafkaError(KafkaError._TIMED_OUT, f"failpoint {name}: no answer")  # noqa: SLF001 - its public name
    return KafkaError(KafkaError.INVALID_TXN_STATE, f"failpoint {name}: refused", txn_requires_abort=True)


def _parsed(name: str, armed: str) -> tuple[str, int]:
    action, _, number = armed.strip().partition("@")
    if name not in NAMES or action not in ACTIONS or not (number or "1").isdecimal() or number == "0":
        raise ConfigurationError(
            f"{ENVIRONMENT_VARIABLE}: no failpoint can be armed by {name!r} with {armed!r}",
            hint=f"Names: {', '.join(NAMES)}. Actions: {', '.join(ACTIONS)}, each with @N for the N-th pass.",
        )
    return action, int(number or "1")


def _without(_call: str, function: Callable[[], T]) -> Callable[[], T]:
    return function


def _chosen() -> Callable[[str, Callable[[], T]], Callable[[], T]]:
    directory = os.environ.get(ENVIRONMENT_VARIABLE, "")
    return Failpoints(Path(directory)).around if directory else _without


around: Final = _chosen()
"""Put failpoints around a call: ``around("commit", call)()``. The very call itself if they are off (rule 1)."""
