"""The files of a directory tree in a fixed order: those of a directory by name, then its subdirectories by name.

Links are not followed, so that nothing outside of the tree is read and no circle is walked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file.

    Attributes:
        path: where it is.
        relative: its path relative to the root, parts joined by "/".
    """

    path: Path
    relative: str


def walk(
    root: Path, on_problem: Callable[[str, str], None], on_skipped: Callable[[], None] = lambda: None
) -> Iterator[FoundFile]:
    """Yield the regular files of a tree in order.

    Args:
        root: where it begins.
        on_problem: called with a relative path and a reason for what can't be listed.
        on_skipped: called for each link, and for whatever else is neither file nor directory.
    """
    # Not by recursion: a tree may be deeper than Python's stack.
    waiting = [""]
    while waiting:
        relative = waiting.pop()
        try:
            with os.scandir(root / relative) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            on_problem(relative or ".", f"can't be listed: {error.strerror}")
            continue
        directories = []
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                yield FoundFile(Path(entry.path), f"{relative}{entry.name}")
            elif entry.is_dir(follow_symlinks=False):
                directories.append(f"{relative}{entry.name}/")
            else:
                on_skipped()
        waiting.extend(reversed(directories))


def name_problem(relative: str) -> str:
    """Say why a file with this path can't be sent, or return ""."""
    try:
        relative.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8, which the format demands; rename it"
    return ""


def printable(relative: str) -> str:
    """Return a path as text that can be printed, whatever its bytes are."""
    return os.fsencode(relative).decode("utf-8", "backslashreplace")
