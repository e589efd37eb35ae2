"""What can be said of any file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_reproducer.data_file import DataFile
from ray_reproducer.extractors.file_info import file_info, media_type

Make = Callable[..., DataFile]


def test_everything_about_a_file(make: Make) -> None:
    content = b"a,b\n1,2\n" * 1000
    assert file_info(make(content, "x/y z/ü.csv", pieces=3, mtime=1_700_000_000.25)) == {
        "name": "ü.csv",
        "path": "x/y z/ü.csv",
        "size_bytes": 8000,
        "sha256": hashlib.sha256(content).hexdigest(),
        "media_type": "text/csv",
        "mtime": "2023-11-14T22:13:20.250000+00:00",
        "n_chunks": 3,
    }


@pytest.mark.parametrize("mtime", [None, 1e300, 1e12, float("inf")])
def test_a_time_that_is_unknown_or_in_no_calendar_is_none(make: Make, mtime: float | None) -> None:
    assert file_info(make(b"x", mtime=mtime))["mtime"] is None


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("a.txt", b"PAR1", "application/vnd.apache.parquet"),  # magic is believed before the name
        ("a", b"ARROW1\0\0xx", "application/vnd.apache.arrow.file"),
        ("a", b"\0" * 257 + b"ustar", "application/x-tar"),
        ("a.JPG", b"", "image/jpeg"),
        ("a.tar.gz", b"\x1f\x8b", "application/gzip"),
        ("notes.md", b"# x", "text/markdown"),
        ("a.jsonl", b"{}", "application/jsonl"),
        ("README", b"plain \xc3\xbc", "text/plain"),
        ("README", b"\xff\xfe", "application/octet-stream"),
        ("README", b"a\0b", "application/octet-stream"),
        ("empty", b"", "application/octet-stream"),
        ("dot.", b"x", "text/plain"),
    ],
)
def test_media_type(name: str, head: bytes, expected: str) -> None:
    assert media_type(name, head) == expected


@pytest.mark.parametrize("start", range(4))
def test_text_whose_character_is_cut_at_the_end_of_what_is_looked_at_is_text(make: Make, start: int) -> None:
    content = b"x" * start + "🙂".encode() * 2000
    assert file_info(make(content, "README"))["media_type"] == "text/plain"


def test_samples(samples: Path) -> None:
    types = {path.name: file_info(DataFile.from_path(path))["media_type"] for path in samples.rglob("*.*")}
    assert types["micrograph.png"] == "image/png"
    assert types["SrTiO₃ dünn.csv"] == "text/csv"
    assert "application/octet-stream" not in types.values()
