"""The wire format to the byte, and everything that may arrive in its place."""

from __future__ import annotations

import hashlib
import pickle
import struct
import time
from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.chunk import (
    MAX_NAME_BYTES,
    MAX_PATH_BYTES,
    Chunk,
    FileVersion,
    decode,
    encode,
    message_key,
)
from ray_reproducer.core.errors import (
    ChunkError,
    ChunkFieldError,
    NotAChunkError,
    TombstoneError,
    UnsafePathError,
)

FILE_HASH = bytes(range(64))
CHUNK_HASH = bytes(range(64, 128))
DATA = b"x,y\n1,2\n"
QUICKLY_S = 2.0
"""Refusing takes microseconds; a machine that runs tests may be busy."""


def a_chunk(**version_fields: Any) -> Chunk:
    fields: dict[str, Any] = {
        "subdir": "a/b",
        "filename": "g.csv",
        "filename_append": "",
        "file_hash": FILE_HASH,
        "n_chunks": 2,
        "mtime": 1_700_000_000.25,
    }
    return Chunk(FileVersion(**{**fields, **version_fields}), 2, 8, CHUNK_HASH, DATA)


def fields(**changed: Any) -> list[Any]:
    """The elements of a valid message, some of them changed; "drop" leaves the last ones out."""
    names = ["name", "file_hash", "chunk_hash", "write_offset", "index", "count", "subdir", "append", "data", "mtime"]
    values: list[Any] = ["g.csv", FILE_HASH, CHUNK_HASH, 8, 2, 2, "a/b", "", DATA, 1_700_000_000.25]
    return [changed.get(name, value) for name, value in zip(names, values, strict=True)]


def packed(*, raw_strings: bool = False, **changed: Any) -> bytes:
    value: bytes = msgpack.packb(fields(**changed), use_bin_type=not raw_strings)
    return value


# ---------------------------------------------------------------- rule 1

HAND_BUILT = b"".join(
    [
        b"\x9a",  # array of 10
        b"\xa5g.csv",  # fixstr
        b"\xc4\x40" + FILE_HASH,  # bin 8 of 64 bytes
        b"\xc4\x40" + CHUNK_HASH,
        b"\x08",  # write offset
        b"\x02",  # index
        b"\x02",  # count
        b"\xa3a/b",
        b"\xa0",  # empty append
        b"\xc4\x08" + DATA,
        b"\xcb" + struct.pack(">d", 1_700_000_000.25),  # float 64
    ]
)


def test_rule_1_a_message_is_written_to_the_byte() -> None:
    assert encode(a_chunk()) == HAND_BUILT


def test_rule_1_a_message_is_read_from_the_byte() -> None:
    chunk = decode(HAND_BUILT)
    assert chunk == a_chunk()
    assert chunk.version.mtime == 1_700_000_000.25


def test_rule_1_nine_elements_have_no_mtime() -> None:
    chunk = decode(b"\x99" + HAND_BUILT[1:-9])
    assert chunk == a_chunk()
    assert chunk.version.mtime is None


def test_rule_1_old_producers_write_everything_raw() -> None:
    raw = (
        b"\x99" + b"\xa5g.csv" + b"\xda\x00\x40" + FILE_HASH + b"\xda\x00\x40" + CHUNK_HASH
        + b"\x08\x02\x02" + b"\xa3a/b" + b"\xa0" + b"\xa8" + DATA
    )  # fmt: skip
    assert decode(raw) == a_chunk()
    assert packed(raw_strings=True)[1:-9] == raw[1:]
    assert decode(packed(raw_strings=True)) == a_chunk()


@pytest.mark.parametrize(("written", "read"), [(0, None), (-1.5, None), (float("nan"), None), (7, 7.0), (None, None)])
def test_rule_1_an_mtime_of_0_or_less_is_unknown(written: float | None, read: float | None) -> None:
    assert decode(packed(mtime=written)).version.mtime == read


def test_rule_1_an_unknown_mtime_is_written_as_0() -> None:
    assert encode(a_chunk(mtime=None))[-9:] == b"\xcb" + bytes(8)


def test_rule_1_numbers_may_be_written_in_any_width() -> None:
    wide = HAND_BUILT.replace(b"\x08\x02\x02\xa3", b"\xd3" + bytes(7) + b"\x08\xce\0\0\0\x02\xcd\0\x02\xd9\x03")
    assert decode(wide) == a_chunk()


