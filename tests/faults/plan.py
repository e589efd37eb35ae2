"""What is put on the source topic, batch after batch, all of it following from a seed; and what is due for it.

Rules:

1. A batch is made of its number and the seed alone. Paths begin with the number of the batch, so a record that is seen
   tells which batch it belongs to, also long after the batch was forgotten.
2. Each kind of file is in its name (``007_raises.dat``), where the extractor reads what to do. What is due for it is
   known beforehand: the value that the same function gives here, or the reason of the dead letter.
3. Chunks of all files of a batch are shuffled over each other and over the partitions.
4. Some chunks come again, of any partition, at any moment: before their file is whole, or after; and of earlier
   batches, whole files or single chunks of them. None of that may give anything: the files are finished.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ray_reproducer.core.chunk import encode
from tests.workload import Rubbish, SentFile, cut, rubbish

FILES: Final = {
    # kind: how often, reason, smallest and largest size, bytes a chunk
    "small": (30, "", 1, 2_000, 4_000),
    "several": (12, "", 20_000, 200_000, 16_000),
    "large": (1, "", 1_500_000, 4_000_000, 500_000),
    "version": (3, "", 2_000, 30_000, 8_000),
    "raises": (1, "extractor_raised", 1, 20_000, 4_000),
    "list": (1, "not_a_dict", 1, 20_000, 4_000),
    "huge": (1, "not_json", 1, 20_000, 4_000),
    "liar": (1, "hash_mismatch", 1, 20_000, 4_000),
}
"""Kinds of files that cost little, and how they are mixed."""
COSTLY: Final = {"exits": "worker_crashed", "segfault": "worker_crashed", "hangs": "timeout"}
"""Kinds that cost a worker process each time: only as many as are asked for. Kind -> reason of the dead letter."""
_REPEATED: Final = 0.15
"""Share of the good files of which some chunk is there twice."""
_AGAIN: Final = 2
"""How many files of an earlier batch are uploaded again, and of how many others a single chunk comes again."""


@dataclass
class Batch:
    """Some files and rubbish, and the messages that they make.

    Attributes:
        number: from 1.
        files: file versions, with what is due for each.
        rubbish: messages that are no chunks.
        messages: owner, value and partition, in the order in which they are put on the topic.
    """

    number: int
    files: list[SentFile] = field(default_factory=list)
    rubbish: list[Rubbish] = field(default_factory=list)
    messages: list[tuple[SentFile | Rubbish, bytes | None, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many outcomes are due."""
        return len(self.files) + len(self.rubbish)


class Plan:
    """Makes batches.

    Args:
        seed: what all follows from.
        partitions: of the source topic.
    """

    def __init__(self, seed: int, partitions: int) -> None:
        self._seed = seed
        self._partitions = partitions

    def batch(
        self,
        number: int,
        files: int,
        costly: int = 0,
        rubbish_messages: int = 2,
        earlier: Batch | None = None,
        *,
        repeats_chunks: bool = True,
    ) -> Batch:
        """Make one.

        Args:
            number: of the batch.
            files: how many file versions, those that are ``costly`` included.
            costly: how many of the kinds that cost a worker process.
            rubbish_messages: how many messages that are no chunks.
            earlier: a batch of which something comes again.
            repeats_chunks: whether some chunks of its own come twice.
        """
        dice = random.Random(f"{self._seed} {number}")
        batch = Batch(number)
        kinds = dice.choices(list(FILES), [often for often, *_ in FILES.values()], k=files - costly)
        kinds += dice.choices(list(COSTLY), k=costly)
        dice.shuffle(kinds)
        for index, kind in enumerate(kinds):
            batch.files += self._versions(f"{number:06d}/{index:03d}_{kind}.dat", kind, dice)
        batch.rubbish = dice.sample(rubbish(), k=rubbish_messages)
        again = self._again(earlier, dice) if earlier else []
        batch.messages = self._mixed(batch, again, dice, _REPEATED if repeats_chunks else 0.0)
        return batch

    def _versions(self, path: str, kind: str, dice: random.Random) -> Iterator[SentFile]:
        if kind in COSTLY:
            yield cut(path, path.encode(), reason=COSTLY[kind])
            return
        _, reason, smallest, largest, chunk_bytes = FILES[kind]
        for _ in range(2 if kind == "version" else 1):
            # A first line that no other file has, so that no two versions are equal.
            content = f"{path} {dice.getrandbits(64):x}\n".encode() + dice.randbytes(dice.randint(smallest, largest))
            wrong = hashlib.sha512(b"of something else" + content).digest() if kind == "liar" else None
            yield cut(path, content, reason=reason, file_hash=wrong, chunk_bytes=chunk_bytes)

    @staticmethod
    def _again(earlier: Batch, dice: random.Random) -> list[tuple[SentFile | Rubbish, bytes | None]]:
        """Messages of an earlier batch: of some good files all, of others one."""
        good = [file for file in earlier.files if not file.reason]
        chosen = dice.sample(good, k=min(len(good), 2 * _AGAIN))
        messages: list[tuple[SentFile | Rubbish, bytes | None]] = []
        for number, file in enumerate(chosen):
            chunks = file.chunks if number < _AGAIN else [dice.choice(file.chunks)]
            messages += [(file, encode(chunk)) for chunk in chunks]
        return messages

    def _mixed(
        self, batch: Batch, again: list[tuple[SentFile | Rubbish, bytes | None]], dice: random.Random, repeated: float
    ) -> list[tuple[SentFile | Rubbish, bytes | None, int]]:
        """All messages in rule 3's disorder."""
        messages: list[tuple[SentFile | Rubbish, bytes | None]] = [(bad, bad.value) for bad in batch.rubbish]
        messages += again
        for file in batch.files:
            messages += [(file, encode(chunk)) for chunk in file.chunks]
            if not file.reason and dice.random() < repeated:
                messages.append((file, encode(dice.choice(file.chunks))))
        dice.shuffle(messages)
        return [(owner, value, dice.randrange(self._partitions)) for owner, value in messages]
