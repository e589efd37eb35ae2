"""Every exception that this program raises on purpose.

Rules:

1. A message says what was wrong and where; ``hint`` says what to do about it.
2. ``exit_code`` is what the process ends with when the exception reaches the command line.
3. Each exception survives pickling, because it may travel between processes: its constructor takes
   ``(message, *, hint)``, or it says itself how it is made again (``__reduce__``).
"""

from __future__ import annotations

from typing import ClassVar

from ray_reproducer.core.reasons import Reason


class ReproducerError(Exception):
    """Base of all errors of this program.

    Args:
        message: what was wrong, and where (file, topic, partition, offset, key).
        hint: what the person who reads it can do; may be empty.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by message and hint, so that keyword arguments survive."""
        return (_rebuild, (type(self), self.message, self.hint))

    def __str__(self) -> str:
        """Return the message, followed by the hint on a line of its own."""
        return f"{self.message}\n{self.hint}" if self.hint else self.message


def _rebuild(kind: type[ReproducerError], message: str, hint: str) -> ReproducerError:
    return kind(message, hint=hint)


class ConfigurationError(ReproducerError):
    """A setting is missing, mistyped or contradicts another one."""

    exit_code: ClassVar[int] = 2


class ExtractorError(ConfigurationError):
    """The extractor can't be imported, built or sent to the workers."""


class BrokerError(ReproducerError):
    """The broker is away, refuses us, or lacks what we need (topic, permission, feature)."""


class BrokerAwayError(BrokerError):
    """No broker answers; it may be back later."""


class ForbiddenError(BrokerError):
    """The broker denies us a right that we can do without, with less."""


class TransactionOpenError(BrokerError):
    """A topic can't be read to its end, because somebody has a transaction open there."""


class TopicMissingError(BrokerError):
    """There is no topic of this name, or we may not see it."""


class TopicReplacedError(BrokerError):
    """The source topic was deleted, or deleted and made anew: what the group knows is about one that is gone."""


class FencedError(BrokerError):
    """Another instance with the same group id has taken over."""

    exit_code: ClassVar[int] = 4


class RecordTooLargeError(BrokerError):
    """A record is larger than the client or the broker allows.

    Args:
        message: what was wrong, and where.
        hint: what the person who reads it can do.
        index: which of the records handed over it is, from 0.
    """

    def __init__(self, message: str, *, hint: str = "", index: int) -> None:
        super().__init__(message, hint=hint)
        self.index = index

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the index too."""
        return (_rebuild_record_too_large, (self.message, self.hint, self.index))


def _rebuild_record_too_large(message: str, hint: str, index: int) -> RecordTooLargeError:
    return RecordTooLargeError(message, hint=hint, index=index)


class CommitMetadataError(ReproducerError):
    """The metadata beside a committed offset can't be read."""


class MetadataTooLargeError(ReproducerError):
    """What is done on a partition does not fit into the commit metadata (see ``commit_metadata``)."""


class ChunkError(ReproducerError):
    """A message on the source topic is no chunk that can be used.

    The class attribute ``reason`` is the machine-readable code that the dead letter carries.
    """

    reason: ClassVar[Reason]


class NotAChunkError(ChunkError):
    """The message is not the msgpack array of a chunk."""

    reason: ClassVar[Reason] = "not_a_chunk"


class TombstoneError(ChunkError):
    """The message has no value."""

    reason: ClassVar[Reason] = "tombstone"


class ChunkFieldError(ChunkError):
    """A field of the chunk has a wrong type, or lies about a size or a count."""

    reason: ClassVar[Reason] = "bad_chunk_field"


class UnsafePathError(ChunkError):
    """The chunk names a file outside of the root directory, or no file at all."""

    reason: ClassVar[Reason] = "unsafe_path"


class DeadLetterError(ReproducerError):
    """A record of the dead-letter topic is no dead letter that this program can read."""


class IllegalEventError(ReproducerError):
    """A state machine was given an event that can't happen in its state: a defect of this program."""


class ResultsOutputError(ReproducerError):
    """Results that were asked for can't be written to stdout."""


class PipelineError(ReproducerError):
    """The running program has lost a part: all of them are made anew, unless that happens again and again."""


class OutputDirectoryError(ReproducerError):
    """A file can't be written below the output directory, or what is there is not what it must be."""


class PathInTheWayError(OutputDirectoryError):
    """One file can't be written because of its own path: what is there already does not let it."""
