"""Turn whatever goes wrong into one message on stderr and the exit code of the process.

Rule: an error that a person can cause is a message and a hint, without a traceback unless ``HYDRA_FULL_ERROR=1``
asks for it. Any other error is a defect of this program; it says so, with the traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Final

from ray_reproducer.core.errors import IllegalEventError, ReproducerError
from ray_reproducer.observability.terminal_text import printable_lines

FULL_ERROR: Final = "HYDRA_FULL_ERROR"
"""Environment variable: "1" asks for tracebacks."""
INTERRUPTED: Final = 130
"""Exit code after Ctrl-C where there is nothing to finish: what a shell gives to a program that SIGINT ended."""

Explain = Callable[[BaseException], "ReproducerError | None"]
"""Finds the words for an error; None if nobody but us can have caused it."""


def guarded(work: Callable[[], int], explain: Explain) -> int:
    """Do the work and return its exit code; turn any error into a message on stderr and an exit code."""
    try:
        return work()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        print_error("Stopped.")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost place: everything ends as a message and an exit code
        return report(error, explain)


def report(error: BaseException, explain: Explain) -> int:
    """Print what went wrong and what to do about it, and return the exit code that belongs to it."""
    known = explain(error)
    if isinstance(known, IllegalEventError):
        known = None  # nobody but us can have caused it
    if known is None or os.environ.get(FULL_ERROR) == "1":
        traceback.print_exception(type(error), error, error.__traceback__)
    if known is None:
        print_error(
            f"{type(error).__name__}: {error}", "This is a defect of ray_reproducer; please report these lines."
        )
        return 1
    print_error(known.message, known.hint)
    return known.exit_code


def print_error(message: str, hint: str = "") -> None:
    """Print a message for the person at the terminal."""
    text = f"ray_reproducer: {message}\n{hint}\n" if hint else f"ray_reproducer: {message}\n"
    sys.stderr.write(printable_lines(text))
    sys.stderr.flush()


def ours(error: BaseException) -> ReproducerError | None:
    """Find the error of ours that an error is, or was caused by."""
    return next((cause for cause in causes(error) if isinstance(cause, ReproducerError)), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and so on; each once, also if it was raised from itself."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__
