"""One replay, as the driver sees it: which dead letters are live, and what is to be done about those that are meant.

Rules:

1. Letters are looked at for the last time after the transactional id has been taken over, at every start of the
   actors. By then no other replay of this dead-letter topic can commit anything, and what one has committed can be
   read: a letter that is live now stays so until we clear it. (Looking first and taking over after that, two replays
   could both find a letter live, and both produce its result.)
2. A file that came damaged, or in part, may have been sent again, and have its result by now though its letter is live:
   a result that is newer than the letter, by the ids beside results. Then the letter is cleared, and nothing is run.
3. The source topic is asked for its limits after the letters have been read: a program that runs may write letters of
   files that have just come. Asked before, they would lie beyond its end.
4. Nothing else is remembered from one start to the next: what a replay has done shows in the letters that it cleared.
   So each start of the actors is a group of its own, with nothing committed.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence

from ray_reproducer.core.errors import ForbiddenError
from ray_reproducer.core.live_letters import LiveLetters
from ray_reproducer.core.replay_plan import FailedFile, ReplayPlan, Selection, SourceTopic, failed_files, make_plan
from ray_reproducer.kafka import admin, dead_letters, faults, finished_lately
from ray_reproducer.kafka.admin import TopicDescription
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.dead_letters import DeadLetterReader
from ray_reproducer.kafka.delivery import TransactionalDelivery


class Replay:
    """What a replay knows.

    Args:
        clients: the user's client settings.
        dead_letters_topic: where the dead letters are.
        selection: which of them are meant.
        results_topic: where results are; "" if nothing is to be run.
        tell: called with a line of text that is worth showing.

    Attributes:
        letters: the live letters, as of the last look.
        plan: what is to be done, as of the last look.
        cleared: files whose letters were cleared, because they have their result.
    """

    def __init__(
        self,
        clients: ClientConfigs,
        dead_letters_topic: str,
        selection: Selection,
        tell: Callable[[str], None],
        results_topic: str = "",
    ) -> None:
        self.cleared: list[FailedFile] = []
        self._results_topic = results_topic
        self._tell = tell
        self.letters = LiveLetters()
        self.plan = ReplayPlan()
        self._first: ReplayPlan | None = None
        self._selection = selection
        self._topic = dead_letters_topic
        self._reader = DeadLetterReader(clients, dead_letters_topic, self.letters, tell)
        self._clients = clients

    @property
    def transactional_id(self) -> str:
        """One for all replays of a dead-letter topic, so that the one that starts last fences the others."""
        return f"ray_reproducer.replay.{self._topic}"

    def new_group_id(self) -> str:
        """Make the id of a group that nobody has used."""
        return f"{self.transactional_id}.{uuid.uuid4().hex[:12]}"

    def end_leftovers(self, source_topic: str) -> None:
        """Take the transactional id over, and end what the broker has left open of an earlier replay.

        A replay that runs is fenced by this.

        Raises:
            BrokerError: the broker does not let us.
        """
        delivery = TransactionalDelivery(
            self._clients,
            self.new_group_id(),
            source_topic,
            (0,),
            self.transactional_id,
            faults.as_lines(self._tell),
            topics=(self._results_topic, self._topic),
            takes_over_once=True,
        )
        try:
            delivery.start()
        finally:
            delivery.close()

    def refresh(self) -> None:
        """Read what came to the dead-letter topic since the last look.

        Raises:
            BrokerError: it can't be read.
        """
        self._reader.refresh()

    def look(self, source_topic: str) -> ReplayPlan:
        """Look at the letters and at the source topic, and plan.

        Raises:
            BrokerError: one of the topics can't be read.
        """
        return self.plan_for(admin.describe_topic(self._clients, source_topic))

    def plan_for(self, topic: TopicDescription) -> ReplayPlan:
        """Look at the letters again, and plan for a source topic whose partitions are known already.

        Raises:
            BrokerError: one of the topics can't be read.
        """
        self.refresh()
        self._clear_finished(topic)
        limits = admin.watermarks(self._clients, topic.name, topic.partitions)
        self.plan = make_plan(self.letters, self._selection, SourceTopic(topic.name, topic.topic_id, limits))
        if self._first is None:
            self._first = self.plan
        return self.plan

    def _clear_finished(self, topic: TopicDescription) -> None:
        """Clear the letters of files that have their result (rule 2)."""
        if not self._results_topic or admin.find_topic(self._clients, self._results_topic) is None:
            return
        files = {
            (finished_lately.tag_of(file.owner), file.newest.version_id): file
            for file in self.chosen()
            if finished_lately.may_come_again(file.owner) and file.newest.topic_id == topic.topic_id
        }
        if not files:
            return
        since = min(file.letters[0].letter.time for file in files.values())
        health = faults.Health(faults.as_lines(self._tell))
        try:
            found = finished_lately.finished_since(
                self._clients, self._results_topic, files.keys(), since.timestamp(), health, time.sleep
            )
        except ForbiddenError as error:
            self._tell(f"{error.message}. Files that were sent again, and have their result, get another.")
            return
        # An older result is of a time before the file failed: the group's place was moved since.
        finished = [files[which] for which, ms in found.items() if ms > files[which].newest.time.timestamp() * 1000]
        if finished:
            dead_letters.clear(
                self._clients, self._topic, (letter for file in finished for letter in file.letters), self._tell
            )
            self.cleared.extend(finished)
            self.refresh()

    def chosen(self) -> list[FailedFile]:
        """All failed files that are meant, whether they can be run again or not."""
        return [file for file in failed_files(self.letters) if self._selection.matches(file.newest)]

    def others(self) -> dict[str, int]:
        """Other extractors than the one that is meant, with how many failed files each has."""
        found: dict[str, int] = {}
        for file in failed_files(self.letters):
            name = file.newest.extractor
            if self._selection.extractor not in (None, name):
                found[name] = found.get(name, 0) + 1
        return found

    def left(self) -> Sequence[FailedFile]:
        """Files that were to be run and have no new outcome, as of the last ``refresh``."""
        live = {letter.place for letter in self.letters}
        first = self._first or self.plan
        return [file for file in first.files.values() if any(letter.place in live for letter in file.letters)]
