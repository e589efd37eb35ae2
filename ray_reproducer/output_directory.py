"""Where reconstructed files are written, and the promise that nothing is ever written anywhere else.

Rules:

1. A path is walked from the root part by part, each opened relative to its parent (``dir_fd``) and never through
   a symbolic link (``O_NOFOLLOW``). So neither ``..`` nor a link that somebody planted below the root, not even
   one planted while we walk, can lead out of it. The root itself may be a link: it is the user's own choice.
2. A file appears under its name whole or not at all: it is written under a temporary name in the same directory
   and renamed. No ``fsync``: after a power cut the file is written again from the topic.
3. A file whose content is there already is not written again, so that its modification time stays what it is.
4. Whatever the file system says no to ends as an :class:`OutputDirectoryError` that names the path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ray_reproducer.core.chunk import MAX_PATH_BYTES
from ray_reproducer.core.errors import OutputDirectoryError, PathInTheWayError, UnsafePathError

if TYPE_CHECKING:
    import pyarrow as pa

WRITE_BUFFER_BYTES: Final = 256 * 1024
"""Small pieces are gathered up to this size before the system is called; larger ones are written as they are."""
COMPARE_BYTES: Final = 1024 * 1024
"""How much of a file that is there already is read at a time to compare it: it stays in the processor's cache."""

_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_PERMISSION: Final = "Give this user write permission there, or choose another output_dir."
_IN_THE_WAY: Final = (
    "A file or a symbolic link stands where a directory must be (links below output_dir are not followed): "
    "remove it, or choose another output_dir."
)
_OTHERWISE: Final = "Choose another output_dir, or mend what the file system complains of."
_HINTS: Final = {
    errno.ENOSPC: "The disk is full: make room, or choose an output_dir on another disk.",
    errno.EDQUOT: "This user's disk quota is used up: make room, or choose an output_dir on another disk.",
    errno.EFBIG: "The file is larger than this file system, or this user's limit (ulimit -f), allows.",
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: "The file system is read-only: choose an output_dir on another one.",
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ELOOP: _IN_THE_WAY,
    errno.EISDIR: "A directory has the name that the file must have: remove it, or choose another output_dir.",
    errno.ENAMETOOLONG: "This file system allows no path or name of that length: choose a shorter output_dir.",
    errno.EMFILE: "Too many files are open: raise the limit (ulimit -n).",
}


_BECAUSE_OF_ITS_PATH: Final = frozenset(
    {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EEXIST, errno.EINVAL}
)
"""What concerns one file only: a directory, a link or a file of another name is in its way. All else concerns all."""