def test_rule_1_data_of_every_width_round_trips() -> None:
    for size in (0, 1, 31, 32, 255, 256, 65_535, 65_536, 524_288):
        chunk = Chunk(a_chunk().version, 1, 0, CHUNK_HASH, bytes(size))
        assert decode(encode(chunk)) == chunk


path_parts = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60).filter(
    lambda part: part not in (".", "..")
)


@given(
    subdir=st.lists(path_parts, max_size=4).map("/".join),
    filename=path_parts,
    append=st.sampled_from(["", "_v2", ".bak"]),
    n_chunks=st.integers(1, 2**31 - 1),
    write_offset=st.integers(0, 2**63 - 1_000),
    data=st.binary(max_size=200),
    mtime=st.none() | st.floats(min_value=1e-9, max_value=1e12),
    pick=st.floats(0, 1),
)
def test_rule_1_what_is_written_is_read_again(
    subdir: str,
    filename: str,
    append: str,
    n_chunks: int,
    write_offset: int,
    data: bytes,
    mtime: float | None,
    pick: float,
) -> None:
    version = FileVersion(subdir, filename, append, hashlib.sha512(data).digest(), n_chunks, mtime)
    chunk = Chunk(version, 1 + int(pick * (n_chunks - 1)), write_offset, CHUNK_HASH, data)
    read = decode(encode(chunk))
    assert read == chunk
    assert read.version.mtime == mtime
    assert read.version.id == version.id


# ---------------------------------------------------------------- rule 2


@pytest.mark.parametrize(
    "other",
    [{"subdir": "a"}, {"filename": "h.csv"}, {"file_hash": bytes(64)}, {"n_chunks": 3}, {"filename_append": "_"}],
)
def test_rule_2_a_version_is_its_path_its_content_and_its_number_of_chunks(other: dict[str, Any]) -> None:
    assert a_chunk(**other).version.id != a_chunk().version.id


def test_rule_2_the_mtime_is_not_part_of_a_version() -> None:
    assert a_chunk(mtime=1.0).version == a_chunk(mtime=None).version
    assert a_chunk(mtime=1.0).version.id == a_chunk(mtime=None).version.id


def test_rule_2_an_id_has_12_bytes_and_is_the_same_tomorrow() -> None:
    # Ids stand in committed metadata: another way to make them would make a restart forget what is done.
    assert a_chunk().version.id.hex() == hashlib.blake2b(FILE_HASH + b"2\0a/b/g.csv", digest_size=12).hexdigest()


def test_rule_2_keys_are_those_of_other_programs_though_they_collide() -> None:
    nested = a_chunk()
    assert message_key(nested) == "a_b_g.csv_chunk_2_of_2"
    assert message_key(a_chunk(subdir="a_b")) == message_key(nested)
    root = Chunk(FileVersion("", "f.csv", "", FILE_HASH, 1), 1, 0, CHUNK_HASH, DATA)
    assert message_key(root) == "_f.csv_chunk_1_of_1"


@pytest.mark.parametrize(
    ("subdir", "filename", "append", "key"),
    [
        ("", "root.csv", "", "_root.csv_chunk_processing_result"),
        ("sub/deep dir", "n.csv", "", "sub_deep dir_n.csv_chunk_processing_result"),
        ("sub", "n.csv", "_v2", "sub_n_v2.csv_chunk_processing_result"),
    ],
)
def test_rule_2_a_result_has_the_key_that_its_readers_know(subdir: str, filename: str, append: str, key: str) -> None:
    assert FileVersion(subdir, filename, append, FILE_HASH, 1).result_key == key


@pytest.mark.parametrize(
    ("filename", "name"),
    [("a.csv", "a_x.csv"), ("a.tar.gz", "a.tar_x.gz"), ("noext", "noext_x"), (".hidden", ".hidden_x"), ("a.", "a._x")],
)
def test_rule_2_the_append_goes_between_stem_and_suffix(filename: str, name: str) -> None:
    version = FileVersion("d", filename, "_x", FILE_HASH, 1)
    assert (version.name, version.relative_path, version.original_path) == (name, f"d/{name}", f"d/{filename}")


# ---------------------------------------------------------------- rule 3


def test_rule_3_a_tombstone_is_no_chunk() -> None:
    with pytest.raises(TombstoneError):
        decode(None)


