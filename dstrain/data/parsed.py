"""A document as a lane takes it: its targets and words, or why there are none. From text, or as a shard holds them."""

from __future__ import annotations

from typing import NamedTuple, Protocol, Union

import numpy as np

from dstrain.data.preparing.shards import Kept
from dstrain.data.reading.pair_text import Line, RawPair, TwoSides
from dstrain.data.reading.text import Malformed, Raw, Text
from dstrain.data.tokenizers.tokenizer import Tokenizer

Content = Union[Raw, Kept, RawPair]
"""what a corpus gives for a document: text still to be parsed, or the place in a shard where its tokens stand"""

NO_TARGETS = np.empty(0, dtype=np.int32)


class Found(Protocol):
    """What a document or a pair of sentences is parsed to."""

    targets: np.ndarray
    words: int
    malformed: str | None


class Parsed(NamedTuple):
    targets: np.ndarray
    """int32: the tokens, and end-of-text where the document ends here; empty when there is nothing to train on"""
    words: int
    malformed: str | None = None
    """why there is no document"""


def parsed(corpus, tokenizer: Tokenizer, content: Content) -> Parsed:
    """The same for a document from text and for the same one from a shard. Safe to call from several threads."""
    if isinstance(content, Kept):
        return Parsed(*content.shard.document(content.row))
    try:
        text = corpus.text_of(content)
        return Parsed(_targets(tokenizer, text.text, text.ends), text.words())
    except Malformed as error:
        return Parsed(NO_TARGETS, 0, str(error))


def size_of(content: Content) -> int:
    """Roughly the bytes of text that are still to be parsed."""
    if isinstance(content, (bytes, str)):
        return len(content)
    if isinstance(content, (TwoSides, Line)):
        return content.size()
    return len(content.text) + content.cut_line_ends if isinstance(content, Text) else 0


def _targets(tokenizer: Tokenizer, text: str, ends: bool) -> np.ndarray:
    try:
        tokens = tokenizer.encode(text)
    except ValueError as error:  # the tokenizer gives up on it
        raise Malformed(f"cannot be tokenized: {error}") from None
    return np.append(tokens, np.int32(tokenizer.eot)) if ends and len(tokens) else tokens
