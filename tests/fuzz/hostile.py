"""What a hostile sender may send: names, numbers and bytes that were chosen to do harm, and damage to what is valid."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import msgpack
from hypothesis import strategies as st

from ray_reproducer.core.chunk import MAX_CHUNKS, MAX_WRITE_OFFSET

NAMES = (
    "", ".", "..", "...", "/", "//", "a/../../b", "../../../../etc/passwd", "/etc/passwd", "a\0b", "\0", "C:\\a",
    "..\\..\\a",
    "~", "~root/.ssh", "$HOME", "${oc.env:HOME}", "%2e%2e%2f", "a" * 255, "a" * 256, "ü" * 128, "😀" * 64,
    "\u202egnp.exe",
    "\u2024\u2024/a", "\uff0e\uff0e/a", "．．", "a\u0301", "\ufeffa", "\ufffe", "con", "nul", " ", "\n", "a\nb", "\t",
    "-rf", "*", "|id",
    ".part", ".hidden", "a.", ".a", "a.b.c", "a/", "/a", "a//b", "a/./b", "a/b/../c", "/".join("d" * 300),
    "/".join(["d" * 255] * 16),
)  # fmt: skip
NUMBERS = (-(2**63), -1, 0, 1, 2, 3, 254, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)

names = st.sampled_from(NAMES) | st.text(max_size=40) | st.text(st.sampled_from("./\\\0a~é‥"), max_size=20)
numbers = st.sampled_from(NUMBERS) | st.integers(-(2**63), 2**64 - 1)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | st.binary(max_size=80) | names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def fields(draw: st.DrawFn) -> list[Any]:
    """The elements of a chunk's array, each of them valid or not."""
    data = draw(st.binary(max_size=200))
    count = draw(st.integers(1, 4) | st.sampled_from([MAX_CHUNKS, MAX_CHUNKS + 1]) | numbers)
    values: list[Any] = [
        draw(names),
        draw(st.just(hashlib.sha512(data).digest()) | st.binary(min_size=64, max_size=64)),
        hashlib.sha512(data).digest(),
        draw(st.just(0) | st.sampled_from([MAX_WRITE_OFFSET - len(data), MAX_WRITE_OFFSET]) | numbers),
        draw(st.just(1) | st.just(count) | numbers),
        count,
        draw(names),
        draw(st.just("") | names),
        data,
        draw(st.floats() | st.none() | numbers),
    ]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        values[draw(st.integers(0, 9))] = draw(anything)
    return values[: draw(st.sampled_from([10, 10, 10, 9, 8, 0]))] + draw(st.sampled_from([[], [], [], [None]]))


@st.composite
def packed(draw: st.DrawFn) -> bytes:
    """A message whose elements may be anything."""
    value: bytes = msgpack.packb(draw(fields()), use_bin_type=draw(st.booleans()), unicode_errors="surrogatepass")
    return value


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with bits turned over, pieces cut out, put in, doubled, or taken from the end."""
    value = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(value)))
        length = draw(st.integers(0, 8))
        kind = draw(st.integers(0, 4))
        if kind == 0 and at < len(value):
            value[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            value[at : at + length] = draw(st.binary(max_size=8))
        elif kind == 2:
            value[at:at] = value[at : at + length] * draw(st.sampled_from([1, 1, 50]))
        elif kind == 3:
            del value[at:]
        else:
            value[at : at + 1] = bytes([draw(st.sampled_from([0xC1, 0xC6, 0xC9, 0xDB, 0xDD, 0xDF, 0xFF, 0x80, 0x00]))])
    return bytes(value)


messages = st.none() | st.binary(max_size=300) | packed() | damaged(packed())


def remove_deep(directory: Path) -> None:
    """Remove a tree that may be deeper than Python's own removal can go (and pytest's, which would clean up later)."""
    subprocess.run(["rm", "-rf", "--", str(directory)], check=True)
