"""What ranks do in the tests of compiling: without inductor, where only the number of compilations matters."""

from __future__ import annotations

import os
from contextlib import closing

import torch
from rank_jobs import build

from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.families import family_of
from dstrain.runtime import compiled
from dstrain.runtime.dist import Ranks
from dstrain.train.evaluate import evaluate
from dstrain.train.step import train_step


def compilations(ranks: Ranks, recipe: Recipe, ds_config: str) -> list[tuple[int, int]]:
    """(graphs, compiled frames) so far, after each of five steps, with a validation in the second and the fifth."""
    import torch._dynamo as dynamo
    from torch._dynamo.utils import counters

    dynamo.reset()
    counters.clear()
    seen = []
    engine = build(ranks, recipe, ds_config)
    inner = engine.deepspeed.compile
    engine.deepspeed.compile = lambda: inner(backend="eager")
    compiled.compile_trainee(engine.deepspeed)
    family, tokenizer = family_of(recipe), load_tokenizer(recipe.tokenizer)
    objective = family.build_objective(recipe)
    with closing(family.train_feed(recipe, tokenizer, ranks.rank, ranks.world, None)) as feed:
        for number, step in zip(range(1, 6), feed):
            train_step(engine, objective, step.micro_batches, step.rows_hash, number, 1, ranks)
            if number in (2, 5):
                evaluate(engine, engine.trainee, family, recipe, tokenizer, ranks)
            seen.append((counters["stats"]["unique_graphs"], counters["frames"]["ok"]))
    engine.close()
    return seen


def compiled_at(ranks: Ranks, folder: str, recipe: Recipe, ds_config: str) -> tuple[float, dict]:
    """Loss of a compiled second step, and how often a compiled part was found in `folder` and how often it was not."""
    from torch._dynamo.utils import counters

    from dstrain.doctor.short_run import short_run

    before, os.environ[compiled.FOLDER] = os.environ.get(compiled.FOLDER), folder
    torch._dynamo.reset()
    counters.clear()
    try:
        trace = short_run(ranks, recipe, ds_config, 2)
    finally:
        os.environ.pop(compiled.FOLDER)
        if before is not None:
            os.environ[compiled.FOLDER] = before
    return trace.losses[-1], {key: counters["inductor"][f"fxgraph_cache_{key}"] for key in ("hit", "miss")}
