"""Where one document ends and the next begins: in a .txt file, and in rows that are lines of documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from dstrain.config.errors import UserError
from dstrain.data.reading.text import Malformed, Text

PIECE_CHARACTERS = 16_384
# A document that is put together from lines is held whole: where no line begins the next one, memory would fill up.
MOST_CHARACTERS = 2**26


def pieces(stream: TextIO) -> Iterator[Text]:
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


def paragraphs(stream: TextIO) -> Iterator[Text]:
    held: list[str] = []
    for line in stream:
        if line.strip():
            held.append(line)
        elif held:
            yield _without_line_end("".join(held))
            held = []
    if held:
        yield _without_line_end("".join(held))


def lines(stream: TextIO) -> Iterator[Text]:
    return (_without_line_end(line) for line in stream if line.strip())


def from_starts(numbered: Iterable[tuple[int, str | Malformed]], starts: re.Pattern[str],
                where: Callable[[int], str]) -> Iterator[tuple[int, Text | Malformed]]:
    """A document from each line at whose start the pattern matches; what stands before the first is one, too.

    A document's number is its first line's. Lines of blanks alone are no document: the next one counts their line ends.
    A malformed line is left out of its document, and comes behind it under its own number.
    """
    held: list[str] = []
    bad: list[tuple[int, Malformed]] = []
    first = characters = cut_line_ends = 0
    for number, line in numbered:
        if isinstance(line, Malformed):
            bad.append((number, line))
            continue
        if held and starts.match(line.rstrip("\n")):
            text = "".join(held)
            if text.strip():
                yield first, Text(text, cut_line_ends=cut_line_ends)
                cut_line_ends = 0
            else:
                cut_line_ends += text.count("\n")
            yield from bad
            held, bad, characters = [], [], 0
        if not held:
            first = number
        held.append(line)
        characters += len(line)
        if characters > MOST_CHARACTERS:
            raise UserError(f"{where(first)}: here begins a document of more than {MOST_CHARACTERS:,} characters, "
                            f"because `starts` {starts.pattern!r} matches no line after it; correct the pattern")
    if "".join(held).strip():
        yield first, Text("".join(held), cut_line_ends=cut_line_ends)
    yield from bad


def _cut(text: str) -> int:
    """Behind the last line end, else before the last space (which belongs to the next word), else where it is full."""
    after_line = text.rfind("\n", 0, PIECE_CHARACTERS) + 1
    return after_line or max(text.rfind(" ", 0, PIECE_CHARACTERS), 0) or PIECE_CHARACTERS


def _without_line_end(text: str) -> Text:
    return Text(text[:-1], cut_line_ends=1) if text.endswith("\n") else Text(text)
