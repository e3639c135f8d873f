"""Labels are the input moved by one within its document, all of them are scored, and nothing else is."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any, Iterator

import torch

from dstrain.doctor.case import WORLDS, Case
from dstrain.doctor.finding import Finding, exactly

CLAIM = "labels are the next token of the same document; starts and ends are scored, padding never"
STEPS = 6


def prove(case: Case) -> Finding:
    tokenizer = case.tokenizer()
    wrong = compared = borders = ends = 0
    for batch in _batches(case, tokenizer):
        wrong += count_faults(batch, tokenizer.eot)
        compared += batch.labels_BT.numel()
        borders += int((batch.segments_BT > 0).any())
        ends += int((batch.labels_BT == tokenizer.eot).sum())
    wrong += int(borders > 0 and ends == 0)  # documents end, but no end is ever a target
    wrong += count_lost_validation_targets(case, tokenizer)
    return exactly(wrong, compared, "labels", "a missing or double shift, a label that crosses a document, ends that are never "
                   "scored, padding that is, or validation rows that are lost or scored twice on some number of ranks")


def count_faults(batch: Any, eot: int) -> int:
    """Wrong labels of one micro-batch, read from ids, segments and lengths alone."""
    ids, labels, segments = batch.ids_BT, batch.labels_BT, batch.segments_BT
    inside = torch.arange(ids.shape[1]) < batch.lengths_B[:, None]
    pair_inside, same = inside[:, :-1] & inside[:, 1:], segments[:, :-1] == segments[:, 1:]
    wrong = int((labels[:, :-1] != ids[:, 1:])[pair_inside & same].sum())        # the next token of the same document
    wrong += int((ids[:, 1:] != eot)[pair_inside & ~same].sum())                 # a document begins with its start token
    return wrong + int((labels[inside] == -100).sum()) + int((labels[~inside] != -100).sum())


def count_lost_validation_targets(case: Case, tokenizer: Any) -> int:
    """Every number of ranks must score as many validation targets as one rank does."""
    if not case.recipe.data.valid:
        return 0
    recipe = replace(case.recipe, batch=replace(case.recipe.batch, length=256))
    counts = [sum(int((batch.labels_BT != -100).sum()) for rank in range(world)
                  for batch in case.family.valid_batches(recipe, tokenizer, rank, world, 8)) for world in WORLDS]
    return sum(abs(count - counts[0]) for count in counts)


def _batches(case: Case, tokenizer: Any) -> Iterator[Any]:
    """The first steps' rows, and all of validation: there some rows end in padding."""
    with closing(case.family.train_feed(case.recipe, tokenizer, 0, 1, None)) as feed:
        for _, step in zip(range(STEPS), feed):
            yield from step.micro_batches
    if case.recipe.data.valid:
        yield from case.family.valid_batches(case.recipe, tokenizer, 0, 1, 64)
