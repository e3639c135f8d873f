"""Counts the targets of `lm` against the documents: each once in each epoch of training, and once in a validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
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
from dstrain.families.anatomy.lm_places import Slots, misplaced, slots_of

LENGTH = 256
EPOCHS = 2
"""of training: one may end and the next begin with what the first one never shows"""


def targets_astray(recipe: Recipe, tokenizer: Any, worlds: tuple[int, ...]) -> tuple[int, int]:
    """(targets lost, doubled or out of place, targets counted), on rows of 256 tokens."""
    recipe = replace(recipe, batch=replace(recipe.batch, length=LENGTH))
    found = [_of_training(recipe, tokenizer, source, worlds[-1]) for source in recipe.data.train]
    found += [_of_validation(recipe, tokenizer, worlds)] if recipe.data.valid else []
    return sum(astray for astray, _ in found), sum(counted for _, counted in found)


def _of_training(recipe: Recipe, tokenizer: Any, source: Source, world: int) -> tuple[int, int]:
    """Of two epochs of a small source, on the largest number of ranks."""
    documents = dict(_documents(source, tokenizer))
    expected = _count_all(documents.values(), tokenizer)
    of_lanes = next(sizes for lanes in (recipe.data.lanes, world, 1) if all(sizes := _lane_sizes(documents, lanes)))
    lanes, world = len(of_lanes), min(world, len(of_lanes))
    recipe = replace(recipe, data=replace(recipe.data, train=(source,), lanes=lanes))
    steps = -(-EPOCHS * max(of_lanes) // (recipe.batch.rows // lanes * LENGTH))
    given: list[list[Slots]] = [[] for _ in range(lanes)]
    with ExitStack() as stack:
        for rank in range(world):
            feed = stack.enter_context(closing(TrainFeed(recipe, tokenizer, rank, world, None)))
            for micro_batch in (micro_batch for step in islice(feed, steps) for micro_batch in step.micro_batches):
                for row in slots_of(micro_batch):
                    given[row.number % lanes].append(row)
    astray = sum(misplaced(rows, list(documents.values()), tokenizer.eot) for rows in given)
    # A lane goes on with its next epoch where one ends: an epoch is as many targets as its documents have.
    scored = [np.concatenate([row.labels[row.labels != UNSCORED] for row in rows]) for rows in given]
    for epoch in range(EPOCHS):
        of_epoch = np.concatenate([targets[epoch * size:][:size] for targets, size in zip(scored, of_lanes)])
        astray += int(np.abs(_counts(of_epoch, tokenizer) - expected).sum())
    return astray, EPOCHS * int(expected.sum())


def _of_validation(recipe: Recipe, tokenizer: Any, worlds: tuple[int, ...]) -> tuple[int, int]:
    """Of one validation, on each number of ranks; and the rows must be the same."""
    documents = [targets for source in recipe.data.valid for _, targets in _documents(source, tokenizer)]
    expected = _count_all(documents, tokenizer)
    astray, rows_of_one = 0, None
    for world in worlds:
        scored, rows = np.zeros_like(expected), Counter()
        lanes: list[list[Slots]] = [[] for _ in range(recipe.data.lanes)]
        for rank in range(world):
            for batch in valid_batches(recipe, tokenizer, rank, world, 8):
                scored += _counts(batch.labels_BT[batch.labels_BT != UNSCORED].numpy(), tokenizer)
                rows.update(_row_hashes(batch))
                for row in slots_of(batch):
                    lanes[row.number % len(lanes)].append(row)
        rows_of_one = rows if rows_of_one is None else rows_of_one
        astray += int(np.abs(scored - expected).sum()) + ((rows - rows_of_one) + (rows_of_one - rows)).total()
        astray += sum(misplaced(sorted(lane, key=lambda row: row.number), documents, tokenizer.eot) for lane in lanes)
    return astray, int(expected.sum())


def _count_all(documents: Iterable[np.ndarray], tokenizer: Any) -> np.ndarray:
    """How often each token is a target, straight from the documents: their tokens, and one end for each that ends."""
    return sum((_counts(targets, tokenizer) for targets in documents), _counts(np.empty(0, np.int64), tokenizer))


def _lane_sizes(documents: dict[tuple[int, int], np.ndarray], lanes: int) -> list[int]:
    sizes = [0] * lanes
    for (file, document), targets in documents.items():
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
