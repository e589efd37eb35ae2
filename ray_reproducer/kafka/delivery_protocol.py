"""What the committer needs of whatever writes its records and positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ray_reproducer.kafka.group_offsets import CommittedOffset
from ray_reproducer.kafka.outbox import Record


class Delivery(Protocol):
    """Writes records and source positions; see the implementations for how much that promises."""

    def start(self) -> dict[int, CommittedOffset]:
        """Connect, and return the committed position of each partition that has one.

        Raises:
            FencedError: another instance has taken over.
            BrokerError: the broker refuses what can't heal.
        """
        ...

    def deliver(self, records: Sequence[Record], offsets: Mapping[int, CommittedOffset]) -> bool:
        """Write records and positions; blocks, for as long as the broker is away.

        Args:
            records: what to write.
            offsets: new position and metadata per source partition. If there are records, they must differ from
                what is committed: that is how an outcome that got lost on the way is found out.

        Returns:
            True if all is committed; False if certainly not: the same may be handed over again.

        Raises:
            FencedError: another instance has taken over.
            RecordTooLargeError: one record is refused for its size; nothing is committed.
            BrokerError: the broker refuses what can't heal.
        """
        ...

    def confirm(self) -> None:
        """Make sure that what was said to be committed is there, before nobody looks any more.

        Raises:
            PipelineError: it is not; all must begin anew with what is there.
            FencedError: another instance has taken over.
        """
        ...

    def confirm_after_trouble(self) -> None:
        """The same, if a connection broke since it was certain; called again and again while there is nothing to write.

        Raises:
            PipelineError: as ``confirm``.
            FencedError: as ``confirm``.
        """
        ...

    def close(self) -> None:
        """Let go of all connections, quickly; what is not committed stays so."""
        ...
