"""What an extractor is given: one whole file, as bytes in memory, as a file on disk, or both.

Rules:

1. No byte is copied before somebody asks for something that needs a copy. The file arrives as pieces, views of
   memory that workers share; ``pieces``, ``open()`` and hashing need no more than these.
2. What is joined is joined once, and the pieces are let go then: a file is never held in memory twice for long.
3. In "disk" mode the content comes from the file that was written, by a memory map of exactly that file: another
   version of the same path, written meanwhile, does not change what this extractor sees.
"""

from __future__ import annotations

import hashlib
import io
import logging
import mmap
import os
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.output_directory import OutputDirectory

if TYPE_CHECKING:
    from types import TracebackType

    import pyarrow as pa
    from _typeshed import WriteableBuffer

DataFileMode = Literal["memory", "disk", "both"]

READ_BUFFER_BYTES: Final = 64 * 1024
"""What ``open()`` reads ahead, for parsers that ask for a line or a few bytes at a time."""

_LOGGER: Final = logging.getLogger("ray_reproducer.extractor")


class DataFile:
    """One whole file, with its path and its content.

    Args:
        version: which file, which content.
        pieces: the content's bytes in order. They are not copied, and must not change.
        root: output directory; paths on disk are below it.
        mode: "memory": the content is in memory only. "disk": it is in a file below the root, and read from there.
            "both": in memory, and in a file. ``write()`` writes that file; the program calls it before the
            extractor, and in "disk" mode the first look at the content does if nobody has.
        logger: where the extractor may log to.
    """

    def __init__(
        self,
        version: FileVersion,
        pieces: Sequence[memoryview | bytes],
        *,
        root: Path,
        mode: DataFileMode = "memory",
        logger: logging.Logger | None = None,
    ) -> None:
        self._pieces: tuple[memoryview, ...] | None = tuple(filter(len, map(_byte_view, pieces)))
        self._size_bytes = sum(map(len, self._pieces))
        self._version = version
        self._root = root
        self._mode: DataFileMode = mode
        self._written = False
        self.logger = logger if logger is not None else _LOGGER

    @classmethod
    def from_path(cls, path: str | Path, root: str | Path | None = None) -> DataFile:
        """Take a file from disk, to try an extractor on it: ``xrd_csv(DataFile.from_path("a.csv"))``.

        Args:
            path: the file; it is read whole.
            root: directory that ``relative_filepath`` is relative to; default: the file's own.

        Raises:
            OSError: the file can't be read.
            ValueError: the file is not below the root.
        """
        file = Path(path).absolute()
        top = Path(root).absolute() if root is not None else file.parent
        subdir = file.parent.relative_to(top).as_posix()
        content = file.read_bytes()
        version = FileVersion(
            subdir="" if subdir == "." else subdir,
            filename=file.name,
            filename_append="",
            file_hash=hashlib.sha512(content).digest(),
            n_chunks=1,
            mtime=file.stat().st_mtime,
        )
        return cls(version, [content], root=top)

    # --- which file ---

    @property
    def filename(self) -> str:
        """Name of the file."""
        return self._version.name

    @property
    def subdir_str(self) -> str:
        """Directory relative to the root, with "/" between parts; "" for the root itself."""
        return self._version.subdir

    @cached_property
    def relative_filepath(self) -> Path:
        """Path relative to the root."""
        return Path(self._version.relative_path)

    @cached_property
    def full_filepath(self) -> Path:
        """Absolute path below the output directory. The file exists in "disk" and "both" mode."""
        return self._root.absolute() / self._version.relative_path

    @property
    def filepath(self) -> Path:
        """Another name of ``full_filepath``."""
        return self.full_filepath

    @property
    def size_bytes(self) -> int:
        """Length of the content."""
        return self._size_bytes

    @property
    def n_total_chunks(self) -> int:
        """In how many chunks the file travelled."""
        return self._version.n_chunks

    @property
    def check_file_hash(self) -> bytes:
        """SHA-512 of the content, as its sender said (64 bytes)."""
        return self._version.file_hash

    @property
    def mtime(self) -> float | None:
        """When the file was last changed at its source, in seconds since the epoch; None if unknown."""
        return self._version.mtime

    # --- its content ---

    @property
    def pieces(self) -> tuple[memoryview, ...]:
        """The content without any copy: read-only views of bytes, in order, none of them empty.

        For hashing and for writing elsewhere. ``b"".join(datafile.pieces) == datafile.bytestring``.
        """
        if self._mode == "disk" and not self._written:
            self.write()
        if self._pieces is None:
            raise ValueError(f"{self._version.relative_path!r} is closed")
        return self._pieces

    @property
    def bytestring(self) -> bytes:
        """The content as bytes: joined once and kept; in "disk" mode read from the file each time."""
        pieces = self.pieces
        if len(pieces) == 1 and isinstance(pieces[0].obj, bytes) and len(pieces[0].obj) == self._size_bytes:
            return pieces[0].obj
        content = b"".join(pieces)
        if self._mode != "disk" and content:
            self._pieces = (memoryview(content),)
        return content

    @property
    def buffer(self) -> pa.Buffer:
        """The content as one Arrow buffer (``pyarrow.Buffer``), which pyarrow and numpy read in place.

        Not a copy if the content lies in one place in memory, as it does for most files; else ``bytestring`` is.
        In "disk" mode it is a memory map of the file.
        """
        import pyarrow as pa

        parts = [pa.py_buffer(piece) for piece in self.pieces]
        if len(parts) == 1:
            return parts[0]
        if parts and all(left.address + left.size == right.address for left, right in pairwise(parts)):
            return pa.foreign_buffer(parts[0].address, self._size_bytes, base=parts)
        return pa.py_buffer(self.bytestring)

    def open(self) -> io.BufferedReader:
        """Open the content for reading, like a file opened with "rb": seekable, and nothing is joined."""
        return io.BufferedReader(_PiecesReader(self.pieces), READ_BUFFER_BYTES)

    # --- its file on disk, its life ---

    def write(self) -> None:
        """Write the content to ``full_filepath``, unless it is there already.

        The file has its source's modification time, if known. Temporary names that a killed process leaves behind
        end in ".part" and may be deleted. In "disk" mode the memory is let go, and the content read from the file.

        Raises:
            OutputDirectoryError: the file can't be written (full disk, permission, a link or file in the way).
            UnsafePathError: the path leaves the root.
        """
        if self._written:
            return
        if self._pieces is None:
            raise ValueError(f"{self._version.relative_path!r} is closed")
        directory = OutputDirectory(self._root.absolute())
        descriptor = directory.write(self._version.relative_path, self._pieces, self._version.mtime)
        try:
            if self._mode == "disk" and self._size_bytes:
                self._pieces = (memoryview(mmap.mmap(descriptor, self._size_bytes, access=mmap.ACCESS_READ)),)
        finally:
            os.close(descriptor)
        self._written = True

    def close(self) -> None:
        """Let the content go; looking at it afterwards raises ValueError.

        What ``bytestring``, ``buffer`` and ``open()`` gave before stays valid. A file on disk stays.
        """
        self._pieces = None

    def __enter__(self) -> DataFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"DataFile({self._version.relative_path!r}, {self._size_bytes} bytes, mode={self._mode!r})"


