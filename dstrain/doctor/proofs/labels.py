"""Labels are the input moved by one within its document; every target of the data is scored once, nothing else is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from dstrain.config.schema import Source
from dstrain.data.hashing import row_hash
from dstrain.data.shares import lane_of
from dstrain.data.reading.sources import Corpus
from dstrain.doctor.case import Case
from dstrain.doctor.excerpt import excerpt
from dstrain.doctor.finding import Finding

CLAIM = ("labels are the next token of the same document; an epoch and a validation score every target once, "
         "padding never")
STEPS, VALID_BATCHES, LENGTH = 6, 8, 256


def prove(case: Case) -> Finding:
    tokenizer = case.tokenizer()
    train, valid = ([excerpt(source, case.new_folder("excerpt")) for source in sources]
                    for sources in (case.recipe.data.train, case.recipe.data.valid))
    wrong = compared = borders = ends = 0
    for batch in _batches(case, tokenizer, valid):
        wrong += count_faults(batch, tokenizer.eot)
        compared += batch.labels_BT.numel()
        borders += int((batch.segments_BT > 0).any())
        ends += int((batch.labels_BT == tokenizer.eot).sum())
    wrong += int(borders > 0 and ends == 0)  # documents end, but no end is ever a target

    astray = counted = 0
    for of_source in [training_targets_astray(case, tokenizer, source) for source in train] + (
            [validation_targets_astray(case, tokenizer, valid)] if valid else []):
        astray, counted = astray + of_source[0], counted + of_source[1]
    passed = wrong == astray == 0 and compared > 0 and counted > 0
    return Finding(passed, f"{wrong:,} of {compared:,} labels wrong; {astray:,} of {counted:,} targets lost or "
                   f"doubled, counted on the first documents of each source", "none",
                   "" if passed else "a missing or double shift, a label that crosses a document, ends that are never "
                   "scored, padding that is, or rows that are lost or scored twice on some number of ranks")


def count_faults(batch: Any, eot: int) -> int:
    """Wrong labels of one micro-batch, read from ids, segments and lengths alone."""
    ids, labels, segments = batch.ids_BT, batch.labels_BT, batch.segments_BT
    inside = torch.arange(ids.shape[1]) < batch.lengths_B[:, None]
    pair_inside, same = inside[:, :-1] & inside[:, 1:], segments[:, :-1] == segments[:, 1:]
    wrong = int((labels[:, :-1] != ids[:, 1:])[pair_inside & same].sum())     # the next token of the same document
    wrong += int((ids[:, 1:] != eot)[pair_inside & ~same].sum())              # a document begins with its start token
    return wrong + int((labels[inside] == -100).sum()) + int((labels[~inside] != -100).sum())


def validation_targets_astray(case: Case, tokenizer: Any, sources: list[Source]) -> tuple[int, int]:
    """(lost or doubled targets, targets) of one validation, on each number of ranks; and the rows must be the same."""
    expected = sum(_target_counts(source, tokenizer) for source in sources)
    recipe = replace(case.recipe, batch=replace(case.recipe.batch, length=LENGTH),
                     data=replace(case.recipe.data, valid=tuple(sources)))
    astray, rows_of_one = 0, None
    for world in case.worlds:
        scored, rows = np.zeros_like(expected), Counter()
        for rank in range(world):
            for batch in case.family.valid_batches(recipe, tokenizer, rank, world, 8):
                scored += _counts(batch.labels_BT[batch.labels_BT != -100].numpy(), tokenizer)
                rows.update(_row_hashes(batch))
        rows_of_one = rows if rows_of_one is None else rows_of_one
        astray += int(np.abs(scored - expected).sum()) + ((rows - rows_of_one) + (rows_of_one - rows)).total()
    return astray, int(expected.sum())


def training_targets_astray(case: Case, tokenizer: Any, source: Source) -> tuple[int, int]:
    """(lost or doubled targets, targets) of one epoch of a small source, on the largest number of ranks."""
    expected, world = _target_counts(source, tokenizer), case.worlds[-1]
    of_lanes = next(sizes for lanes in (case.recipe.data.lanes, world, 1)
                    if all(sizes := _lane_sizes(source, tokenizer, lanes)))
    lanes, world = len(of_lanes), min(world, len(of_lanes))
    batch = replace(case.recipe.batch, length=LENGTH)
    recipe = replace(case.recipe, batch=batch, data=replace(case.recipe.data, train=(source,), lanes=lanes))
    steps = -(-max(of_lanes) // (batch.rows // lanes * LENGTH))
    given: list[list[np.ndarray]] = [[] for _ in range(lanes)]
    with ExitStack() as stack:
        for rank in range(world):
            feed = stack.enter_context(closing(case.family.train_feed(recipe, tokenizer, rank, world, None)))
            for micro_batch in (micro_batch for step in islice(feed, steps) for micro_batch in step.micro_batches):
                for row, labels_T in zip(micro_batch.rows_B.tolist(), micro_batch.labels_BT.numpy()):
                    if row >= 0:
                        given[row % lanes].append(labels_T[labels_T != -100])
    # A lane goes on with its next epoch where one ends: an epoch is as many targets as its documents have.
    epoch = [np.concatenate(rows)[:size] for rows, size in zip(given, of_lanes)]
    return int(np.abs(_counts(np.concatenate(epoch), tokenizer) - expected).sum()), int(expected.sum())


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


def _batches(case: Case, tokenizer: Any, valid: list[Source]) -> Iterator[Any]:
    """The first steps' rows, the first of validation, and a whole validation in small: there rows end in padding."""
    with closing(case.family.train_feed(case.recipe, tokenizer, 0, 1, None)) as feed:
        for _, step in zip(range(STEPS), feed):
            yield from step.micro_batches
    if valid:
        yield from islice(case.family.valid_batches(case.recipe, tokenizer, 0, 1, 64), VALID_BATCHES)
        small = replace(case.recipe, data=replace(case.recipe.data, valid=tuple(valid)))
        yield from case.family.valid_batches(small, tokenizer, 0, 1, 64)