@dataclass(frozen=True, slots=True)
class OutputDirectory:
    """The directory below which reconstructed files are written.

    Attributes:
        root: absolute path; made with its parents when something is first written.
    """

    root: Path

    def check(self) -> None:
        """Make the directory if need be and try to write in it, to fail at the start instead of at each file.

        Raises:
            OutputDirectoryError: it can't be made, or nothing can be written in it.
        """
        with self._explained(""), self._walk(()) as directory:
            name = _temporary_name()
            descriptor = os.open(name, _CREATE_FLAGS, 0o666, dir_fd=directory)
            try:
                os.write(descriptor, b"\0")  # an empty file can be made on a full disk
            finally:
                os.close(descriptor)
                os.unlink(name, dir_fd=directory)

    def write(self, relative_path: str, pieces: Sequence[memoryview], mtime: float | None = None) -> int:
        """Write a file, unless its content is there already.

        Args:
            relative_path: where, relative to the root, with "/" between parts. Parents are made.
            pieces: the content, as one-dimensional views of bytes, in order.
            mtime: modification time to give to a file that is written, in seconds since the epoch.

        Returns:
            A file descriptor, open for reading, of exactly what was written or found, whatever happens to its name
            later. The caller closes it.

        Raises:
            PathInTheWayError: the file can't be written because of what is in its way.
            OutputDirectoryError: the file can't be written (full disk, permission).
            UnsafePathError: the path is not relative, or has parts that name no file.
        """
        *parents, name = _parts(relative_path)
        with self._explained(relative_path):
            self._check_length(relative_path)
        with self._explained(relative_path), self._walk(parents) as directory:
            found = _open_same(directory, name, pieces)
            return _replace(directory, name, pieces, mtime) if found is None else found

    def _check_length(self, relative_path: str) -> None:
        # Part by part it could be written all the same, but nobody could open it by the path that they are given.
        if len(os.fsencode(self.root / relative_path)) > MAX_PATH_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

    @contextlib.contextmanager
    def _explained(self, relative_path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            number = error.errno or 0
            code = errno.errorcode.get(number, "no errno")
            path = str(self.root / relative_path)
            kind = PathInTheWayError if number in _BECAUSE_OF_ITS_PATH and relative_path else OutputDirectoryError
            raise kind(
                f"can't write {path!r}: {error.strerror or error} ({code})", hint=_HINTS.get(number, _OTHERWISE)
            ) from error

    def _open_root(self) -> int:
        # Without the file's path: what is wrong with the root concerns all files.
        with self._explained(""):
            try:
                return os.open(self.root, _DIRECTORY_FLAGS)
            except FileNotFoundError:
                self.root.mkdir(parents=True, exist_ok=True)
            return os.open(self.root, _DIRECTORY_FLAGS)

    @contextlib.contextmanager
    def _walk(self, parts: Sequence[str]) -> Iterator[int]:
        """Open, and make where missing, the directory that lies ``parts`` below the root."""
        directory = self._open_root()
        try:
            for part in parts:
                child = _open_child(directory, part)
                os.close(directory)
                directory = child
            yield directory
        finally:
            os.close(directory)


def _parts(relative_path: str) -> list[str]:
    parts = relative_path.split("/")
    for part in parts:
        # The chunk's decoder refuses these too; here they would break the promise, so this place knows by itself.
        if part in ("", ".", "..") or "\0" in part:
            raise UnsafePathError(f"the path {relative_path[:200]!r} has a part that names no file: {part!r}")
    return parts


def _open_child(directory: int, name: str) -> int:
    try:
        return os.open(name, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=directory)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # another worker may have been faster
            os.mkdir(name, dir_fd=directory)
    return os.open(name, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=directory)


def _open_same(directory: int, name: str, pieces: Sequence[memoryview]) -> int | None:
    """Open the file that has this name and this content; None if there is none."""
    try:
        descriptor = os.open(name, _READ_FLAGS, dir_fd=directory)
    except OSError:
        return None  # missing, a link, unreadable: replacing it finds out what can be done
    same = False
    try:
        same = _has_content(descriptor, pieces)
    finally:
        if not same:
            os.close(descriptor)
    return descriptor if same else None


def _has_content(descriptor: int, pieces: Sequence[memoryview]) -> bool:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != sum(map(len, pieces)):
        return False
    position = 0
    for piece in pieces:
        expected = _arrow_buffer(piece)
        for start in range(0, len(piece), COMPARE_BYTES):
            wanted = expected.slice(start, min(COMPARE_BYTES, len(piece) - start))
            # Arrow compares by memcmp: views of memory compare their elements one by one, 80 times slower.
            if not wanted.equals(_arrow_buffer(os.pread(descriptor, wanted.size, position))):
                return False
            position += wanted.size
    return True


def _arrow_buffer(data: bytes | memoryview) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(data)


def _replace(directory: int, name: str, pieces: Sequence[memoryview], mtime: float | None) -> int:
    temporary = _temporary_name()
    descriptor = os.open(temporary, _CREATE_FLAGS, 0o666, dir_fd=directory)
    try:
        with open(descriptor, "wb", buffering=WRITE_BUFFER_BYTES, closefd=False) as file:
            file.writelines(pieces)
        if mtime is not None:
            _set_mtime(descriptor, mtime)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.close(descriptor)
        os.unlink(temporary, dir_fd=directory)
        raise
    return descriptor


def _set_mtime(descriptor: int, mtime: float) -> None:
    # A chunk may claim any time; one that no clock can show is no reason to lose the file.
    with contextlib.suppress(OverflowError, ValueError):
        os.utime(descriptor, (mtime, mtime))


def _temporary_name() -> str:
    # Hidden, and short enough for every file system; random, because two workers may write the same file at a time.
    return f".{secrets.token_hex(12)}.part"
