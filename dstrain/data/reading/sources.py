"""From a recipe's source to its files or shards, and from one of them to its documents, streamed.

A document has a file number (in the sorted list of files, or among a hub dataset's shards) and a document number in
that file. Text is UTF-8; a byte order mark at a file's start is dropped. In .txt and .py files every line end (\\n,
\\r\\n, \\r) becomes \\n, on every system alike; the text inside a .jsonl record or a row stays as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from dstrain.config.errors import UserError
from dstrain.config.schema import Source
from dstrain.data.reading.columns import TextColumn
from dstrain.data.reading.cutting import from_starts
from dstrain.data.reading.hub_shards import HubShards
from dstrain.data.reading.jsonlines import json_text
from dstrain.data.reading.shelf import Files
from dstrain.data.reading.text import Malformed, Raw, Text

__all__ = ["Corpus", "OnShelf", "Malformed", "Raw", "Text"]


class OnShelf:
    """A source whose files, or shards, stand on a `_shelf`, listed at once."""

    _shelf: Any

    @property
    def file_count(self) -> int:
        return self._shelf.file_count

    @cached_property
    def fingerprint(self) -> dict[str, int | str]:
        """What a place in this source is good for: the number of files, and a digest of what they are."""
        return {"count": self.file_count, "digest": self._shelf.digest()}

    def where(self, file_number: int, document: int) -> str:
        """A document's place for a person: in a file of lines its number is the line's, in columns the row's."""
        return self._shelf.where(file_number, document)


class Corpus(OnShelf):
    """One source of a recipe: its files, listed at once, and their documents, read when they are asked for."""

    shortens_skips = "; `dstrain prepare` makes this instant"
    """what is said behind how long one took"""

    def __init__(self, source: Source, number: int, split: str):
        self.number = number
        self.place = f"data.{split}.{number}"
        self.name = f"{self.place} ({source.path or source.hub or source.embedded})"
        self.what_to_correct = f"{self.place}.text_field"
        """beside the lines themselves, where many are malformed: a key of the recipe"""
        self._text_field = source.text_field
        self._starts = self._compile(source.starts)
        self._shelf = (HubShards(source, self.place, TextColumn(source.text_field)) if source.hub else
                       Files(source, self.place, self._starts))

    def documents(self, file_number: int, first: int = 0) -> Iterator[tuple[int, Raw]]:
        """(document number, what `text_of` makes text of): a document that nobody wants costs no parsing.

        Documents below `first` are left out where that is cheap, and come all the same where it is not.
        """
        if self._starts is None or not self.has_rows(file_number):
            return self._shelf.numbered(file_number, first)
        lines = ((number, self._line(raw)) for number, raw in self._shelf.numbered(file_number, 0))
        return from_starts(lines, self._starts, lambda number: self.where(file_number, number))

    def has_rows(self, file_number: int) -> bool:
        """Whether its documents stand in rows: lines of .jsonl, or rows of columns; else they are cut from a text."""
        return self._shelf.has_rows(file_number)

    def text_of(self, raw: Raw) -> Text:
        """The document; raises `Malformed` when there is none."""
        if isinstance(raw, Malformed):
            raise raw
        if isinstance(raw, bytes):
            raw = json_text(raw, self._text_field)
        return Text(raw) if isinstance(raw, str) else raw

    def text_bytes(self) -> int | None:
        """How much text there is, unpacked, as far as that is known without reading it."""
        return self._shelf.text_bytes()

    def _line(self, raw: Raw) -> str | Malformed:
        """A row as a line of a longer document."""
        try:
            text = self.text_of(raw).text
        except Malformed as error:
            return error
        return text if text.endswith("\n") else text + "\n"

    def _compile(self, starts: str | None) -> re.Pattern[str] | None:
        try:
            return None if starts is None else re.compile(starts)
        except re.error as error:
            raise UserError(f"{self.place}.starts: {starts!r} is no regular expression: {error}") from error
