"""Translating with a trained model: lines of text, batched by length, in their own order again at the end.

A line's translation depends on nothing but the line: not on its batch, on what stands beside it, or on the order of the
lines. Another batch shape rounds otherwise: in float64 that changes nothing; in float32 it may change a line in which a
decision hangs on rounding, and such decisions are counted (`ties`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from dstrain.config.errors import UserError
from dstrain.infer.beam import EncoderDecoder, search
from dstrain.infer.hypotheses import Found
from dstrain.infer.searching import Searching
from dstrain.nn.mode import in_eval

BATCH = 64


class PairTokenizer(Protocol):
    source: Any
    target: Any
    shared: bool


@dataclass(frozen=True)
class Translation:
    """One line's translation."""

    text: str = ""
    """without line breaks: what would be one is a space"""
    tokens: int = 0
    """that were written, the end among them"""
    score: float = 0.0
    """(sum of log p) / ((5 + tokens) / 6) ** length_penalty"""
    ties: int = 0
    """how many decisions hang on rounding: there another batch shape may decide otherwise"""
    stopped: str = "empty"
    """`end`: by its end token; `length`: at the line's limit; `empty`: there was nothing to translate"""
    cut: bool = False
    """the source is longer than the model was trained for, and was cut there"""


def translate(model: nn.Module & EncoderDecoder, tokenizer: PairTokenizer, texts: Sequence[str],
              beam: int = Searching.beam, length_penalty: float = Searching.length_penalty,
              batch: int = BATCH) -> list[Translation]:
    """Each text's translation. A text without anything but white space stays empty."""
    return translate_lines(model, tokenizer, encoded(tokenizer, texts, model.length), beam, length_penalty, batch)


def translate_lines(model: nn.Module & EncoderDecoder, tokenizer: PairTokenizer, lines: Sequence[Line],
                    beam: int = Searching.beam, length_penalty: float = Searching.length_penalty,
                    batch: int = BATCH) -> list[Translation]:
    found = translate_ids(model, [line.source for line in lines], tokenizer.target.eot, beam, length_penalty, batch,
                          [line.limit for line in lines])
    return [_translation(tokenizer, line, result) for line, result in zip(lines, found, strict=True)]


def translate_ids(model: nn.Module & EncoderDecoder, sources: Sequence[list[int]], eot: int,
                  beam: int = Searching.beam, length_penalty: float = Searching.length_penalty, batch: int = BATCH,
                  limits: Sequence[int] | None = None) -> list[Found | None]:
    """Each source's best hypothesis. A source is ids with their end; one without any ids is not looked at: None.

    A target begins and ends with `eot`. `limits`: how many tokens it may have, by default `limit_of` its source.
    """
    how = Searching(beam, length_penalty)
    how.check()
    if batch < 1:
        raise UserError(f"batch is {batch}, but must be at least 1 line")
    if limits is None:
        limits = [limit_of(len(source), model.length) for source in sources]
    found: list[Found | None] = [None] * len(sources)
    with in_eval(model):
        for numbers in length_batches(sources, batch):
            results = search(model, [sources[n] for n in numbers], [limits[n] for n in numbers], eot, how)
            for number, result in zip(numbers, results, strict=True):
                found[number] = result
    return found


def limit_of(source_tokens: int, length: int) -> int:
    """How many tokens a target may have: a function of its own line, so that no other line decides where it is cut."""
    return min(2 * source_tokens + 10, length)


def length_batches(sources: Sequence[list[int]], batch: int) -> Iterator[list[int]]:
    """The numbers of the sources that are not empty, shortest first, cut into batches."""
    order = sorted((n for n in range(len(sources)) if sources[n]), key=lambda n: len(sources[n]))
    return (order[first:first + batch] for first in range(0, len(order), batch))


@dataclass(frozen=True)
class Line:
    """A text as the model reads it."""

    source: list[int]
    """with its end; empty where there is nothing to translate"""
    limit: int
    cut: bool


def encoded(tokenizer: PairTokenizer, texts: Sequence[str], length: int) -> list[Line]:
    return [_encoded(tokenizer, text, length) for text in texts]


def _encoded(tokenizer: PairTokenizer, text: str, length: int) -> Line:
    if not text.strip():
        return Line([], 0, False)
    ids = tokenizer.source.encode(text).tolist()
    # Where the sides have vocabularies of their own, the target's tokens may be much shorter, such as bytes.
    longest = len(ids) if tokenizer.shared else max(len(ids), len(tokenizer.target.encode(text)))
    return Line([*ids[:length - 1], tokenizer.source.eot], limit_of(longest + 1, length), len(ids) >= length)


def _translation(tokenizer: PairTokenizer, line: Line, found: Found | None) -> Translation:
    if found is None:
        return Translation()
    return Translation(one_line(tokenizer.target.decode(found.ids)), len(found.ids) + (found.stopped == "end"),
                       found.score, found.ties, found.stopped, line.cut)


def one_line(text: str) -> str:
    return " ".join(text.splitlines())
