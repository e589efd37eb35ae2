"""A process of its own that runs shipped extractors on whatever it is sent: it is seen if it dies, or eats memory."""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.metadata_json import encode_metadata
from ray_reproducer.data_file import DataFile
from ray_reproducer.extractors.file_info import file_info
from ray_reproducer.extractors.tabular import tabular
from ray_reproducer.extractors.xrd_csv import xrd_csv

EXTRACTORS: Final = {"file_info": file_info, "tabular": tabular, "xrd_csv": xrd_csv}
MOST_ADDRESSES_BYTES: Final = 8 * 2**30
"""Address space of the guest: the libraries reserve much and use little."""
MOST_GROWTH_MB: Final = 1_500
"""How much memory a small file may make an extractor use."""
ANSWER_TIMEOUT_S: Final = 15.0


class GuestDiedError(AssertionError):
    """The process of the extractor ended, hung, or took too much memory."""


def _serve(connection: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES_BYTES, MOST_ADDRESSES_BYTES))
    while True:
        name, path, content = connection.recv()
        subdir, _, filename = path.rpartition("/")
        version = FileVersion(subdir, filename, "", hashlib.sha512(content).digest(), 1)
        try:
            answer: Any = EXTRACTORS[name](DataFile(version, [content], root=Path("/nowhere")))
        except Exception as error:  # noqa: BLE001 - what an extractor may do
            answer = error
        said = (
            f"{type(answer).__name__}: {answer}"
            if isinstance(answer, Exception)
            else encode_metadata(answer, 1_000_000)
        )
        connection.send((said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))


class Guest:
    """Asks one process after the other; a new one is started when one has ended."""

    def __init__(self) -> None:
        self._process: Any = None
        self._connection: Any = None
        self._at_first_mb = 0

    def ask(self, name: str, path: str, content: bytes) -> Any:
        """Run an extractor; return its JSON, a failure, or what it raised as text.

        Raises:
            GuestDiedError: it did not survive that.
        """
        if self._process is None:
            self._start()
        self._connection.send((name, path, content))
        try:
            if not self._connection.poll(ANSWER_TIMEOUT_S):
                raise GuestDiedError(f"no answer after {ANSWER_TIMEOUT_S} s")
            said, peak_mb = self._connection.recv()
        except EOFError:
            self._process.join(ANSWER_TIMEOUT_S)
            code = self._process.exitcode
            self.close()
            raise GuestDiedError(f"the process of {name} ended with {code}") from None
        except GuestDiedError:
            self.close()
            raise
        if peak_mb - self._at_first_mb > MOST_GROWTH_MB:
            self.close()
            raise GuestDiedError(f"{name} took {peak_mb - self._at_first_mb} MB for {len(content)} bytes")
        return said

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.send(("file_info", "a", b""))
        _, self._at_first_mb = self._connection.recv()
