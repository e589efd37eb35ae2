"""Which dead letters are live: records of the dead-letter topic in, letters that nothing has cleared yet out.

Rules:

1. A dead letter is live until a record clears it. Letters are told apart by their *place*, the partition and offset of
   their record. (Not by their key: keys of different files collide. Nor by file version: several extractors and several
   source topics may share one dead-letter topic.)
2. A record clears the places that its header ``clears`` names, as ``partition:offset`` with commas between, if their
   letters have the same key as itself. It may be a tombstone (no value), or the letter that takes their place.
3. A tombstone without that header is somebody else's way to delete: it clears all letters with its key that lie before
   it on its partition, as the compaction of a topic does.
4. What is cleared stays so, in whatever order the partitions are read.
5. A record that is no dead letter changes nothing, whatever its headers say. It is counted, and the first one is kept
   for the person to see.

A compacted dead-letter topic keeps the newest record of each key: there, a letter is lost when another file with the
same key fails, which is why the topic is not compacted unless somebody makes it so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from ray_reproducer.core.dead_letter import DeadLetter, parse
from ray_reproducer.core.errors import DeadLetterError

CLEARS_HEADER: Final = "clears"
"""Name of the header that says which letters a record clears."""
MAX_CLEARED: Final = 100_000
"""How many places one header may name: more than a message can hold."""


class Place(NamedTuple):
    """Where a record of the dead-letter topic is."""

    partition: int
    offset: int


class Letter(NamedTuple):
    """A live dead letter, and where its record is.

    Attributes:
        place: of the record.
        key: of the record.
        letter: what it says.
        owner: what a header says of the file and of the group that it failed in (``kafka.finished_lately``, not to be
            understood here); empty if there is none.
        group_id: in whose registries the file is, as a header says (``result_header``); "" if there is none.
    """

    place: Place
    key: str
    letter: DeadLetter
    owner: bytes = b""
    group_id: str = ""


def clears_header(places: Iterable[Place]) -> tuple[str, bytes]:
    """Make the header of a record that clears these places."""
    return CLEARS_HEADER, ",".join(f"{place.partition}:{place.offset}" for place in places).encode()


class LiveLetters:
    """Takes the records of a dead-letter topic, each partition's in order, and knows which letters are live.

    Attributes:
        records: how many records were taken.
        cleared: how many letters were cleared.
        foreign: how many records are no dead letters.
        first_foreign: where the first of these is and what is wrong with it; "" if there is none.
    """

    def __init__(self, wanted: Callable[[DeadLetter], bool] = lambda _: True) -> None:
        """Begin with none.

        Args:
            wanted: letters for which it is false are not kept. It must be the same for all letters of a file.
        """
        self.records = self.cleared = self.foreign = 0
        self.first_foreign = ""
        self._wanted = wanted
        self._live: dict[Place, Letter] = {}
        self._by_key: dict[str, set[Place]] = {}
        # Cleared by records of another partition before they were read, with the keys of these records.
        self._cleared_ahead: dict[Place, set[str]] = {}

    def __len__(self) -> int:
        """How many letters are live, of those that are wanted."""
        return len(self._live)

    def __iter__(self) -> Iterator[Letter]:
        """Go through the live letters, in the order of their times."""
        return iter(sorted(self._live.values(), key=lambda letter: (letter.letter.time, letter.place)))

    def take(
        self,
        place: Place,
        key: str,
        value: bytes | None,
        clears: bytes | None,
        owner: bytes = b"",
        group_id: str = "",
    ) -> None:
        """Take one record.

        Args:
            place: where it is.
            key: its key; "" if it has none.
            value: its value; None for a tombstone.
            clears: value of its header ``clears``; None if it has none.
            owner: see :class:`Letter`.
            group_id: see :class:`Letter`.
        """
        self.records += 1
        letter = None if value is None else self._read(place, value)
        if value is not None and letter is None:
            return
        if clears is not None:
            for cleared in _places(clears):
                self._clear(cleared, key, by=place)
        elif letter is None:
            for earlier in self._by_key.get(key, set()).copy():
                if earlier.partition == place.partition:
                    self._drop(earlier)
        if letter is not None:
            self._add(Letter(place, key, letter, owner, group_id))

    def _read(self, place: Place, value: bytes) -> DeadLetter | None:
        """Return what a record says; None if it is no dead letter (rule 5)."""
        try:
            return parse(value)
        except DeadLetterError as error:
            self.foreign += 1
            self.first_foreign = (
                self.first_foreign or f"partition {place.partition}, offset {place.offset}: {error.message}"
            )
            return None

    def _add(self, added: Letter) -> None:
        place, key = added.place, added.key
        if key in self._cleared_ahead.pop(place, ()):
            self.cleared += 1
        elif self._wanted(added.letter):
            self._live[place] = added._replace(letter=added.letter.brief())
            self._by_key.setdefault(key, set()).add(place)

    def _clear(self, place: Place, key: str, by: Place) -> None:
        letter = self._live.get(place)
        if letter is None:
            if place.partition != by.partition:
                self._cleared_ahead.setdefault(place, set()).add(key)
        elif letter.key == key:
            self._drop(place)

    def _drop(self, place: Place) -> None:
        letter = self._live.pop(place)
        self._by_key[letter.key].remove(place)
        if not self._by_key[letter.key]:
            del self._by_key[letter.key]
        self.cleared += 1


def _places(text: bytes) -> Iterator[Place]:
    """Read the header; parts of it that are no places are passed over: they clear nothing."""
    for part in text.split(b",", MAX_CLEARED)[:MAX_CLEARED]:
        partition, _, offset = part.partition(b":")
        if partition.isdigit() and offset.isdigit() and len(part) <= 40:
            yield Place(int(partition), int(offset))
