"""A pair as tokens: its source with an end, its target with an end, and what is done where a side is too long."""

from __future__ import annotations

from typing import Callable, NamedTuple

import numpy as np

from dstrain.data.parsed import NO_TARGETS
from dstrain.data.reading.pair_text import PairText
from dstrain.data.reading.text import Malformed
from dstrain.data.tokenizers.pair_tokenizer import PairTokenizer
from dstrain.data.tokenizers.tokenizer import Tokenizer


class Pair(NamedTuple):
    source: np.ndarray
    """int32: the source's tokens and its end, which a source that was cut has too"""
    targets: np.ndarray
    """int32: what is scored, the target's tokens and its end; one that was cut has none, because it does not end there.
    Empty: there is nothing to train on"""
    words: int = 0
    """of the target, WikiText's way; of one that was cut, those that are left of it"""
    over_long: bool = False
    """a side had more than batch.length tokens: the pair is cut, or empty where such pairs are left out"""
    malformed: str | None = None
    """why there is no pair"""


def pair_parser(corpus, tokenizer: PairTokenizer, length: int, over_long: str) -> Callable[[object], Pair]:
    """From what the corpus gives to a pair of at most `length` tokens a side; `over_long` is drop or cut.

    Safe to call from several threads.
    """
    def parse(raw: object) -> Pair:
        try:
            text = corpus.text_of(raw)
            return _nothing() if text is None else _pair(text, tokenizer, length, over_long)
        except Malformed as error:
            return _nothing(malformed=str(error))

    return parse


def _pair(text: PairText, tokenizer: PairTokenizer, length: int, over_long: str) -> Pair:
    source, target = _ids(tokenizer.source, text.source), _ids(tokenizer.target, text.target)
    source_end, target_end = np.int32(tokenizer.source.eot), np.int32(tokenizer.target.eot)
    words = len(text.target.split()) + 1
    if max(len(source), len(target)) < length:
        return Pair(np.append(source, source_end), np.append(target, target_end), words)
    if over_long == "drop":
        return _nothing(over_long=True)
    if len(target) >= length:
        target = target[:length]
        return Pair(np.append(source[:length - 1], source_end), target,
                    len(tokenizer.target.decode(target).split()), over_long=True)
    return Pair(np.append(source[:length - 1], source_end), np.append(target, target_end), words, over_long=True)


def _ids(tokenizer: Tokenizer, text: str) -> np.ndarray:
    try:
        return tokenizer.encode(text)
    except ValueError as error:  # the tokenizer gives up on it
        raise Malformed(f"cannot be tokenized: {error}") from None


def _nothing(over_long: bool = False, malformed: str | None = None) -> Pair:
    return Pair(NO_TARGETS, NO_TARGETS, 0, over_long, malformed)