def _byte_view(piece: memoryview | bytes) -> memoryview:
    if type(piece) is bytes:
        return memoryview(piece)
    view = memoryview(piece).toreadonly()
    return view if view.format == "B" and view.ndim == 1 and view.c_contiguous else view.cast("B")


class _PiecesReader(io.RawIOBase):
    """Reads pieces one after the other, as if they were one file."""

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        super().__init__()
        self._pieces = pieces
        self._starts = list(accumulate(map(len, pieces), initial=0))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}
        if whence not in origins:
            raise ValueError(f"whence is {whence}; it must be 0, 1 or 2")
        position = origins[whence] + offset
        if position < 0:
            raise ValueError(f"can't seek to {position}, before the start of the file")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(target) and (rest := self._rest_of_piece()):
            taken = min(len(rest), len(target) - filled)
            target[filled : filled + taken] = rest[:taken]
            filled += taken
            self._position += taken
        return filled

    def readall(self) -> bytes:
        views = []
        while rest := self._rest_of_piece():
            views.append(rest)
            self._position += len(rest)
        return b"".join(views)

    def _rest_of_piece(self) -> memoryview | None:
        """View of the piece that holds the position, from there on; None at the end of the file."""
        number = bisect_right(self._starts, self._position) - 1
        if number >= len(self._pieces):
            return None
        return self._pieces[number][self._position - self._starts[number] :]

    def close(self) -> None:
        self._pieces = ()
        self._starts = [0]
        super().close()
