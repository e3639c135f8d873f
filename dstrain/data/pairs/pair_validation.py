"""Validation pairs: one pass over the sources, every pair once. As batches by length to be scored, or as texts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from dstrain.config.schema import Recipe
from dstrain.config.shape import shape_of
from dstrain.config.translate import PairData
from dstrain.data.pairs.pair import Pair, pair_parser
from dstrain.data.pairs.pair_batch import PairBatch, collate_pairs
from dstrain.data.pairs.windows import cut_by_length
from dstrain.data.reading.malformed import MalformedLines, Warn, unsaid
from dstrain.data.reading.pair_sources import pair_corpora
from dstrain.data.reading.text import Malformed
from dstrain.data.scan import read_once
from dstrain.data.tokenizers.pair_tokenizer import PairTokenizer
from dstrain.data.workers import Workers


def valid_pairs(recipe: Recipe, tokenizer: PairTokenizer, rank: int, world: int,
                warn: Warn | None = None) -> Iterator[PairBatch]:
    """One pass over the rank's share: all ranks together score every target once, whatever their number.

    Pairs that are too long are cut: none is left out. Ends earlier on some ranks: `filler_pairs` stands in there.
    """
    tokens = shape_of(recipe, world).micro_tokens
    number = 0
    for window in _windows(recipe, tokenizer, warn if rank == 0 else unsaid):
        lengths = [(len(pair.source), len(pair.targets)) for pair in window]
        for rows in cut_by_length(lengths, max(tokens, recipe.batch.length) * world):
            if own := range(rank, len(rows), world):
                numbers = [number + rows[row] for row in own]
                yield collate_pairs([window[rows[row]] for row in own], numbers, tokenizer.target.eot)
        number += len(window)


def valid_texts(recipe: Recipe) -> list[tuple[str, str]]:
    """(source, target) of all validation pairs in their own order, uncut; what is malformed is left out. They are read
    once, and kept."""
    return _texts(recipe.data)


@lru_cache(maxsize=1)
def _texts(data: PairData) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for corpus in pair_corpora(data, "valid"):
        tally = MalformedLines(corpus, data.bad_share, 1, unsaid)  # named when they were scored
        for file in range(corpus.file_count):
            for number, raw in corpus.documents(file):
                tally.see(0)
                try:
                    pair = corpus.text_of(raw)
                except Malformed as error:
                    tally.skip(0, file, number, str(error))
                    continue
                if pair is not None:
                    found.append((pair.source, pair.target))
        tally.end_of_epoch(0)
    return found


def _windows(recipe: Recipe, tokenizer: PairTokenizer, warn: Warn | None) -> Iterator[list[Pair]]:
    held: list[Pair] = []
    workers = Workers(recipe.data.workers)
    try:
        for corpus in pair_corpora(recipe.data, "valid"):
            parse = pair_parser(corpus, tokenizer, recipe.batch.length, over_long="cut")
            tally = MalformedLines(corpus, recipe.data.bad_share, 1, warn)
            for _, document in read_once(corpus, parse, [0], 1, tally, workers):
                if len(document.targets):
                    held.append(document.found)
                if len(held) == recipe.batch.window:
                    yield held
                    held = []
    finally:
        workers.close()
    if held:
        yield held