NOT_CHUNKS: dict[str, bytes] = {
    "nothing": b"",
    "text": b"hello world",
    "JSON": b'{"a": 1}',
    "a map": msgpack.packb({"a": 1}),
    "a number": b"\x07",
    "an empty array": b"\x90",
    "8 elements": msgpack.packb(fields()[:8]),
    "11 elements": msgpack.packb([*fields(), 1]),
    "cut off": HAND_BUILT[:-1],
    "something behind it": HAND_BUILT + b"\0",
    "an array of 4 billion elements": b"\xdd\xff\xff\xff\xff",
    "a map of 4 billion elements": b"\xdf\xff\xff\xff\xff",
    "4 GB of data announced": b"\x9a\xc6\xff\xff\xff\xff",
    "a never used byte": b"\xc1",
    "extension types": b"\x99" + b"\xc7\x00\x05" * 9 + b"\xd4\x01\x00",
    "a date": b"\xd6\xff" + bytes(4),
    "keys that can't be": b"\x9a" + b"\x81\x90\x90" * 10,
    "nested 100,000 deep": b"\x91" * 100_000 + b"\x90",
    "nested lists in lists": b"\x9a" * 2_000,
}


@pytest.mark.parametrize("value", NOT_CHUNKS.values(), ids=NOT_CHUNKS.keys())
def test_rule_3_what_is_no_array_of_a_chunk_is_refused(value: bytes) -> None:
    before = time.perf_counter()
    with pytest.raises(NotAChunkError) as raised:
        decode(value)
    assert time.perf_counter() - before < QUICKLY_S
    assert raised.value.message.rstrip(": ") == raised.value.message, "the reason is missing"


