"""The plain reference of a step of pairs, each alone in float64 with the loss written out; and a job for ranks."""

from __future__ import annotations

import contextlib
from contextlib import closing
from dataclasses import replace

import torch
import torch.nn.functional as F

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.families import family_of
from dstrain.infer import scores
from dstrain.nn.chance import row_keys
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.runtime.generating import all_ranks_generate

TOLERANCE = 1e-5


def reference_gradient(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Of step 1 with dropout, each pair alone and without padding, cross entropy with torch's own label smoothing."""
    recipe = replace(recipe, batch=replace(recipe.batch, micro_tokens=recipe.batch.tokens))
    family = family_of(recipe)
    tokenizer = family.open_tokenizer(recipe, None)
    model = family.build_trainee(recipe, tokenizer).double().train().model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(family.initial_weight(model, name, parameter.shape, recipe.run.seed))
    with closing(family.train_feed(recipe, tokenizer, 0, 1, None)) as feed:
        batch, = next(feed).micro_batches
    total, scored = torch.zeros((), dtype=torch.float64), 0
    for row, source_length, length in zip(range(len(batch.rows_B)), batch.source_lengths_B.tolist(),
                                          batch.lengths_B.tolist()):
        hidden, = model(source_BS=batch.source_BS[row:row + 1, :source_length],
                        source_lengths_B=batch.source_lengths_B[row:row + 1], ids_BT=batch.ids_BT[row:row + 1, :length],
                        lengths_B=batch.lengths_B[row:row + 1],
                        keys_B=row_keys(recipe.run.seed, 1, batch.rows_B[row:row + 1]))
        labels_T = batch.labels_BT[row, :length]
        logits_TV = hidden[0] @ model.output_weight.T
        total = total + F.cross_entropy(logits_TV, labels_T, reduction="sum",
                                        label_smoothing=recipe.objective.label_smoothing)
        scored += int((labels_T != -100).sum())
    (total / scored).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def generated(ranks: Ranks, recipe: Recipe, ds_config: str) -> tuple[dict | None, dict | None]:
    """Scores of what the untrained model writes, and that itself; and what comes when the last rank must leave."""
    scored = scores.corpus_scores
    scores.corpus_scores = lambda hypotheses, references: {**scored(hypotheses, references), "written": hypotheses}
    family = family_of(recipe)
    tokenizer = family.open_tokenizer(recipe, None)

    def weight(model: torch.nn.Module, name: str, shape: torch.Size) -> torch.Tensor:
        initial = family.initial_weight(model, name, shape, recipe.run.seed)
        if name == "embed.weight":
            initial[tokenizer.target.eot] = 0.0  # or it would repeat its start, which is the end, too
        return initial

    engine = Engine(lambda: family.build_trainee(recipe, tokenizer),
                    lambda trainee: lambda name, shape: weight(trainee.model, name, shape),
                    recipe, engine_json(recipe, ranks.world, "cpu", ds_config), ranks)
    alone = engine.holds_whole_model
    with contextlib.nullcontext() if alone else all_ranks_generate(engine):
        found = [family.generated_scores(engine.model, tokenizer, recipe, ranks, alone, must_leave)
                 for must_leave in (lambda: False, lambda: ranks.rank == ranks.world - 1)]
    engine.close()
    scores.corpus_scores = scored
    return tuple(found)
