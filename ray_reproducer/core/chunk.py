"""What one message on the source topic says: a slice of a file, or why it is none.

Rules:

1. Wire format (OpenMSIStream's ``DataFileChunk``, measured from its topics): a msgpack array
   ``[filename, SHA-512 of the file, SHA-512 of the chunk, write offset, index, count, subdir,
   filename_append, data, mtime]``. ``index`` counts from 1. ``mtime`` may be missing (9 elements);
   0 or less means unknown. Old producers wrote strings and hashes with msgpack's raw type.
2. A file version is (path, SHA-512 of the content, number of chunks). Keys of messages are never
   used: they collide.
3. Nothing is allocated by what a message *says*, only by what it *holds*: a size or count that can't
   be true is refused with a typed error before anything is done with it.
4. A path is relative, has no ``..``, and each of its parts could be the name of a file.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import msgpack

from ray_reproducer.core.errors import (
    ChunkFieldError,
    NotAChunkError,
    TombstoneError,
    UnsafePathError,
)
from ray_reproducer.core.once import once

HASH_BYTES: Final = 64
"""Length of a SHA-512 digest."""
VERSION_ID_BYTES: Final = 12
"""Length of a file version's short id; 96 bits keep accidental collisions out of reach."""
MAX_CHUNKS: Final = 2**31 - 1
"""Largest chunk count believed; 1 PiB in default chunks."""
MAX_WRITE_OFFSET: Final = 2**63 - 1
"""Largest write offset believed: what a signed 64-bit file offset can say."""
MAX_NAME_BYTES: Final = 255
"""Longest part of a path, in UTF-8 bytes (POSIX NAME_MAX on common file systems)."""
MAX_PATH_BYTES: Final = 4095
"""Longest path, in UTF-8 bytes (Linux PATH_MAX without its NUL)."""
VERSIONS_REMEMBERED: Final = 1024
"""How many file versions the decoder remembers: more than are usually being sent at a time."""
_MAX_NESTED: Final = 16
_FIELDS_WITHOUT_MTIME: Final = 9
_FIELDS: Final = 10


