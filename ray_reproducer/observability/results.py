"""``run.print_results``: each committed outcome as one JSON object a line on stdout, and nothing else there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import orjson

from ray_reproducer.core.errors import ResultsOutputError
from ray_reproducer.core.outcome import Outcome


class ResultsWriter:
    """Writes outcomes to a binary stream, flushed each time, until its reader goes away.

    Args:
        stream: normally ``sys.stdout.buffer``.
        on_closed: called once, when the reader has gone away (``| head``).
    """

    def __init__(self, stream: BinaryIO, on_closed: Callable[[], None]) -> None:
        self._stream = stream
        self._on_closed = on_closed
        self._closed = False

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Write one line for each outcome.

        Raises:
            ResultsOutputError: the stream can't be written (a full disk, for instance).
        """
        if self._closed or not outcomes:
            return
        try:
            self._stream.write(b"".join(map(line, outcomes)))
            self._stream.flush()
        except BrokenPipeError:
            self._closed = True
            self._forget_stream()
            self._on_closed()
        except OSError as error:
            raise ResultsOutputError(
                f"Results can't be written to stdout: {error.strerror or error}.",
                hint="They are on the result topic all the same.",
            ) from error

    def _forget_stream(self) -> None:
        """Point the descriptor elsewhere, so that what is still buffered makes no noise when the process ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def line(outcome: Outcome) -> bytes:
    """Return the line for one outcome, with its newline."""
    record: dict[str, Any] = {"path": outcome.path or None, "outcome": outcome.kind}
    if outcome.kind == "result":
        record["metadata"] = orjson.Fragment(outcome.value)  # JSON already, and not parsed again
    else:
        record |= {"reason": outcome.reason, "error": outcome.error}
        if not outcome.path:
            record |= {"partition": outcome.partition, "offset": outcome.offset}
    return orjson.dumps(record, default=str, option=orjson.OPT_APPEND_NEWLINE)
