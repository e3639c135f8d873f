"""The files of a `path` or `embedded` source, and what stands in each: no file is held whole."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

from dstrain.config.schema import Source
from dstrain.config.source_files import files_named, kind_of
from dstrain.data.reading import cutting
from dstrain.data.reading.columns import parquet_rows
from dstrain.data.reading.embedded import embedded_files
from dstrain.data.reading.files import fingerprint_of, sound, unpacked
from dstrain.data.reading.jsonlines import numbered_lines
from dstrain.data.reading.text import Raw, Text
from dstrain.data.reading.unpacked import text_bytes_in


class Files:
    def __init__(self, source: Source, place: str, starts: re.Pattern[str] | None):
        self.files: list[Path] = (embedded_files(source.embedded, source.part) if source.path is None
                                  else files_named(source.path, place))
        self.file_count = len(self.files)
        self._source, self._place, self._starts = source, place, starts

    def digest(self) -> str:
        return fingerprint_of(self.files)

    def has_rows(self, file_number: int) -> bool:
        """Whether what `numbered` gives are lines or rows; else documents, cut already."""
        return kind_of(self.files[file_number]) in (".jsonl", ".parquet")

    def numbered(self, file_number: int, first: int) -> Iterator[tuple[int, Raw]]:
        path = self.files[file_number]
        if kind_of(path) == ".parquet":
            with sound(path):
                yield from parquet_rows(path, self._source.text_field, first, self._place)
            return
        with unpacked(path) as stream:
            if kind_of(path) == ".jsonl":
                yield from numbered_lines(stream)
            else:
                text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline=None)
                yield from enumerate(self._cut(text, path))

    def text_bytes(self) -> int | None:
        sizes = []
        for path in self.files:
            with sound(path):
                sizes.append(text_bytes_in(path, self._source.text_field))
        return None if None in sizes else sum(sizes)

    def where(self, file_number: int, number: int) -> str:
        path = self.files[file_number]
        if kind_of(path) == ".parquet":
            return f"{path}, row {number} (from 0)"
        return f"{path}, {'line' if kind_of(path) == '.jsonl' else 'document'} {number + 1}"

    def _cut(self, stream: io.TextIOWrapper, path: Path) -> Iterator[Text]:
        if self._starts is not None:
            found = cutting.from_starts(enumerate(stream), self._starts, lambda line: f"{path}, line {line + 1}")
            return (document for _, document in found)
        cut = {"file": cutting.pieces, "paragraphs": cutting.paragraphs, "lines": cutting.lines}
        return cut[self._source.documents](stream)