LIES: dict[str, dict[str, Any]] = {
    "the name is no text": {"name": 7},
    "the name is null": {"name": None},
    "the name is not UTF-8": {"name": b"\xff\xfe.csv"},
    "the file hash is short": {"file_hash": bytes(63)},
    "the file hash is text": {"file_hash": "f" * 63 + "ü"},
    "the file hash is null": {"file_hash": None},
    "the chunk hash is long": {"chunk_hash": bytes(65)},
    "the chunk hash is a list": {"chunk_hash": [1]},
    "the write offset is negative": {"write_offset": -1},
    "the write offset is beyond any file": {"write_offset": 2**64 - 1},
    "the write offset overflows with the data": {"write_offset": 2**63 - len(DATA)},
    "the write offset is a fraction": {"write_offset": 8.0},
    "the index is 0": {"index": 0},
    "the index is above the count": {"index": 3},
    "the index is true": {"index": True},
    "the count is 0": {"count": 0},
    "the count is negative": {"count": -2},
    "the count is more than any file has": {"count": 2**31, "index": 1},
    "the count is text": {"count": "2"},
    "the subdirectory is a map": {"subdir": {}},
    "the subdirectory is not UTF-8": {"subdir": b"\xc3\x28"},
    "the append is a list": {"append": []},
    "the data are a number": {"data": 5},
    "the data are null": {"data": None},
    "the data are a list": {"data": [b"x"]},
    "the mtime is text": {"mtime": "today"},
    "the mtime is true": {"mtime": True},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_rule_3_a_field_that_lies_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(ChunkFieldError):
        decode(packed(**lie))


def test_rule_3_a_count_that_can_not_be_disproved_allocates_nothing() -> None:
    assert decode(packed(count=2**31 - 1)).version.n_chunks == 2**31 - 1


@given(st.binary(max_size=300))
def test_rule_3_arbitrary_bytes_are_refused_with_a_typed_error(value: bytes) -> None:
    with pytest.raises(ChunkError):
        decode(value)


@given(seed=st.integers(0, 2**32), mutations=st.integers(1, 6))
def test_rule_3_a_damaged_chunk_is_a_chunk_or_refused_with_a_typed_error(seed: int, mutations: int) -> None:
    random = Random(seed)
    value = bytearray(random.choice([HAND_BUILT, packed(raw_strings=True), packed(mtime=None), encode(a_chunk())]))
    for _ in range(mutations):
        at = random.randrange(len(value) + 1)
        # Mostly at the front and between the fields, where the structure is.
        at = random.choice([at, random.randrange(10), len(value) - 1 - random.randrange(30)])
        kind = random.randrange(4)
        if kind == 0:
            value[at : at + 1] = bytes([random.randrange(256)])
        elif kind == 1:
            del value[at : at + random.choice([1, 5, 64])]
        elif kind == 2:
            value[at:at] = random.choice(
                [b"\xdd\xff\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\x9a", b"\xc0", b"\xcf" + b"\xff" * 8]
            )
        else:
            value[at : at + 4] = bytes(random.randrange(256) for _ in range(4))
    before = time.perf_counter()
    try:
        chunk = decode(bytes(value))
    except ChunkError:
        pass
    else:
        assert len(chunk.data) <= len(value)
        assert ".." not in chunk.version.relative_path.split("/")
        assert decode(encode(chunk)) == chunk
    assert time.perf_counter() - before < QUICKLY_S


# ---------------------------------------------------------------- rule 4

HOSTILE_PATHS: dict[str, dict[str, Any]] = {
    "up and out": {"subdir": "../../etc"},
    "up in the middle": {"subdir": "a/../../b"},
    "up at the end": {"subdir": "a/.."},
    "only up": {"subdir": ".."},
    "absolute": {"subdir": "/etc"},
    "the root": {"subdir": "/"},
    "an empty part": {"subdir": "a//b"},
    "a trailing slash": {"subdir": "a/"},
    "a dot part": {"subdir": "a/./b"},
    "a NUL in the subdirectory": {"subdir": "a\0b"},
    "a part that is too long": {"subdir": "x" * (MAX_NAME_BYTES + 1)},
    "a part that is too long in UTF-8": {"subdir": "ü" * 128},
    "a path that is too long": {"subdir": "/".join(["x" * 200] * 21)},
    "no name": {"name": ""},
    "the directory itself": {"name": "."},
    "the directory above": {"name": ".."},
    "a path as a name": {"name": "a/b.csv"},
    "an absolute name": {"name": "/etc/passwd"},
    "up in the name": {"name": "../x"},
    "a NUL in the name": {"name": "a\0.csv"},
    "a name that is too long": {"name": "x" * (MAX_NAME_BYTES + 1)},
    "a slash in the append": {"append": "/../../x"},
    "a NUL in the append": {"append": "\0"},
    "an append that is too long": {"append": "x" * (MAX_NAME_BYTES + 1)},
    "a name that the append makes too long": {"name": "x" * 200, "append": "y" * 56},
    "a path that the name makes too long": {"subdir": "/".join(["x" * 200] * 20), "name": "y" * 100},
}


@pytest.mark.parametrize("hostile", HOSTILE_PATHS.values(), ids=HOSTILE_PATHS.keys())
def test_rule_4_a_path_that_leaves_the_root_or_can_be_no_file_is_refused(hostile: dict[str, Any]) -> None:
    with pytest.raises(UnsafePathError) as raised:
        decode(packed(**hostile))
    assert len(raised.value.message) < 1_000, "what was sent is not thrown back whole"


@pytest.mark.parametrize("subdir", ["", "."])
def test_rule_4_the_root_may_be_said_in_two_ways(subdir: str) -> None:
    assert decode(packed(subdir=subdir)).version.relative_path == "g.csv"


@pytest.mark.parametrize("name", ["...", "..a", "a..", "~", "-rf", "C:\\x", "a b", "日本語.csv", "a\nb", "$HOME"])
def test_rule_4_odd_names_are_names(name: str) -> None:
    assert decode(packed(name=name)).version.relative_path == f"a/b/{name}"


def test_rule_4_the_longest_name_and_path_are_taken() -> None:
    name = "x" * MAX_NAME_BYTES
    subdir = "/".join(["y" * 255] * 15)
    assert len(f"{subdir}/{name}") == MAX_PATH_BYTES
    assert decode(packed(subdir=subdir, name=name)).version.relative_path == f"{subdir}/{name}"


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("value", [None, b"", packed(index=9), packed(subdir="..")])
def test_errors_survive_pickling_with_their_reason(value: bytes | None) -> None:
    with pytest.raises(ChunkError) as raised:
        decode(value)
    again = pickle.loads(pickle.dumps(raised.value))
    assert (type(again), again.message, again.reason) == (type(raised.value), raised.value.message, raised.value.reason)
    assert again.reason in ("tombstone", "not_a_chunk", "bad_chunk_field", "unsafe_path")


def test_all_chunks_of_a_file_share_one_version_object() -> None:
    assert decode(packed(index=1)).version is decode(packed(index=2)).version
