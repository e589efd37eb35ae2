"""The files of a directory tree in a fixed order: those of a directory by name, then its subdirectories by name.

Rules:

1. Links are not followed, so that nothing outside of the tree is read and no circle is walked. That holds also for what
   is replaced while the tree is walked: each step down is taken from a directory that is open, never by a whole path.
   Only the root may be a link: its name is what the user gave.
2. What is listed as a file is read only if it still is one when it is opened: nobody waits for the writer of a pipe.
3. A few descriptors are open at a time, however deep the tree is; none when the walk is closed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ray_reproducer.core.chunk import MAX_PATH_BYTES

_ROOT: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY: Final = _ROOT | os.O_NOFOLLOW
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Without O_NONBLOCK, opening a pipe waits for its writer."""
_OF_NO_FILE: Final = frozenset((errno.ELOOP, errno.ENXIO))
"""Errors of ``open`` that mean: a link, a socket."""
_CHANGED: Final = "it was listed as a file and is none any more"


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file; it can be looked at until the walk is asked for the next one, which may close its directory.

    Attributes:
        relative: its path relative to the root, parts joined by "/".
        directory: descriptor of the directory that it is in.
    """

    relative: str
    directory: int

    def open(self) -> BinaryIO:
        """Open it to be read, without a buffer.

        Raises:
            OSError: it can't be opened, or is no regular file any more.
        """
        _check_length(self.relative)
        try:
            descriptor = os.open(self._name, _FILE, dir_fd=self.directory)
        except BlockingIOError:
            descriptor = self._open_leased()
        except OSError as error:
            if error.errno in _OF_NO_FILE:
                raise OSError(error.errno, _CHANGED) from error
            raise
        try:
            _check_regular(os.fstat(descriptor))
            os.set_blocking(descriptor, True)
            return os.fdopen(descriptor, "rb", buffering=0)
        except BaseException:
            os.close(descriptor)
            raise

    def _open_leased(self) -> int:
        """Open a file that another program has a lease on (Samba, NFS), waiting until the kernel has taken it back."""
        place = os.open(self._name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory)
        try:
            _check_regular(os.fstat(place))
            # The very file that was looked at, whatever stands at its path by now.
            return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(place)

    def size_bytes(self) -> int:
        """Return how large it is now.

        Raises:
            OSError: it can't be looked at, or is no regular file any more.
        """
        status = os.stat(self._name, dir_fd=self.directory, follow_symlinks=False)
        _check_regular(status)
        return status.st_size

    @property
    def _name(self) -> str:
        return self.relative.rpartition("/")[2]


def walk(
    root: Path, on_problem: Callable[[str, str], None], on_skipped: Callable[[], None] = lambda: None
) -> Generator[FoundFile, None, None]:
    """Yield the regular files of a tree in order. Close it if it isn't walked to its end (``contextlib.closing``).

    Args:
        root: where it begins.
        on_problem: called with a relative path and a reason for what can't be listed.
        on_skipped: called for each link, and for whatever else is neither file nor directory.
    """
    with ExitStack() as closing:
        try:
            top = os.open(root, _ROOT)
        except OSError as error:
            on_problem(".", f"can't be listed: {error.strerror}")
            return
        closing.callback(os.close, top)
        # Not by recursion: a tree may be deeper than Python's stack.
        waiting = [""]
        while waiting:
            relative = waiting.pop()
            subdirectories = yield from _files(top, relative, on_problem, on_skipped)
            waiting.extend(f"{relative}{name}/" for name in reversed(subdirectories))


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


def _files(
    top: int, relative: str, on_problem: Callable[[str, str], None], on_skipped: Callable[[], None]
) -> Generator[FoundFile, None, list[str]]:
    """Yield the files of one directory; return the names of its subdirectories."""
    files: list[str] = []
    subdirectories: list[str] = []
    with ExitStack() as closing:
        try:
            directory = closing.enter_context(_directory(top, relative))
            with os.scandir(directory) as listing:
                for entry in sorted(listing, key=lambda entry: os.fsencode(entry.name)):
                    if entry.is_file(follow_symlinks=False):
                        files.append(entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        subdirectories.append(entry.name)
                    else:
                        on_skipped()
        except OSError as error:
            on_problem(relative or ".", f"can't be listed: {error.strerror}")
            return []
        for name in files:
            yield FoundFile(f"{relative}{name}", directory)
    return subdirectories


@contextmanager
def _directory(top: int, relative: str) -> Iterator[int]:
    """Open a directory below ``top``, part by part, so that none of them is a link.

    From the top each time: to keep open all that lead to it would take more descriptors than a process may have.
    """
    _check_length(relative)
    directory = os.dup(top)
    try:
        for name in relative.split("/")[:-1]:
            below = os.open(name, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = below
        yield directory
    finally:
        os.close(directory)


def _check_length(relative: str) -> None:
    """Refuse a path that no reader could open as a whole, and that the format's readers refuse."""
    if len(os.fsencode(relative)) > MAX_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, _CHANGED)
