"""Counts the targets of `lm` against the documents: each once in an epoch of training, and once in a validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from dstrain.config.schema import Recipe, Source
from dstrain.data.collate import UNSCORED
from dstrain.data.feed import TrainFeed, valid_batches
from dstrain.data.hashing import row_hash
from dstrain.data.reading.sources import Corpus
from dstrain.data.shares import lane_of

LENGTH = 256


def targets_astray(recipe: Recipe, tokenizer: Any, worlds: tuple[int, ...]) -> tuple[int, int]:
    """(targets lost or doubled, targets counted), on rows of 256 tokens."""
    recipe = replace(recipe, batch=replace(recipe.batch, length=LENGTH))
    found = [_of_training(recipe, tokenizer, source, worlds[-1]) for source in recipe.data.train]
    found += [_of_validation(recipe, tokenizer, worlds)] if recipe.data.valid else []
    return sum(astray for astray, _ in found), sum(counted for _, counted in found)


def _of_training(recipe: Recipe, tokenizer: Any, source: Source, world: int) -> tuple[int, int]:
    """Of one epoch of a small source, on the largest number of ranks."""
    expected = _target_counts(source, tokenizer)
    of_lanes = next(sizes for lanes in (recipe.data.lanes, world, 1)
                    if all(sizes := _lane_sizes(source, tokenizer, lanes)))
    lanes, world = len(of_lanes), min(world, len(of_lanes))
    recipe = replace(recipe, data=replace(recipe.data, train=(source,), lanes=lanes))
    steps = -(-max(of_lanes) // (recipe.batch.rows // lanes * LENGTH))
    given: list[list[np.ndarray]] = [[] for _ in range(lanes)]
    with ExitStack() as stack:
        for rank in range(world):
            feed = stack.enter_context(closing(TrainFeed(recipe, tokenizer, rank, world, None)))
            for micro_batch in (micro_batch for step in islice(feed, steps) for micro_batch in step.micro_batches):
                for row, labels_T in zip(micro_batch.rows_B.tolist(), micro_batch.labels_BT.numpy()):
                    if row >= 0:
                        given[row % lanes].append(labels_T[labels_T != UNSCORED])
    # A lane goes on with its next epoch where one ends: an epoch is as many targets as its documents have.
    epoch = [np.concatenate(rows)[:size] for rows, size in zip(given, of_lanes)]
    return int(np.abs(_counts(np.concatenate(epoch), tokenizer) - expected).sum()), int(expected.sum())


def _of_validation(recipe: Recipe, tokenizer: Any, worlds: tuple[int, ...]) -> tuple[int, int]:
    """Of one validation, on each number of ranks; and the rows must be the same."""
    expected = sum(_target_counts(source, tokenizer) for source in recipe.data.valid)
    astray, rows_of_one = 0, None
    for world in worlds:
        scored, rows = np.zeros_like(expected), Counter()
        for rank in range(world):
            for batch in valid_batches(recipe, tokenizer, rank, world, 8):
                scored += _counts(batch.labels_BT[batch.labels_BT != UNSCORED].numpy(), tokenizer)
                rows.update(_row_hashes(batch))
        rows_of_one = rows if rows_of_one is None else rows_of_one
        astray += int(np.abs(scored - expected).sum()) + ((rows - rows_of_one) + (rows_of_one - rows)).total()
    return astray, int(expected.sum())


def _target_counts(source: Source, tokenizer: Any) -> np.ndarray:
    """How often each token is a target, straight from the documents: their tokens, and one end for each that ends."""
    return sum(_counts(targets, tokenizer) for _, targets in _documents(source, tokenizer))


def _lane_sizes(source: Source, tokenizer: Any, lanes: int) -> list[int]:
    sizes = [0] * lanes
    for (file, document), targets in _documents(source, tokenizer):
        sizes[lane_of(0, file, document, lanes)] += len(targets)
    return sizes


def _documents(source: Source, tokenizer: Any) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    corpus = Corpus(source, 0, "excerpt")
    for file in range(corpus.file_count):
        for number, raw in corpus.documents(file):
            text = corpus.text_of(raw)
            tokens = tokenizer.encode(text.text)
            yield (file, number), np.append(tokens, tokenizer.eot) if text.ends and len(tokens) else tokens


def _counts(targets: np.ndarray, tokenizer: Any) -> np.ndarray:
    return np.bincount(targets, minlength=tokenizer.vocab_size)


def _row_hashes(batch: Any) -> list[int]:
    tensors = (batch.ids_BT.numpy(), batch.labels_BT.numpy(), batch.segments_BT.numpy())
    return [row_hash(row, *(values[b] for values in tensors))
            for b, row in enumerate(batch.rows_B.tolist()) if row >= 0]
