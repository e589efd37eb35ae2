"""The functions that every measured program calls: this file is what a user would have written.

It imports the standard library only, because OpenMSIStream's environment imports it too.
"""

from __future__ import annotations

import time
from typing import Any

PARSING_CPU_S = 0.1
"""CPU time that `parse` takes for one file, in seconds: that of a small text format in pure Python."""
PIECE_BYTES = 1_000_000
"""What `count_lines_in_pieces` reads at a time."""
_LINES_BETWEEN_CLOCKS = 50


def count_lines(datafile: Any) -> dict[str, Any]:
    """Count a file's lines: as cheap as looking at every byte can be.

    Args:
        datafile: anything with the file's bytes as `bytestring`.
    """
    content = datafile.bytestring
    return {
        "first_line": content[: content.index(b"\n")].decode().strip(),
        "lines": content.count(b"\n"),
        "bytes": len(content),
    }


def count_lines_in_pieces(datafile: Any) -> dict[str, Any]:
    """Count a file's lines without ever holding more of it than a piece: what a reader of large files does.

    Args:
        datafile: anything with the path of the file on disk as `full_filepath`.
    """
    lines = size = 0
    with datafile.full_filepath.open("rb") as stream:
        first_line = stream.readline().decode().strip()
        stream.seek(0)
        while piece := stream.read(PIECE_BYTES):
            lines += piece.count(b"\n")
            size += len(piece)
    return {"first_line": first_line, "lines": lines, "bytes": size}


def parse(datafile: Any) -> dict[str, Any]:
    """Read a file's numbers in pure Python, until `PARSING_CPU_S` of this thread's CPU time is used.

    The first pass gives the values; what time is left goes into reading the numbers again, so that a file costs
    the same on every machine and however busy it is.

    Args:
        datafile: anything with the file's bytes as `bytestring`.
    """
    end = time.thread_time() + PARSING_CPU_S
    metadata = count_lines(datafile)
    rows = datafile.bytestring.decode().splitlines()
    metadata["total"] = sum(map(_row_total, rows))
    while True:
        for start in range(0, len(rows), _LINES_BETWEEN_CLOCKS):
            if time.thread_time() >= end:
                return metadata
            sum(map(_row_total, rows[start : start + _LINES_BETWEEN_CLOCKS]))


def _row_total(row: str) -> int:
    if not row or row.startswith("#"):
        return 0
    return sum(int(number) for number in row.split(","))
