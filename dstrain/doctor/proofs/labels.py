"""Labels are what comes next in the same document; every target of the data is scored once, nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

from dstrain.config.schema import Recipe
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding
from dstrain.train.family import Batch

CLAIM = ("labels are the next token of the same document; an epoch and a validation score every target once, "
         "padding never; inputs, segments and positions follow the documents")
STEPS, VALID_BATCHES = 6, 8


def prove(case: Case) -> Finding:
    tokenizer, anatomy = case.tokenizer(), case.family.anatomy
    small = anatomy.excerpt(_at_its_own_length(case), case.new_folder("excerpt"))
    wrong = compared = 0
    for batch in _batches(case, tokenizer, small):
        wrong += anatomy.wrong(batch, tokenizer)
        compared += batch.labels_BT.numel()
    astray, counted = anatomy.astray(small, tokenizer, case.worlds)
    passed = wrong == astray == 0 and compared > 0 and counted > 0
    return Finding(passed, f"{wrong:,} of {compared:,} labels wrong; {astray:,} of {counted:,} targets lost, "
                   f"doubled or out of place, counted on the first documents of each source", "none",
                   "" if passed else "a missing or double shift, a label that crosses a document, a missing start, "
                   "ends that are never scored, padding that is, sources beside others' targets, rows that are lost "
                   "or scored twice on some number of ranks, an epoch or a long document that is not whole, or "
                   "segments and positions that do not begin where a document does")


def _at_its_own_length(case: Case) -> Recipe:
    """No model is run here: rows may be as long as the user's, and what is too long for them is treated as there."""
    own, small = (case.full or case.recipe).batch, case.recipe.batch
    return replace(case.recipe, batch=replace(small, **{
        name: getattr(own, name) for name in ("length", "over_long") if hasattr(own, name)}))


def _batches(case: Case, tokenizer: Any, small: Recipe) -> Iterator[Batch]:
    """The first steps' rows, the first of validation, and a whole validation in small: there rows end in padding."""
    with closing(case.family.train_feed(case.recipe, tokenizer, 0, 1, None)) as feed:
        for _, step in zip(range(STEPS), feed):
            yield from step.micro_batches
    if case.recipe.data.valid:
        yield from islice(case.family.valid_batches(case.recipe, tokenizer, 0, 1), VALID_BATCHES)
        in_small = replace(case.recipe, data=replace(case.recipe.data, valid=small.data.valid))
        yield from case.family.valid_batches(in_small, tokenizer, 0, 1)
