"""A pair of sentences as text: of two lines, of a line with both, or of a row; or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from dstrain.data.reading.jsonlines import json_record, text_field
from dstrain.data.reading.text import Malformed

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class PairText:
    source: str
    target: str


@dataclass(frozen=True)
class TwoSides:
    """A pair as two files, or the columns of a row, give it."""

    source: bytes | str | Malformed
    target: bytes | str | Malformed

    def sides(self) -> TwoSides:
        return self

    def size(self) -> int:
        return sum(len(side) for side in (self.source, self.target) if not isinstance(side, Malformed))


@dataclass(frozen=True)
class Line:
    """A pair as a line gives it that holds both sides: cut apart when somebody asks for its text."""

    line: bytes
    keys: tuple[int, int] | tuple[str, str]
    """where source and target stand: columns of a .tsv, fields of a .jsonl"""

    def sides(self) -> TwoSides:
        return _columns(self.line, self.keys) if isinstance(self.keys[0], int) else _fields(self.line, self.keys)

    def size(self) -> int:
        return len(self.line)


RawPair = Union[TwoSides, Line, Malformed]
"""a pair as its file gives it, before anybody has asked for its text"""


def pair_of(raw: RawPair, languages: Sequence[str]) -> PairText | None:
    """None where both sides are blank; raises `Malformed` where one is, or where a side is no text."""
    if isinstance(raw, Malformed):
        raise raw
    sides = raw.sides()
    source, target = _text(sides.source, languages[0]), _text(sides.target, languages[1])
    blank = [language for text, language in zip((source, target), languages) if not text.strip()]
    if len(blank) == 1:
        raise Malformed(f"the side {blank[0]!r} is empty, and the other one is not")
    return None if blank else PairText(source, target)


def without_line_end(line: bytes) -> bytes:
    """\\n or \\r\\n; nothing else ends a line, or two files would come out of step."""
    return line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n")


def _columns(line: bytes, columns: tuple[int, int]) -> TwoSides:
    """Between tabs. A quotation mark is a character like any other."""
    parts = without_line_end(line).split(b"\t")
    if len(parts) <= max(columns):
        raise Malformed(f"has {len(parts)} column(s), so none with number {max(columns)} (from 0)")
    return TwoSides(parts[columns[0]], parts[columns[1]])


def _fields(line: bytes, languages: tuple[str, str]) -> TwoSides:
    """{"translation": {"en": ..., "de": ...}} or {"en": ..., "de": ...}."""
    record = json_record(line)
    if isinstance(record.get("translation"), dict):
        record = record["translation"]
    return TwoSides(*(text_field(record, language) for language in languages))


def _text(side: bytes | str | Malformed, language: str) -> str:
    if isinstance(side, Malformed):
        raise side
    try:
        if isinstance(side, bytes):
            return side.decode("utf-8")
        side.encode("utf-8")
        return side
    except UnicodeDecodeError as error:
        raise Malformed(f"the side {language!r} is not UTF-8 ({error.reason} at byte {error.start})") from error
    except UnicodeEncodeError as error:
        raise Malformed(f"the side {language!r} holds half a surrogate pair at character {error.start}") from error
