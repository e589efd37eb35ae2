"""Schema, rows, statistics and own metadata of a table: Parquet, Arrow IPC and Feather, ORC, CSV, JSON lines.

The file's bytes are read in place, batch by batch where the format allows, so that a table of many gigabytes needs
no more memory than its largest batch. CSV and JSON lines are read whole: their types are known at the end only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ray_reproducer.data_file import DataFile
from ray_reproducer.extractors.column_statistics import ColumnStatistics, text_prefix

if TYPE_CHECKING:
    import pyarrow as pa

MAX_COLUMNS: Final = 1000
"""How many columns are described: the metadata must fit into a Kafka message."""
MAX_METADATA_ENTRIES: Final = 100
MAX_METADATA_CHARACTERS: Final = 1000
MAX_TYPE_CHARACTERS: Final = 500
BATCH_ROWS: Final = 65_536
"""Rows of a Parquet file that are held at a time."""
BLOCK_BYTES: Final = 16 * 1024 * 1024
"""Longest line of a CSV or JSON lines file; also how much of it is parsed at a time."""


class Table(NamedTuple):
    """What a format's reader gives.

    Attributes:
        schema: the columns.
        batches: the rows; read once.
        metadata: what the file says of itself, as JSON can say it.
    """

    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]
    metadata: dict[str, Any]


def tabular(datafile: DataFile) -> dict[str, Any]:
    """Describe a table.

    Returns:
        ``format``, ``n_rows``, ``n_columns``, ``columns`` (for each ``name``, ``type``, ``nullable``, ``nulls`` and,
        where the type has them, ``nans``, ``min``, ``max``, ``mean``, ``distinct``) and ``file_metadata``.

    Raises:
        ValueError: the file is no table of a known format.
        pyarrow.ArrowException: it is damaged, or uses what pyarrow doesn't know (OSError: what it can't decompress).
    """
    form = table_format(datafile)
    schema, batches, metadata = READERS[form](datafile.buffer)
    statistics = [ColumnStatistics(field.type) for field in list(schema)[:MAX_COLUMNS]]
    n_rows = 0
    for batch in batches:
        n_rows += batch.num_rows
        for number, column in enumerate(statistics):
            column.add(batch.column(number))
    return {
        "format": form,
        "n_rows": n_rows,
        "n_columns": len(schema),
        "columns": [_field(field) | column.result() for field, column in zip(schema, statistics, strict=False)],
        "file_metadata": metadata,
    }


def table_format(datafile: DataFile) -> str:
    """Name the format, by the first bytes, or else by the file's suffix.

    Raises:
        ValueError: it is none that can be read.
    """
    with datafile.open() as file:
        head = file.read(4096)
        file.seek(-min(4, datafile.size_bytes), os.SEEK_END)
        tail = file.read()
    if not head:
        raise ValueError("the file is empty: no table")
    for magic, form in MAGIC.items():
        if head.startswith(magic):
            return form
    if head.startswith(b"ORC") and tail.startswith(b"ORC"):  # the head alone may be a CSV's first column, "ORCID"
        return "orc"
    form = SUFFIXES.get(datafile.relative_filepath.suffix.lower(), "")
    if form and b"\0" not in head:
        return form
    if head.lstrip().startswith(b"{"):
        return "json_lines"
    raise ValueError(f"no table: neither the first bytes ({head[:8]!r}) nor the name {datafile.filename!r} say which")


def _parquet(buffer: pa.Buffer) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(buffer))
    # Without threads: a task has as many cores as it has asked for, usually one.
    batches = file.iter_batches(batch_size=BATCH_ROWS, use_threads=False)
    about = {
        "created_by": text_prefix(file.metadata.created_by or "", MAX_METADATA_CHARACTERS),
        "format_version": file.metadata.format_version,
        "n_row_groups": file.metadata.num_row_groups,
        "compression": _compressions(file.metadata),
        "key_value": _key_value(file.metadata.metadata),
    }
    return Table(file.schema_arrow, batches, about)


def _compressions(metadata: Any) -> list[str]:
    if not metadata.num_row_groups:
        return []
    group = metadata.row_group(0)
    return sorted({group.column(number).compression for number in range(group.num_columns)})


def _ipc_file(buffer: pa.Buffer) -> Table:
    import pyarrow as pa

    reader = pa.ipc.open_file(buffer)
    batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
    about = {"n_batches": reader.num_record_batches, "key_value": _key_value(reader.schema.metadata)}
    return Table(reader.schema, _validated(batches), about)


def _ipc_stream(buffer: pa.Buffer) -> Table:
    import pyarrow as pa

    reader = pa.ipc.open_stream(buffer)
    return Table(reader.schema, _validated(reader), {"key_value": _key_value(reader.schema.metadata)})


def _validated(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    # Arrow uses IPC data in place and believes its offsets: a damaged file would crash the process.
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _orc(buffer: pa.Buffer) -> Table:
    import pyarrow as pa
    from pyarrow import orc

    file = orc.ORCFile(pa.BufferReader(buffer))
    stripes = (file.read_stripe(number) for number in range(file.nstripes))
    about = {
        "created_by": text_prefix(file.software_version, MAX_METADATA_CHARACTERS),
        "format_version": file.file_version,
        "n_stripes": file.nstripes,
        "compression": file.compression,
        "key_value": _key_value(dict(file.metadata)),
    }
    return Table(file.schema, stripes, about)


def _csv(buffer: pa.Buffer) -> Table:
    import pyarrow as pa
    from pyarrow import csv

    head = bytes(memoryview(buffer)[:65_536])
    line = head.splitlines()[0]
    delimiter = max(",\t;|", key=lambda candidate: line.count(candidate.encode()))
    table = csv.read_csv(
        pa.BufferReader(buffer),
        read_options=csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
    )
    return Table(table.schema, table.to_batches(), {"delimiter": delimiter})


def _json_lines(buffer: pa.Buffer) -> Table:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    options = arrow_json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
    table = arrow_json.read_json(pa.BufferReader(buffer), read_options=options)
    return Table(table.schema, table.to_batches(), {})


READERS: Final[Mapping[str, Callable[[pa.Buffer], Table]]] = {
    "parquet": _parquet,
    "ipc_file": _ipc_file,
    "ipc_stream": _ipc_stream,
    "orc": _orc,
    "csv": _csv,
    "json_lines": _json_lines,
}
MAGIC: Final = {b"PAR1": "parquet", b"ARROW1\0\0": "ipc_file", b"\xff\xff\xff\xff": "ipc_stream"}
SUFFIXES: Final = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".json": "json_lines",
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
}


def _field(field: pa.Field) -> dict[str, Any]:
    about = {
        "name": text_prefix(field.name, MAX_METADATA_CHARACTERS),
        "type": text_prefix(str(field.type), MAX_TYPE_CHARACTERS),
        "nullable": field.nullable,
    }
    metadata = _key_value(field.metadata)
    return about | {"metadata": metadata} if metadata else about


def _key_value(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Make text of key-value metadata, without what only Arrow itself needs."""
    entries = {key.decode("utf-8", "replace"): value for key, value in (metadata or {}).items()}
    wanted = sorted(entries.keys() - {"ARROW:schema", "PARQUET:field_id"})[:MAX_METADATA_ENTRIES]
    return {
        key: _pandas(entries[key]) if key == "pandas" else text_prefix(entries[key], MAX_METADATA_CHARACTERS)
        for key in wanted
    }


def _pandas(value: bytes) -> Any:
    """Keep what the schema doesn't say already."""
    try:
        about = json.loads(value)
        return {key: about[key] for key in ("index_columns", "creator", "pandas_version") if key in about}
    except (ValueError, TypeError):  # not written by pandas, whatever its name says
        return text_prefix(value, MAX_METADATA_CHARACTERS)
