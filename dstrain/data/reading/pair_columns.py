"""Pairs in columns: a column `translation` with a text for each language, or a column for each language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from dstrain.config.errors import UserError
from dstrain.data.reading.columns import may_hold_text, texts_in
from dstrain.data.reading.pair_text import TwoSides
from dstrain.data.reading.text import Malformed

STRUCT = "translation"


@dataclass(frozen=True)
class PairColumns:
    """What a source of pairs wants of each row: a text for each of two languages."""

    languages: tuple[str, str]

    def chosen(self, schema: pa.Schema, where: str, place: str) -> list[str]:
        """The columns' names; the user's error where there are none that hold these languages."""
        struct = schema.get_field_index(STRUCT)
        if struct >= 0 and pa.types.is_struct(schema.field(struct).type):
            self._check({field.name: field.type for field in schema.field(struct).type},
                        f"column {STRUCT!r}", where, place)
            return [STRUCT]
        self._check({field.name: field.type for field in schema}, "the dataset", where, place)
        return list(self.languages)

    def documents_in(self, table: pa.Table) -> Sequence[TwoSides | Malformed]:
        if table.column_names == [STRUCT]:
            column = table.column(0)
            rows = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            sides = [texts_in(rows.field(language), language) for language in self.languages]
            missing = rows.is_null().to_pylist()
            return [Malformed(f"column {STRUCT!r} is null, not a pair") if none else TwoSides(*pair)
                    for none, *pair in zip(missing, *sides)]
        return [TwoSides(*pair) for pair in zip(*(texts_in(table.column(language), language)
                                                  for language in self.languages))]

    def _check(self, types: dict[str, pa.DataType], holder: str, where: str, place: str) -> None:
        with_text = [name for name, kind in types.items() if may_hold_text(kind)]
        remedy = (f"set data.languages to two of {', '.join(with_text[:8])}" if len(with_text) > 1
                  else "it holds no pairs; name another dataset")
        for language in self.languages:
            if language not in types:
                raise UserError(f"{place}.hub: {where}: {holder} has no {language!r} (it has {', '.join(types)}); "
                                f"{remedy}")
            if language not in with_text:
                raise UserError(f"{place}.hub: {where}: {language!r} in {holder} holds {types[language]}, not text; "
                                f"{remedy}")
