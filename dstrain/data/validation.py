"""Validation: one pass over the sources, every target scored once, in rows that do not depend on the ranks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from dstrain.config.schema import Recipe
from dstrain.config.shape import shape_of
from dstrain.data.batching import lanes_of_rank
from dstrain.data.collate import Batch, Part, Row, collate, part_of
from dstrain.data.reading.malformed import MalformedLines, Warn
from dstrain.data.parsed import parsed
from dstrain.data.preparing.prepared import corpora_of
from dstrain.data.scan import read_once
from dstrain.data.tokenizers.tokenizer import Tokenizer
from dstrain.data.workers import workers_for


def valid_batches(recipe: Recipe, tokenizer: Tokenizer, rank: int, world: int,
                  micro_rows: int | None = None, warn: Warn | None = None) -> Iterator[Batch]:
    """One pass over the rank's share: all ranks together score every target once, in the same rows for any `world`.

    Ends earlier on some ranks: `filler_batch` stands in there. By default as many rows a batch as in training.
    """
    if micro_rows is None:
        micro_rows = shape_of(recipe, world).micro_rows
    lane_count, length, eot = recipe.data.lanes, recipe.batch.length, tokenizer.eot
    full: list[Row] = []
    for row in _valid_rows(recipe, tokenizer, lanes_of_rank(lane_count, rank, world), warn):
        full.append(row)
        if len(full) == micro_rows:
            yield collate(full, micro_rows, length, eot)
            full = []
    if full:
        yield collate(full, micro_rows, length, eot)


def _valid_rows(recipe: Recipe, tokenizer: Tokenizer, lanes: range, warn: Warn | None) -> Iterator[Row]:
    """Rows as they fill up, lane by lane; at the end the rows that are only partly full."""
    packers = {lane: _Packer(lane, recipe.data.lanes, recipe.batch.length) for lane in lanes}
    workers = workers_for(recipe)
    try:
        for corpus in corpora_of(recipe, "valid", tokenizer) if packers else ():
            malformed = MalformedLines(corpus, recipe.data.bad_share, recipe.data.lanes, warn)
            parse = partial(parsed, corpus, tokenizer)
            for lane, document in read_once(corpus, parse, lanes, recipe.data.lanes, malformed, workers):
                yield from packers[lane].add(document.targets, document.words)
    finally:
        workers.close()
    for packer in packers.values():
        yield from packer.rest()


class _Packer:
    """Packs one lane's documents into its rows: lane, lane + L, lane + 2 L, ..."""

    def __init__(self, lane: int, lane_count: int, length: int):
        self._number, self._lane_count, self._length = lane, lane_count, length
        self._parts: list[Part] = []
        self._room = length

    def add(self, targets: np.ndarray, words: int) -> Iterator[Row]:
        start = 0
        while start < len(targets):
            part = part_of(targets, start, self._room, words)
            self._parts.append(part)
            start += len(part.targets)
            self._room -= len(part.targets)
            if not self._room:
                yield from self.rest()

    def rest(self) -> Iterator[Row]:
        if self._parts:
            yield Row(self._number, self._parts)
            self._number, self._parts, self._room = self._number + self._lane_count, [], self._length
