"""How views write their files: whole rows at the end of one, or a whole file in one step."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

TAIL_BYTES: Final = 1024 * 1024
"""How far back the last whole line of a file is looked for: far more than a row can have."""


def append(path: Path, text: str) -> None:
    """Add whole lines to a file, all of them or none.

    Raises:
        OSError: they can't be written; the file is as it was.
    """
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError:
            os.ftruncate(descriptor, before)  # a full disk takes a part of what it is given
            raise
    finally:
        os.close(descriptor)


def replace(path: Path, text: str, modified_ms: int) -> None:
    """Give a file another content; readers see the old one or the new one.

    Args:
        path: of the file.
        text: its content.
        modified_ms: when it is to have been modified, in milliseconds since the epoch.

    Raises:
        OSError: it can't be written; the file is as it was.
    """
    # Hidden, and not ending in .csv: programs that collect registries by their names must not take it for one.
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        set_modified(temporary, modified_ms)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def set_modified(path: Path, modified_ms: int) -> None:
    """Say when a file was modified, in milliseconds since the epoch.

    Raises:
        OSError: that is not possible.
    """
    os.utime(path, ns=(modified_ms * 1_000_000, modified_ms * 1_000_000))


def modified_ms(path: Path) -> int:
    """Return when a file was modified, in milliseconds since the epoch.

    Raises:
        OSError: that can't be found out.
    """
    return path.stat().st_mtime_ns // 1_000_000


def last_line(path: Path) -> tuple[str, bool]:
    """Return a file's last line without its newline, and whether it has one; ("", True) if the file is empty.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        tail = file.read()
    ended = not tail or tail.endswith(b"\n")
    line = tail.removesuffix(b"\n").rpartition(b"\n")[2]
    return line.decode("utf-8", "replace"), ended


def cut_last_line(path: Path) -> None:
    """Take away what stands behind a file's last newline.

    Raises:
        OSError: that is not possible.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - TAIL_BYTES)
        file.seek(start)
        file.truncate(start + file.read().rfind(b"\n") + 1)
