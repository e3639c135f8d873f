"""The plain reference: one process, float64, no DeepSpeed, no slices, the loss written out from the logits."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import torch
import torch.nn.functional as F

from dstrain.config.schema import Recipe
from dstrain.data.tokenizer import load_tokenizer
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
    scored = batch.labels_BT != -100
    loss = F.cross_entropy(logits[scored], batch.labels_BT[scored], reduction="sum") / int(scored.sum())
    loss.backward()
    return float(loss.detach()), {name: parameter.grad for name, parameter in model.named_parameters()}
