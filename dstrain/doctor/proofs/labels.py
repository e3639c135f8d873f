"""Labels are the input moved by one within its document, all of them are scored, and nothing else is."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from dstrain.doctor.case import WORLDS, Case
from dstrain.doctor.finding import Finding, exactly

CLAIM = "labels are the next token of the same document; starts and ends are scored, padding never"
STEPS = 6


def prove(case: Case) -> Finding:
    tokenizer = case.tokenizer()
    wrong, compared = 0, 0
    with closing(case.family.train_feed(case.recipe, tokenizer, 0, 1, None)) as feed:
        for _, step in zip(range(STEPS), feed):
            for batch in step.micro_batches:
                faults, checked = count_faults(batch, tokenizer.eot)
                wrong, compared = wrong + faults, compared + checked
    if case.recipe.data.valid:
        faults, checked = count_validation_faults(case, tokenizer)
        wrong, compared = wrong + faults, compared + checked
    return exactly(wrong, compared, "labels", "a missing or double shift, a label that crosses a document, padding that is "
                   "scored, or validation rows that are lost or scored twice on some number of ranks")


def count_faults(batch: Any, eot: int) -> tuple[int, int]:
    """(wrong labels, labels checked) of one micro-batch, read from ids, segments and lengths alone."""
    ids, labels, segments = batch.ids_BT, batch.labels_BT, batch.segments_BT
    slots_T = torch.arange(ids.shape[1])
    inside = slots_T < batch.lengths_B[:, None]
    same_document = inside[:, :-1] & inside[:, 1:] & (segments[:, :-1] == segments[:, 1:])
    wrong = int((labels[:, :-1] != ids[:, 1:])[same_document].sum())       # the next token, where it stands in the row
    new_document = inside[:, 1:] & (segments[:, :-1] != segments[:, 1:])
    ends = labels[:, :-1][new_document]                                    # a document's last target is its end
    wrong += int((ends != eot).sum()) + int((ids[:, 1:][new_document] != eot).sum())
    wrong += int((labels[inside] == -100).sum()) + int((labels[~inside] != -100).sum())
    return wrong, labels.numel()


def count_validation_faults(case: Case, tokenizer: Any) -> tuple[int, int]:
    """Every number of ranks must score as many targets as one rank does (on the first part of long data)."""
    recipe = replace(case.recipe, batch=replace(case.recipe.batch, length=256))
    counts = [sum(int((batch.labels_BT != -100).sum()) for rank in range(world)
                  for batch in case.family.valid_batches(recipe, tokenizer, rank, world, 8)) for world in WORLDS]
    return sum(abs(count - counts[0]) for count in counts), counts[0]
