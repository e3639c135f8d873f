"""Text in columns: the rows of a parquet file and of arrow tables, as text or as the reason why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dstrain.config.errors import UserError
from dstrain.data.reading.text import Malformed

_ROWS_AT_ONCE = 64
_PAGE_BYTES = 2**20


def parquet_rows(path: Path, field: str, first: int, place: str) -> Iterator[tuple[int, str | Malformed]]:
    """(row number, text) of one column; row groups that end below row `first` are not read. Never a whole row group
    is held."""
    with pq.ParquetFile(path, buffer_size=_PAGE_BYTES, pre_buffer=False) as file:
        check_column(file.schema_arrow, field, str(path), place)
        number = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number + rows <= first:
                number += rows
                continue
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[field], use_threads=False):
                yield from enumerate(texts_in(batch.column(0), field), start=number)
                number += len(batch)


def parquet_text_bytes(path: Path, field: str) -> int:
    """Unpacked size of one column, as the file's end says; 0 where there is no such column."""
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return sum(group.column(number).total_uncompressed_size for group in groups for number in range(group.num_columns)
               if group.column(number).path_in_schema == field)


@dataclass(frozen=True)
class TextColumn:
    """What a source of documents wants of each row: one column's text."""

    field: str

    def chosen(self, schema: pa.Schema, where: str, place: str) -> list[str]:
        check_column(schema, self.field, where, place)
        return [self.field]

    def documents_in(self, table: pa.Table) -> Sequence[str | Malformed]:
        return texts_in(table.column(0), self.field)


def check_column(schema: pa.Schema, field: str, where: str, place: str) -> None:
    """The user's error where no column has that name, or one that never holds text."""
    others = [column.name for column in schema if may_hold_text(column.type)]
    remedy = f"set {place}.text_field to one with text: {', '.join(others[:8])}" if others else "no column holds text"
    if schema.get_field_index(field) < 0:
        raise UserError(f"{where}: has no column {field!r} (its columns: {', '.join(schema.names[:16])}); {remedy}")
    kind = schema.field(field).type
    if not may_hold_text(kind):
        raise UserError(f"{where}: column {field!r} holds {kind}, not text; {remedy}")


def texts_in(column: pa.Array | pa.ChunkedArray, field: str) -> Sequence[str | Malformed]:
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:  # somewhere among them
        values = [_decoded(value.as_buffer()) for value in column.cast(pa.large_binary())]
    return [value if type(value) is str else _as_text(value, field) for value in values]


def _as_text(value: object, field: str) -> str | Malformed:
    if isinstance(value, bytes):
        value = _decoded(value)
    if isinstance(value, (str, Malformed)):
        return value
    return Malformed(f"column {field!r} is {'null' if value is None else type(value).__name__}, not text")


def _decoded(value: pa.Buffer | bytes | None) -> str | Malformed | None:
    try:
        return None if value is None else bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        return Malformed(f"not UTF-8 ({error.reason} at byte {error.start})")


def may_hold_text(kind: pa.DataType) -> bool:
    """Columns of bytes too: some writers do not say that theirs are UTF-8. A column of nulls alone has no type."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
            or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind))
