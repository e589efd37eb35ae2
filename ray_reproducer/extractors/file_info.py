"""What can be said of any file: size, SHA-256, media type, modification time."""

from __future__ import annotations

import hashlib
import mimetypes
from datetime import datetime, timezone
from typing import Any, Final

from ray_reproducer.data_file import DataFile

_MAGIC: Final = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PAR1", "application/vnd.apache.parquet"),
    (0, b"ARROW1\0\0", "application/vnd.apache.arrow.file"),
    (0, b"\x89HDF\r\n\x1a\n", "application/x-hdf5"),
    (0, b"CDF\x01", "application/x-netcdf"),
    (0, b"\x1f\x8b", "application/gzip"),
    (257, b"ustar", "application/x-tar"),
)
"""Where in the file, which bytes, which type: for types that names often hide."""

_SUFFIXES: Final = {
    ".arrows": "application/vnd.apache.arrow.stream",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".ndjson": "application/jsonl",
    ".orc": "application/vnd.apache.orc",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
"""What Python's own table lacks in some of its versions."""

# Without the files of the machine it runs on: the same file must give the same metadata on every node.
_TYPES_BY_NAME: Final = mimetypes.MimeTypes()
_HEAD_BYTES: Final = 4096


def file_info(datafile: DataFile) -> dict[str, Any]:
    """Describe a file without reading what it says.

    Returns:
        ``name``, ``path`` (relative), ``size_bytes``, ``sha256`` (hex), ``media_type``, ``mtime`` (ISO 8601, UTC;
        None if unknown) and ``n_chunks`` in which it travelled.
    """
    digest = hashlib.sha256()
    for piece in datafile.pieces:
        digest.update(piece)
    return {
        "name": datafile.filename,
        "path": datafile.relative_filepath.as_posix(),
        "size_bytes": datafile.size_bytes,
        "sha256": digest.hexdigest(),
        "media_type": media_type(datafile.filename, datafile.open().read(_HEAD_BYTES)),
        "mtime": _iso(datafile.mtime),
        "n_chunks": datafile.n_total_chunks,
    }


def media_type(name: str, head: bytes) -> str:
    """Guess a media type from a file's first bytes, then its name, then from whether it looks like text."""
    for start, magic, kind in _MAGIC:
        if head.startswith(magic, start):
            return kind
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    by_name = _SUFFIXES.get(suffix) or _TYPES_BY_NAME.types_map[True].get(suffix)
    return by_name or ("text/plain" if _is_text(head) else "application/octet-stream")


def _is_text(head: bytes) -> bool:
    # The head may end inside a character of up to 4 bytes: the last 3 bytes decide nothing.
    text = head if len(head) < _HEAD_BYTES else head[:-3]
    try:
        return bool(text) and "\0" not in text.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(text) - 3 and len(head) == _HEAD_BYTES


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, tz=timezone.utc).isoformat()
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        return None
