"""Documents that share a row do not see each other: in a made batch, and in one as the feed gives it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.model_proofs import documents
from dstrain.doctor.on_device import on
from dstrain.doctor.recipe_subject import subject_of
from dstrain.train.family import Batch

CLAIM = documents.CLAIM
STEPS = 32


def prove(case: Case) -> Finding:
    """The made batch has borders everywhere, but writes them itself; so they are looked for in the feed's own, too."""
    made = documents.prove(on(case.device, case.subject()))
    if not made.passed:
        return made
    tokenizer = case.tokenizer()
    batch = first_of_several(case, tokenizer)
    wrong = int((_segments(batch, case) != _by_start(batch, case, tokenizer)).sum())
    if wrong:
        return Finding(False, f"{made.figure}; in a batch of the feed {wrong:,} segments are not those of documents, "
                       "each of which begins with its start token", "none", "where the rows are made, the borders of "
                       "documents get lost: the model joins them", "number the documents of a row where it is packed")
    given = documents.prove(on(case.device, subject_of(case.recipe, case.family, tokenizer, batch)))
    return replace(given, figure=f"{made.figure}; as the feed gives them: {given.figure}")


def first_of_several(case: Case, tokenizer: Any) -> Batch:
    """The first micro-batch with a row of two documents, as it is; of short documents, or there would seldom be one."""
    recipe = case.family.anatomy.excerpt(case.recipe, case.new_folder("documents"), few=True)
    recipe = replace(recipe, data=replace(recipe.data, lanes=1))
    with closing(case.family.train_feed(recipe, tokenizer, 0, 1, None)) as feed:
        for batch in (batch for step in islice(feed, STEPS) for batch in step.micro_batches):
            if bool((_by_start(batch, case, tokenizer) > 0).any()):
                return batch
    raise NotProven(f"the first {STEPS} steps have no row with two documents")


def _segments(batch: Batch, case: Case) -> torch.Tensor:
    return batch.inputs()[case.family.anatomy.roles(case.recipe)["segments"]]


def _by_start(batch: Batch, case: Case, tokenizer: Any) -> torch.Tensor:
    """[B, T] by the start tokens alone, as the segments count: from 0, and -1 behind the row's end."""
    anatomy = case.family.anatomy
    ids_BT, (lengths_B, _) = batch.inputs()[anatomy.roles(case.recipe)["ids"]], anatomy.lengths(batch)
    begins_BT = ids_BT == tokenizer.eot
    begins_BT[:, 0] = False
    beyond_BT = torch.arange(ids_BT.shape[1]) >= lengths_B[:, None]
    return begins_BT.cumsum(1).masked_fill(beyond_BT, -1)
