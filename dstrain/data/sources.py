"""From a recipe's source to its files, and from a file to its documents, streamed: no file is held whole.

A document has a file number (in the sorted list of files) and a document number in that file. Text is UTF-8; a byte
order mark at a file's start is dropped. In .txt and .py files every line end (\\n, \\r\\n, \\r) becomes \\n, on every
system alike; the text inside a .jsonl record stays as it is written.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TextIO

from dstrain.config.errors import UserError
from dstrain.config.schema import Source
from dstrain.data.embedded import embedded_files

PIECE_CHARACTERS = 16_384
SAMPLE_BYTES = 65_536


@dataclass(frozen=True)
class Text:
    """One numbered document as text, or one piece of a long one."""

    text: str
    ends: bool = True
    """False: a piece after which its document goes on"""
    cut_line_ends: int = 0
    """line ends that separate documents and so are in none of them; the word count still counts them"""

    def words(self) -> int:
        """Whitespace-separated words, and one per line end: WikiText's count."""
        return len(self.text.split()) + self.text.count("\n") + self.cut_line_ends


class Malformed(Exception):
    """A line that holds no document: says why."""


class Corpus:
    """One source of a recipe: its files, listed at once, and their documents, read when they are asked for."""

    def __init__(self, source: Source, number: int, split: str):
        self.number = number
        self.place = f"data.{split}.{number}"
        self.name = f"{self.place} ({source.path or source.embedded})"
        self.files = self._list_files(source)
        self._source = source
        self._starts = self._compile(source.starts)

    @cached_property
    def fingerprint(self) -> dict[str, int | str]:
        """What a place in these files is good for: their number, and a digest of sizes and samples of their contents.

        Without their names: files may move. A change inside a large file that leaves its size, start, middle and end as
        they were goes unnoticed.
        """
        digest = hashlib.blake2b(digest_size=8)
        for path in self.files:
            with _readable(path), open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(size.to_bytes(8, "little"))
                for start in sorted({0, max(0, size // 2 - SAMPLE_BYTES // 2), max(0, size - SAMPLE_BYTES)}):
                    file.seek(start)
                    digest.update(file.read(SAMPLE_BYTES))
        return {"count": self.file_count, "digest": digest.hexdigest()}

    @property
    def file_count(self) -> int:
        return len(self.files)

    def documents(self, file_number: int, first: int = 0) -> Iterator[tuple[int, bytes | Text]]:
        """(document number, what `text_of` makes text of): a document that nobody wants costs no parsing.

        Documents below `first` are left out where that is cheap, and come all the same where it is not.
        """
        path = self.files[file_number]
        with _opened(path) as stream:
            if _kind(path) == ".jsonl":
                yield from _json_lines(stream)
            else:
                yield from enumerate(self._texts(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=None)))

    def text_of(self, raw: bytes | Text) -> Text:
        """The document; `Malformed` when a .jsonl line holds none."""
        return raw if isinstance(raw, Text) else Text(_json_text(raw, self._source.text_field))

    def where(self, file_number: int, document: int) -> str:
        """A document's place for a person: in a .jsonl file the document's number is the line's."""
        path = self.files[file_number]
        return f"{path}, {'line' if _kind(path) == '.jsonl' else 'document'} {document + 1}"

    def _texts(self, stream: TextIO) -> Iterator[Text]:
        if self._starts is not None:
            return _from_matches(stream, self._starts)
        return {"file": _pieces, "paragraphs": _paragraphs, "lines": _lines}[self._source.documents](stream)

    def _list_files(self, source: Source) -> list[Path]:
        if (source.path is None) == (source.embedded is None):
            raise UserError(f"{self.place}: a source has either `path` or `embedded`, not both and not neither")
        if source.embedded is not None:
            return embedded_files(source.embedded, source.part)
        pattern = os.path.expanduser(source.path)
        named = [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)
        # A set, because glob names a file several times where a pattern has several **.
        files = sorted({Path(name) for name in named if os.path.isfile(name)}, key=lambda path: path.parts)
        if not files:
            raise UserError(f"{self.place}.path: {source.path!r} matches no file (looked in {os.getcwd()}); "
                            f"correct the path or run from the folder that it is relative to")
        for path in files:
            if _kind(path) not in (".txt", ".jsonl"):
                raise UserError(f"{self.place}.path: {path} is neither .txt nor .jsonl (plain or .gz); "
                                f"rename it or narrow the pattern")
        return files

    def _compile(self, starts: str | None) -> re.Pattern[str] | None:
        try:
            return None if starts is None else re.compile(starts)
        except re.error as error:
            raise UserError(f"{self.place}.starts: {starts!r} is no regular expression: {error}") from error


# ---- .txt: each function yields a file's documents in order ----


def _pieces(stream: TextIO) -> Iterator[Text]:
    """The whole file as one document, in pieces of up to PIECE_CHARACTERS, cut after a line end where there is one."""
    held = ""
    while more := stream.read(PIECE_CHARACTERS):
        held += more
        while len(held) > PIECE_CHARACTERS:
            cut = _cut(held)
            yield Text(held[:cut], ends=False)
            held = held[cut:]
    if held:
        yield Text(held)


def _cut(text: str) -> int:
    """Behind the last line end, else before the last space (which belongs to the next word), else where it is full."""
    after_line = text.rfind("\n", 0, PIECE_CHARACTERS) + 1
    return after_line or max(text.rfind(" ", 0, PIECE_CHARACTERS), 0) or PIECE_CHARACTERS


def _paragraphs(stream: TextIO) -> Iterator[Text]:
    held: list[str] = []
    for line in stream:
        if line.strip():
            held.append(line)
        elif held:
            yield _without_line_end("".join(held))
            held = []
    if held:
        yield _without_line_end("".join(held))


def _lines(stream: TextIO) -> Iterator[Text]:
    return (_without_line_end(line) for line in stream if line.strip())


def _from_matches(stream: TextIO, starts: re.Pattern[str]) -> Iterator[Text]:
    """A document from each line at whose start the pattern matches; what stands before the first is one, too."""
    held: list[str] = []
    for line in stream:
        if held and starts.match(line.rstrip("\n")):
            if text := _unless_blank(held):
                yield text
            held = []
        held.append(line)
    if text := _unless_blank(held):
        yield text


def _unless_blank(lines: list[str]) -> Text | None:
    text = "".join(lines)
    return Text(text) if text.strip() else None


def _without_line_end(text: str) -> Text:
    return Text(text[:-1], cut_line_ends=1) if text.endswith("\n") else Text(text)


# ---- .jsonl ----


def _json_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(stream):
        if number == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, line


def _json_text(line: bytes, field: str) -> str:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON ({error})") from error
    if not isinstance(record, dict):
        raise Malformed(f"not an object but {type(record).__name__}")
    if field not in record:
        raise Malformed(f"no field {field!r}")
    text = record[field]
    if not isinstance(text, str):
        raise Malformed(f"field {field!r} is not text but {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Malformed(f"field {field!r} holds half a surrogate pair at character {error.start}") from error
    return text


# ---- files ----


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked; what is wrong with the file itself becomes the user's error, with its name."""
    try:
        with _readable(path), gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: line {_first_line_not_utf8(path)} is not UTF-8 ({error.reason}); "
                        f"convert the file, for example with iconv -t UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged or cut off ({error}); fetch or pack it again") from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except gzip.BadGzipFile:  # an OSError, too, and said better
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); make it readable, or name other "
                        f"files") from error


def _first_line_not_utf8(path: Path) -> int:
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    raise AssertionError(f"{path} is UTF-8 after all")
