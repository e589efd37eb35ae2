"""Whatever a file holds: the shipped extractors answer with JSON, or raise; their process lives, and stays small."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.outcome import Failure
from tests.fuzz.budget import fuzz
from tests.fuzz.guest import Guest
from tests.fuzz.hostile import damaged

TABLE = pa.table(
    {"n": [3, 1, None, 1], "x": [0.5, float("nan"), 2.5, None], "s": ["b", "a", "", None], "l": [[1], [], None, [2, 3]]}
)


def _tables() -> list[bytes]:
    made: list[bytes] = []
    for write in (pa.parquet.write_table, pa.feather.write_feather, pa.orc.write_table):
        file = io.BytesIO()
        write(TABLE, file)
        made.append(file.getvalue())
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return [*made, stream.getvalue(), b"a,b\n1,2\n3,\n", b'{"a": 1}\n{"a": null, "b": [1, {"c": 2}]}\n']


tables = st.sampled_from(_tables())
suffixes = st.sampled_from(["a.csv", "a.json", "a.parquet", "a.orc", "a.feather", "a.arrows", "a", "x/ü.tsv"])
beginnings = st.sampled_from([b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff", b"ORC", b"", b"[", b"{", b"\xef\xbb\xbf"])
xrd_lines = st.sampled_from(
    ["[Measurement conditions]", "[Scan points]", "Angle,Intensity", "Anode material,Cu", "No. of points, 3", "0.1,5",
     "0.2,6.5", "1e308,1e308",
     "nan,inf", "-1,", ",", "", "File date and time,02/Sep/2019 15:57", "File date and time,99/Sep/0000 25:61",
     "Comment,007", "9" * 5_000 + ",1", "[", "x,1,2,3"]
) | st.text(max_size=15)  # fmt: skip
xrd_texts = st.lists(xrd_lines, max_size=12).map("\n".join) | st.lists(xrd_lines, max_size=9).map(
    lambda lines: "\n".join(["[Measurement conditions]", *lines[:3], "[Scan points]", "Angle,Intensity", *lines[3:]])
)


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    """The process that the extractors run in."""
    guest = Guest()
    yield guest
    guest.close()


@given(
    damaged(tables)
    | tables.flatmap(lambda t: damaged(st.just(t)))
    | st.builds(bytes.__add__, beginnings, st.binary(max_size=300)),
    suffixes,
)
@fuzz("tabular")
def test_tables_that_are_none(guest: Guest, content: bytes, path: str) -> None:
    assert isinstance(guest.ask("tabular", path, content), (str, bytes, Failure))


@given(
    st.binary(max_size=300)
    | xrd_texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | xrd_texts.map(lambda t: t.encode("utf-16", "replace"))
)
@fuzz("xrd_csv")
def test_measurements_that_are_none(guest: Guest, content: bytes) -> None:
    said = guest.ask("xrd_csv", "a.csv", content)
    assert isinstance(said, bytes) or (isinstance(said, str) and said.startswith("ValueError: ")), said


@given(
    damaged(tables) | st.binary(max_size=5_000), st.text(min_size=1, max_size=20).filter(lambda name: "/" not in name)
)
@fuzz("file_info")
def test_a_file_of_any_kind_is_described(guest: Guest, content: bytes, name: str) -> None:
    said = guest.ask("file_info", name, content)
    assert isinstance(said, bytes), said
