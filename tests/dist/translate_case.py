"""A job for ranks: what an untrained translator writes, and how well it is scored."""

from __future__ import annotations

import contextlib

import torch

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.families import family_of
from dstrain.infer import scores
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.runtime.generating import all_ranks_generate


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
