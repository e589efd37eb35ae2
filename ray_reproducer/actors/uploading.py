"""Puts a directory's files on the source topic while the program reads it, and owns the embedded broker.

The embedded broker keeps only a few MiB a partition, so that not more is sent than has been read.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final

from ray_reproducer.actors.settings import PipelineSettings
from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.kafka.embedded import EmbeddedCluster
from ray_reproducer.kafka.upload import UploadCancelledError, upload_directory

EMBEDDED_WINDOW_BYTES: Final = 3 * 1024 * 1024
"""What may be on the embedded broker without having been read: less than the 5 MiB that one partition holds."""
CANCEL_LOOK_S: Final = 0.5
"""How often a waiting upload looks whether it was cancelled, in seconds."""

STOP_TIMEOUT_S: Final = 15.0
"""How long a cancelled upload may take: more than it gives to what is on its way to the broker."""


class Uploading:
    """An upload in a thread of its own, and the broker that it may need. A context manager.

    Attributes:
        settings: the run's settings, with the address of the embedded broker if there is one.
        failures: how many files could not be sent.
    """

    def __init__(self, settings: PipelineSettings, tell: Callable[[int, str], None]) -> None:
        """Prepare.

        Args:
            settings: the run's settings.
            tell: called with a level and a text about what is worth a line in the log.
        """
        self.settings = settings
        self.failures = 0
        self._tell = tell
        self._cluster: EmbeddedCluster | None = None
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._condition = threading.Condition()
        self._cancelled = False
        self._sent_bytes = 0
        self._read = 0
        self._unread_bytes = 0
        # Sizes of the messages on the embedded broker that have not been read, oldest first.
        self._unread: deque[int] = deque()

    def __enter__(self) -> Uploading:
        """Start the embedded broker, if that is what the run is to use."""
        if self.settings.embedded:
            self._cluster = EmbeddedCluster()
            servers = self._cluster.start()
            clients = self.settings.clients
            clients = replace(clients, common={**clients.common, "bootstrap.servers": servers})
            self.settings = replace(self.settings, clients=clients)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel what is still being sent, and end the embedded broker."""
        self.cancel()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
        if self._cluster is not None:
            self._cluster.close()

    def begin(self) -> None:
        """Start to send, unless there is nothing to send or it was started before."""
        upload = self.settings.upload
        if upload is None or self._thread is not None:
            return
        if self.settings.embedded and upload.chunk_size_bytes > EMBEDDED_WINDOW_BYTES:
            raise ConfigurationError(
                f"upload.chunk_size={upload.chunk_size_bytes} is more than the embedded broker holds "
                f"({EMBEDDED_WINDOW_BYTES} bytes)"
            )
        self._thread = threading.Thread(target=self._send, name="upload", daemon=True)
        self._thread.start()

    def ended(self) -> bool:
        """Whether everything is on the topic.

        Raises:
            Exception: what the upload as a whole ended with.
        """
        if self._thread is None or self._thread.is_alive():
            return self.settings.upload is None
        if self._error is not None:
            raise self._error
        return True

    def delivered(self, messages: int) -> None:
        """Take note of how many messages of the topic have been read so far."""
        with self._condition:
            while self._read < messages and self._unread:
                self._unread_bytes -= self._unread.popleft()
                self._read += 1
            self._condition.notify_all()

    def cancel(self) -> None:
        """Send nothing more."""
        with self._condition:
            self._cancelled = True
            self._condition.notify_all()

    def _send(self) -> None:
        upload = self.settings.upload
        if upload is None:
            return
        try:
            summary = upload_directory(
                self.settings.clients,
                self.settings.source_topic,
                Path(upload.path),
                chunk_size_bytes=upload.chunk_size_bytes,
                filepath_regex=upload.filepath_regex,
                window=self._wait_for_room,
                should_stop=lambda: self._cancelled,
            )
        except UploadCancelledError:
            return
        # Whatever it is, it is raised where the run sees it.
        except Exception as error:  # noqa: BLE001
            self._error = error
            return
        self.failures = len(summary.failures)
        for failure in summary.failures:
            self._tell(logging.ERROR, str(failure))

    def _wait_for_room(self, total_bytes: int) -> None:
        """Called before each chunk: hold it back while the embedded broker has enough to hold already."""
        size_bytes, self._sent_bytes = total_bytes - self._sent_bytes, total_bytes
        with self._condition:
            while not self._cancelled and self._is_full(size_bytes):
                self._condition.wait(CANCEL_LOOK_S)
            if self._cancelled:
                raise UploadCancelledError("the upload was cancelled")
            if self.settings.embedded:
                self._unread.append(size_bytes)
                self._unread_bytes += size_bytes

    def _is_full(self, size_bytes: int) -> bool:
        """Whether the embedded broker can't hold this much more. One message always fits."""
        return bool(self._unread) and self._unread_bytes + size_bytes > EMBEDDED_WINDOW_BYTES
