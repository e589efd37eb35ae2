"""What was finished before this life of the program began, as the topics tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ray_reproducer.actors.committer_settings import CommitterSettings
from ray_reproducer.core.done_lately import DoneLately, ExistingResults
from ray_reproducer.core.errors import ConfigurationError, ForbiddenError
from ray_reproducer.core.ledger import PartitionStart
from ray_reproducer.kafka import faults, finished_lately
from ray_reproducer.kafka.existing_results import existing_results
from ray_reproducer.kafka.group_offsets import CommittedOffset


class History:
    """Reads it.

    Args:
        settings: of the committer.
        tag: names group and source topic.
        on_trouble: called with a line of text when the broker is in trouble, with "" when it is well again.
        wait: called between tries with seconds; raises to give up.
        tell: called with a line of text that is worth showing.
    """

    def __init__(
        self,
        settings: CommitterSettings,
        tag: bytes,
        on_trouble: Callable[[str], None],
        wait: Callable[[float], None],
        tell: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._tag = tag
        self._health = faults.Health(on_trouble)
        self._wait = wait
        self._tell = tell

    def done_lately(
        self, committed: Mapping[int, CommittedOffset], starts: Iterable[PartitionStart]
    ) -> DoneLately | None:
        """Read back what the group has finished lately, and what other programs have.

        Args:
            committed: places of the group.
            starts: where its partitions begin.

        Returns:
            What is known; None if nothing is.
        """
        limits = self._settings.limits
        existing = self._existing_results() if self._settings.start == "skip_existing" else None
        if limits.duplicates != "skip" or not self._has_history(committed, starts):
            if existing is None:
                return None
            return DoneLately(limits.versions_remembered, limits.duplicates, existing=existing)
        settings = self._settings
        topics = (settings.results_topic, settings.dead_letters_topic)
        reading = (settings.clients, topics, self._tag, limits.versions_read_back, self._health, self._wait)
        try:
            told = finished_lately.version_ids(*reading)
        except ForbiddenError as error:
            self._tell(f"{error.message}. Files that are finished are done again if they are repeated.")
            return DoneLately(limits.versions_remembered, limits.duplicates, damaged=None, existing=existing)
        return DoneLately(limits.versions_remembered, limits.duplicates, told.finished, told.damaged, existing)

    def _has_history(self, committed: Mapping[int, CommittedOffset], starts: Iterable[PartitionStart]) -> bool:
        # A place without a word of ours beside it was set by somebody on purpose: then everything from there on is to
        # be done, whether it was done before or not.
        if any(not place.metadata for place in committed.values()):
            return False
        # A life that is not the first may find nothing committed, and yet have written something (delivery, rule 8).
        return self._settings.is_later_life or any(start.restored for start in starts)

    def _existing_results(self) -> ExistingResults:
        settings = self._settings
        found = existing_results(settings.clients, settings.results_topic, self._tag, self._health, self._wait)
        if not settings.is_later_life:
            self._tell(f"start=skip_existing: {len(found):,} files have results of others, and are skipped.")
        return found


def no_place(settings: CommitterSettings) -> ConfigurationError:
    """Say that the group has no place, though it must have one."""
    return ConfigurationError(
        f"start=group, but the group {settings.group_id} has committed no offsets on topic {settings.source_topic}.",
        hint="Is group_id the name of the group that is taken over? For a new group: start=earliest, latest or "
        "skip_existing.",
    )