@dataclass(frozen=True)
class FileVersion:
    """Which content of which file a chunk belongs to.

    Attributes:
        subdir: directory relative to the root, parts joined by "/", "" for the root.
        filename: name of the file, without the append.
        filename_append: goes between stem and suffix of the reconstructed name.
        file_hash: SHA-512 of the whole content (64 bytes).
        n_chunks: in how many chunks the content was cut.
        mtime: seconds since the epoch when the file was last changed, if known. Not part of the identity.
    """

    subdir: str
    filename: str
    filename_append: str
    file_hash: bytes
    n_chunks: int
    mtime: float | None = field(default=None, compare=False)

    @classmethod
    def with_id(cls, fields: tuple[Any, ...], version_id: bytes) -> FileVersion:
        """Make one again whose id is known: a committer makes thousands a second.

        Args:
            fields: its ``fields``.
            version_id: its ``id``.
        """
        version = cls(*fields)
        version.__dict__["id"] = version_id  # where `once` keeps it
        return version

    @property
    def fields(self) -> tuple[str, str, str, bytes, int, float | None]:
        """What the constructor takes, in its order."""
        return self.subdir, self.filename, self.filename_append, self.file_hash, self.n_chunks, self.mtime

    @once
    def id(self) -> bytes:
        """Short id of this version: 12 bytes of BLAKE2b over the identity."""
        digest = hashlib.blake2b(self.file_hash, digest_size=VERSION_ID_BYTES)
        digest.update(f"{self.n_chunks}\0{self.relative_path}".encode())
        return digest.digest()

    @once
    def name(self) -> str:
        """Name of the reconstructed file: stem, append, suffix."""
        if not self.filename_append:
            return self.filename
        dot = self.filename.rfind(".")
        if dot <= 0 or dot == len(self.filename) - 1:
            return self.filename + self.filename_append
        return self.filename[:dot] + self.filename_append + self.filename[dot:]

    @once
    def relative_path(self) -> str:
        """Path of the reconstructed file relative to the root, with "/" between parts."""
        return f"{self.subdir}/{self.name}" if self.subdir else self.name

    @once
    def original_path(self) -> str:
        """Path relative to the root without the append: what a path filter is matched against."""
        return f"{self.subdir}/{self.filename}" if self.subdir else self.filename

    @once
    def result_key(self) -> str:
        """Key of this file's record on the result topic, as OpenMSIStream writes it."""
        prefix = self.subdir.replace("/", "_")
        return f"{prefix}_{self.name}_chunk_processing_result"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One slice of a file version.

    Attributes:
        version: the file version that it belongs to.
        index: which chunk it is, from 1 to ``version.n_chunks``.
        write_offset: where its data starts in the reconstructed file, in bytes.
        chunk_hash: SHA-512 of ``data`` (64 bytes); not checked here.
        data: the bytes.
    """

    version: FileVersion
    index: int
    write_offset: int
    chunk_hash: bytes
    data: bytes


def decode(value: bytes | None) -> Chunk:
    """Read one message of the source topic.

    Args:
        value: the message's value; None for a tombstone.

    Raises:
        TombstoneError: there is no value.
        NotAChunkError: the value is not a msgpack array of 9 or 10 elements.
        ChunkFieldError: a field has a wrong type, or its size or count can't be true.
        UnsafePathError: the path leaves the root, or is no path.
    """
    if value is None:
        raise TombstoneError("the message has no value (a tombstone)")
    fields = _unpack(value)
    name, file_hash, chunk_hash, write_offset, index, count, subdir, append, data = fields[:9]
    if not isinstance(data, bytes):
        raise ChunkFieldError(f"the data is {type(data).__name__}, not bytes")
    mtime = _mtime(fields[9]) if len(fields) == _FIELDS else None
    n_chunks = _integer(count, "number of chunks", 1, MAX_CHUNKS)
    # The chunks of a file say the same about it, one after the other: checked once, known for the rest.
    version = (_known_version if n_chunks > 1 else _version)(
        _bytes(name, "filename"),
        _digest(file_hash, "file hash"),
        n_chunks,
        _bytes(subdir, "subdirectory"),
        _bytes(append, "filename append"),
        mtime,
    )
    return Chunk(
        version=version,
        index=_integer(index, "chunk index", 1, version.n_chunks),
        write_offset=_integer(write_offset, "write offset", 0, MAX_WRITE_OFFSET - len(data)),
        chunk_hash=_digest(chunk_hash, "chunk hash"),
        data=data,
    )


def encode(chunk: Chunk) -> bytes:
    """Write a chunk as OpenMSIStream's uploader does (10 elements, bin type for bytes).

    An unknown ``mtime`` is written as 0.
    """
    version = chunk.version
    packed: bytes = msgpack.packb(
        [
            version.filename,
            version.file_hash,
            chunk.chunk_hash,
            chunk.write_offset,
            chunk.index,
            version.n_chunks,
            version.subdir,
            version.filename_append,
            chunk.data,
            float(version.mtime or 0.0),
        ],
        use_bin_type=True,
    )
    return packed


def message_key(chunk: Chunk) -> str:
    """Key under which OpenMSIStream's uploader sends a chunk; never used as an identity here."""
    version = chunk.version
    prefix = version.subdir.replace("/", "_")
    return f"{prefix}_{version.filename}_chunk_{chunk.index}_of_{version.n_chunks}"


