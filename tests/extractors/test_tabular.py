"""Tables in every format: the same answer, read in place, and no damage done by damaged ones."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.data_file import DataFile
from ray_reproducer.extractors import tabular as module
from ray_reproducer.extractors.tabular import tabular

Make = Callable[..., DataFile]

TABLE = pa.table({"n": [3, 1, None, 1], "x": [0.5, float("nan"), 2.5, None], "s": ["b", "a", "", None]})
COLUMNS = [
    {"name": "n", "type": "int64", "nullable": True, "nulls": 1, "min": 1, "max": 3, "mean": 5 / 3, "distinct": 2},
    {
        "name": "x", "type": "double", "nullable": True, "nulls": 1, "nans": 1, "min": 0.5, "max": 2.5, "mean": 1.5,
        "distinct": 2,
    },
    {"name": "s", "type": "string", "nullable": True, "nulls": 1, "min": "", "max": "b", "distinct": 3},
]  # fmt: skip


def parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pa.parquet.write_table(table, file, **options)
    return file.getvalue()


def feather(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pa.feather.write_feather(table, file, **options)
    return file.getvalue()


def stream(table: pa.Table) -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def orc(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pa.orc.write_table(table, file, **options)
    return file.getvalue()


def extract(content: bytes, name: str = "noname") -> dict[str, Any]:
    result = tabular(DataFile(FileVersion("", name, "", b"", 1), [content], root=Path("/nowhere")))
    assert orjson.loads(orjson.dumps(result)) == result  # no NaN, nothing that JSON can't say
    return result


WRITERS: dict[str, Callable[[pa.Table], bytes]] = {
    "parquet": parquet,
    "ipc_file": feather,
    "ipc_stream": stream,
    "orc": orc,
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("name", ["noname", "wrong.csv", "wrong.jsonl"])
def test_the_first_bytes_say_the_format_and_each_gives_the_same_columns(form: str, name: str) -> None:
    result = extract(WRITERS[form](TABLE), name)
    assert (result["format"], result["n_rows"], result["n_columns"]) == (form, 4, 3)
    assert result["columns"] == COLUMNS


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "noname"])
def test_json_lines(name: str) -> None:
    result = extract(b'{"n": 3, "s": "b"}\n{"n": 1, "s": "a"}\n{"s": "", "o": {"x": [1]}}\n{"n": 1}\n', name)
    assert (result["format"], result["n_rows"]) == ("json_lines", 4)
    assert result["columns"][:2] == [COLUMNS[0], COLUMNS[2]]
    assert result["columns"][2] == {
        "name": "o", "type": "struct<x: list<item: int64>>", "nullable": True, "nulls": 3
    }  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "TAB"])
def test_csv_with_the_delimiter_of_its_first_line(delimiter: str, suffix: str) -> None:
    text = "n,ü,when\r\n3,b,2026-03-02\r\n1,a,2026-03-01\r\n".replace(",", delimiter)
    result = extract(text.encode("utf-8-sig"), f"a.{suffix}")
    assert result["file_metadata"] == {"delimiter": delimiter}
    assert [(c["name"], c["type"], c["min"]) for c in result["columns"]] == [
        ("n", "int64", 1),
        ("ü", "string", "a"),
        ("when", "date32[day]", "2026-03-01"),
    ]


def test_csv_whose_first_column_is_called_like_a_format() -> None:
    assert extract(b"ORCID,n\n1,2\n", "a.csv")["format"] == "csv"


def test_csv_with_line_ends_in_its_cells() -> None:
    assert extract(b'a,b\n1,"x\ny"\n', "a.csv")["n_rows"] == 1


def test_csv_types_are_known_at_the_end_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 64)
    result = extract(b"a\n" + b"1\n" * 100 + b"x\n", "a.csv")
    assert (result["columns"][0]["type"], result["n_rows"]) == ("string", 101)


def test_lines_longer_than_arrow_s_own_limit() -> None:
    long = "x" * 3_000_000
    assert extract(f'{{"a": "{long}"}}\n'.encode(), "a.jsonl")["columns"][0]["max"] == "x" * 199 + "…"
    assert extract(f"a\n{long}\n{long}\n".encode(), "a.csv")["columns"][0]["max"] == "x" * 199 + "…"


def test_parquet_says_who_wrote_it_and_what_was_attached() -> None:
    schema = pa.schema(
        [pa.field("t", pa.float32(), nullable=False, metadata={"unit": "K"})], metadata={"operator": "Ł"}
    )
    content = parquet(pa.table([[1.5, 2.5, 3.5]], schema=schema), row_group_size=2, compression="zstd")
    result = extract(content)
    about = result["file_metadata"]
    assert about.pop("created_by").startswith("parquet-cpp-arrow")
    assert about == {
        "format_version": "2.6",
        "n_row_groups": 2,
        "compression": ["ZSTD"],
        "key_value": {"operator": "Ł"},
    }
    assert result["columns"][0]["metadata"] == {"unit": "K"}
    assert result["columns"][0]["nullable"] is False


def test_pandas_metadata_is_trimmed_to_what_the_schema_does_not_say() -> None:
    pandas = {
        "index_columns": [],
        "columns": [{"name": "x"}] * 50,
        "creator": {"library": "pyarrow"},
        "pandas_version": "2",
    }
    table = pa.table({"a": [1]}).replace_schema_metadata({"pandas": json.dumps(pandas)})
    assert extract(feather(table))["file_metadata"]["key_value"] == {
        "pandas": {"index_columns": [], "creator": {"library": "pyarrow"}, "pandas_version": "2"}
    }


@pytest.mark.parametrize("value", ["no JSON", "[1]", "3"])
def test_pandas_metadata_that_pandas_did_not_write(value: str) -> None:
    table = pa.table({"a": [1]}).replace_schema_metadata({"pandas": value})
    assert "pandas" in extract(feather(table))["file_metadata"]["key_value"]


def test_large_metadata_is_cut() -> None:
    metadata = {f"k{number:03}": b"\xffx" * 10_000 for number in range(300)}
    entries = extract(feather(pa.table({"a": [1]}).replace_schema_metadata(metadata)))["file_metadata"]["key_value"]
    assert len(entries) == 100
    assert {len(text) for text in entries.values()} == {1000}


def test_a_table_of_many_columns_is_described_by_its_first() -> None:
    result = extract(feather(pa.table({f"c{number}": [number] for number in range(1500)})))
    assert (result["n_columns"], len(result["columns"])) == (1500, 1000)


def test_columns_of_one_name_are_kept_apart() -> None:
    result = extract(stream(pa.table([[1], [2]], names=["a", "a"])))
    assert [column["max"] for column in result["columns"]] == [1, 2]


def test_many_batches_give_what_one_gives() -> None:
    rng = random.Random(3)
    values = [rng.choice([None, rng.gauss(0, 1)]) for _ in range(5000)]
    table = pa.table({"x": values, "s": [str(rng.randrange(300)) for _ in values], "b": [v is None for v in values]})
    small = stream(pa.Table.from_batches(table.to_batches(max_chunksize=7)))
    one, many = extract(stream(table))["columns"], extract(small)["columns"]
    assert many[0].pop("mean") == pytest.approx(one[0].pop("mean"))
    assert one == many


def test_many_distinct_values_are_not_counted() -> None:
    def distinct(rows: int) -> int | None:
        found: int | None = extract(stream(pa.table({"n": list(range(rows))})))["columns"][0].get("distinct")
        return found

    assert distinct(1000) == 1000
    assert distinct(1001) is None


@pytest.mark.parametrize("form", WRITERS)
def test_tables_without_rows(form: str) -> None:
    result = extract(WRITERS[form](TABLE.slice(0, 0)))
    assert result["n_rows"] == 0
    assert result["columns"][1] == {
        "name": "x", "type": "double", "nullable": True, "nulls": 0, "nans": 0, "min": None, "max": None, "mean": None,
        "distinct": 0,
    }  # fmt: skip


def utc(*when: int) -> dt.datetime:
    return dt.datetime(*when, tzinfo=dt.timezone.utc)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("kind", "values", "low", "high", "mean"),
    [
        (pa.bool_(), [True, False], False, True, ...),
        (pa.uint64(), [2**64 - 1, 2**64 - 1], 2**64 - 1, 2**64 - 1, float(2**64)),
        (pa.int64(), [2**63 - 1, 2**63 - 1], 2**63 - 1, 2**63 - 1, float(2**63)),
        (pa.float64(), [float("inf"), 1.0], 1.0, None, None),
        (pa.float32(), [float("nan"), float("nan")], None, None, None),
        (pa.decimal128(10, 2), [Decimal("1.20"), Decimal(-3)], "-3.00", "1.20", -0.9),
        (pa.decimal256(60, 1), [Decimal("1.2")], "1.2", "1.2", 1.2),
        (pa.timestamp("ns"), [1, 10**18 + 1], "1970-01-01T00:00:00.000000001", "2001-09-09T01:46:40.000000001", ...),
        (
            pa.timestamp("s", "Europe/Berlin"),
            [utc(2026, 7, 1, 12)],
            "2026-07-01T12:00:00Z",
            "2026-07-01T12:00:00Z",
            ...,
        ),
        (pa.timestamp("s", "Mars/Olympus"), [0, None], "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z", ...),
        (pa.timestamp("s"), [0, 10**15], "1970-01-01T00:00:00", 10**15, ...),
        (pa.date32(), [dt.date(2026, 3, 2)], "2026-03-02", "2026-03-02", ...),
        (pa.time64("us"), [dt.time(1, 2, 3, 4)], "01:02:03.000004", "01:02:03.000004", ...),
        (pa.duration("ms"), [7, -1], -1, 7, ...),
        (pa.binary(), [b"\x00\xff", b"z" * 100], "00ff", "7a" * 32, ...),
        (pa.binary(2), [b"ab"], "6162", "6162", ...),
        (pa.string_view(), ["a", "b"], "a", "b", ...),
        (pa.dictionary(pa.int8(), pa.string()), ["b", "a"], "a", "b", ...),
        (pa.list_(pa.int8()), [[1], [2]], ..., ..., ...),
        (pa.struct([("a", pa.int8())]), [{"a": 1}], ..., ..., ...),
        (pa.null(), [None], ..., ..., ...),
    ],
    ids=str,
)
def test_every_type_has_the_statistics_that_it_can_have(
    kind: pa.DataType, values: list[Any], low: object, high: object, mean: object
) -> None:
    column = extract(stream(pa.table([pa.array(values, kind)], names=["a"])))["columns"][0]
    expected = {"min": low, "max": high, "mean": mean}
    found = {key: column[key] for key in expected if key in column}
    assert found == {
        key: pytest.approx(value) if key == "mean" else value for key, value in expected.items() if value is not ...
    }


def test_text_that_is_not_utf_8_is_no_reason_to_fail() -> None:
    column = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff")]
    )
    assert extract(parquet(pa.table({"a": column})))["columns"][0]["max"] == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("content", "name", "complaint"),
    [
        (b"", "a.csv", "the file is empty"),
        (b"hello", "a.txt", r"no table: neither the first bytes \(b'hello'\) nor the name 'a.txt'"),
        (b"a,b\0\n", "a.csv", "no table"),
        (b"a,b\n1,2\n3\n", "a.csv", "Expected 2 columns, got 1"),
        (b'[{"a": 1}]', "a.json", "JSON"),
        (b"PAR1 and nothing else", "a", "Parquet"),
        (b"ORC is short for something ORC\n", "a", "."),
        (b"\xff\xff\xff\xffxxxx", "a", "metadata bytes"),
    ],
)
def test_what_is_no_table_is_said(content: bytes, name: str, complaint: str) -> None:
    with pytest.raises((ValueError, OSError), match=complaint):
        extract(content, name)


@pytest.mark.parametrize("form", WRITERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_cost_themselves_only(form: str, data: st.DataObject) -> None:
    whole = WRITERS[form](TABLE)
    position = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:position] + data.draw(st.binary(max_size=4)) + whole[position + data.draw(st.integers(0, 4)) :]
    with contextlib.suppress(ValueError, OSError, pa.ArrowException):
        extract(damaged)


def test_the_buffer_is_read_in_place(make: Make) -> None:
    content = feather(pa.table({"x": list(range(1_000_000))}), compression="uncompressed")
    before = pa.total_allocated_bytes()
    datafile = make(content)
    schema, batches, _ = module.READERS["ipc_file"](datafile.buffer)
    start = datafile.buffer.address
    for batch in batches:
        assert start <= batch.column(0).buffers()[1].address < start + len(content)
    assert schema.names == ["x"]
    assert pa.total_allocated_bytes() - before < 100_000


def test_pieces_are_joined_for_it(make: Make) -> None:
    assert tabular(make(parquet(TABLE), pieces=5)) == extract(parquet(TABLE), "a.csv")


def test_samples(samples: Path) -> None:
    results = {path.name: tabular(DataFile.from_path(path)) for path in (samples / "tables").iterdir()}
    assert {name: (result["format"], result["n_rows"]) for name, result in results.items()} == {
        "process_log.parquet": ("parquet", 3000),
        "furnace.feather": ("ipc_file", 1500),
        "inventory.orc": ("orc", 240),
        "robot.jsonl": ("json_lines", 400),
        "thickness_map.csv": ("csv", 363),
    }
    for result in results.values():
        assert orjson.loads(orjson.dumps(result)) == result
