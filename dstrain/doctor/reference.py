"""The plain reference: one process, float64, no DeepSpeed, no slices, the loss written out from the logits."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import torch
import torch.nn.functional as F

from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.doctor.short_run import cut
from dstrain.families import family_of
from dstrain.nn.chance import row_keys


def reference_step(recipe: Recipe, ragged: bool = True) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of step 1 over the whole global batch at once."""
    recipe = replace(recipe, batch=replace(recipe.batch, micro_rows=recipe.batch.rows))
    family, tokenizer = family_of(recipe), load_tokenizer(recipe.tokenizer)
    trainee = family.build_trainee(recipe, tokenizer).double().train()
    model = trainee.model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(family.initial_weight(model, name, parameter.shape, recipe.run.seed))
    with closing(family.train_feed(recipe, tokenizer, 0, 1, None)) as feed:
        batch, = next(feed).micro_batches
    batch = cut(batch, 1) if ragged else batch
    hidden, = model(**batch.inputs(), keys_B=row_keys(recipe.run.seed, 1, batch.rows_B))
    logits = hidden @ model.output_weight.T
    labels_BT = next_tokens(batch)
    scored = labels_BT != -100
    loss = F.cross_entropy(logits[scored], labels_BT[scored], reduction="sum") / int(scored.sum())
    loss.backward()
    return float(loss.detach()), {name: parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                                  for name, parameter in model.named_parameters()}


def next_tokens(batch) -> torch.Tensor:
    """The labels once more, from the ids: only where a part of a document ends is its label taken as it stands."""
    goes_on = torch.zeros_like(batch.ids_BT, dtype=torch.bool)
    goes_on[:, :-1] = (batch.segments_BT[:, :-1] == batch.segments_BT[:, 1:]) & (batch.segments_BT[:, 1:] >= 0)
    return torch.where(goes_on, batch.ids_BT.roll(-1, dims=1), batch.labels_BT)