def _unpack(value: bytes) -> list[Any]:
    # raw=True reads both dialects alike: strings and bytes all arrive as bytes. The limits bound what a
    # hostile header can make msgpack allocate; the data itself can't be longer than the message.
    try:
        fields = msgpack.unpackb(
            value,
            raw=True,
            max_array_len=_MAX_NESTED,
            max_map_len=_MAX_NESTED,
            max_str_len=len(value),
            max_bin_len=len(value),
            max_ext_len=0,
        )
    # msgpack documents ValueError's family and its own exceptions; nested junk may also raise
    # TypeError (unhashable keys) or RecursionError-like StackError, which is a ValueError.
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise NotAChunkError(f"the message is not msgpack of a chunk: {str(error) or type(error).__name__}") from None
    if not isinstance(fields, list):
        raise NotAChunkError(f"the message is msgpack of {type(fields).__name__}, not an array of 9 or 10 elements")
    if len(fields) not in (_FIELDS_WITHOUT_MTIME, _FIELDS):
        raise NotAChunkError(f"the message is a msgpack array of {len(fields)} elements; a chunk has 9 or 10")
    return fields


def _version(
    name: bytes, file_hash: bytes, count: int, subdir: bytes, append: bytes, mtime: float | None
) -> FileVersion:
    version = FileVersion(
        subdir=_subdir(_text(subdir, "subdirectory")),
        filename=_path_part(_text(name, "filename"), "filename"),
        filename_append=_append(_text(append, "filename append")),
        file_hash=file_hash,
        n_chunks=count,
        mtime=mtime,
    )
    _check_reconstructed_path(version)
    return version


_known_version: Final = lru_cache(maxsize=VERSIONS_REMEMBERED)(_version)


def _bytes(value: object, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise ChunkFieldError(f"the {what} is {type(value).__name__}, not a string")
    return value


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ChunkFieldError(f"the {what} is not UTF-8: {error}") from None


def _digest(value: object, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise ChunkFieldError(f"the {what} is {type(value).__name__}, not bytes")
    if len(value) != HASH_BYTES:
        raise ChunkFieldError(f"the {what} has {len(value)} bytes; a SHA-512 digest has {HASH_BYTES}")
    return value


def _integer(value: object, what: str, low: int, high: int) -> int:
    if type(value) is not int:
        raise ChunkFieldError(f"the {what} is {type(value).__name__}, not an integer")
    if not low <= value <= high:
        raise ChunkFieldError(f"the {what} is {value}; it must be from {low} to {high}")
    return value


def _mtime(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ChunkFieldError(f"the modification time is {type(value).__name__}, not a number")
    seconds = float(value)
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def _path_part(part: str, what: str) -> str:
    if part in ("", ".", ".."):
        raise UnsafePathError(f"the {what} {part!r} names no file")
    if "/" in part or "\0" in part:
        raise UnsafePathError(f"the {what} {part!r} holds a character that no file name can hold")
    if len(part.encode()) > MAX_NAME_BYTES:
        raise UnsafePathError(f"the {what} {part[:40]!r}... is longer than {MAX_NAME_BYTES} bytes")
    return part


def _subdir(subdir: str) -> str:
    if subdir in ("", "."):
        return ""
    if len(subdir.encode()) > MAX_PATH_BYTES:
        raise UnsafePathError(f"the subdirectory {subdir[:40]!r}... is longer than {MAX_PATH_BYTES} bytes")
    for part in subdir.split("/"):
        _path_part(part, f"part of the subdirectory {subdir[:200]!r},")
    return subdir


def _append(append: str) -> str:
    if "/" in append or "\0" in append:
        raise UnsafePathError(f"the filename append {append[:40]!r} holds a character that no file name can hold")
    if len(append.encode()) > MAX_NAME_BYTES:
        raise UnsafePathError(f"the filename append {append[:40]!r}... is longer than {MAX_NAME_BYTES} bytes")
    return append


def _check_reconstructed_path(version: FileVersion) -> None:
    if version.filename_append:
        _path_part(version.name, "reconstructed filename")
    if len(version.relative_path.encode()) > MAX_PATH_BYTES:
        raise UnsafePathError(f"the path {version.relative_path[:80]!r}... is longer than {MAX_PATH_BYTES} bytes")
