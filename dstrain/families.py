"""The model families, each registered in one place: the trainer, the launchers and the doctor know none by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.data.feed import TrainFeed, filler_batch, merge_places, valid_batches
from dstrain.data.reading.hub import pinned
from dstrain.data.preparing.prepared import as_prepared
from dstrain.data.tokenizers.run_tokenizer import run_tokenizer
from dstrain.data.reading.size import text_bytes
from dstrain.infer.sampling import generate
from dstrain.models.decoder_lm import DecoderLm
from dstrain.objectives.next_token import NextToken
from dstrain.objectives.trainee import Trainee
from dstrain.train.family import Family

SAMPLE_TOKENS = 120


def family_of(recipe: Recipe) -> Family:
    if recipe.family not in FAMILIES:
        raise UserError(f"family: {recipe.family!r} is none of {', '.join(FAMILIES)}")
    return FAMILIES[recipe.family]


def _pinned(recipe: Recipe, saved: Recipe | None) -> Recipe:
    """Prepared shards know what they were made from: no network is asked."""
    return pinned(recipe if recipe.data.prepared is None else as_prepared(recipe), saved)


def _lm_trainee(recipe: Recipe, tokenizer: Any) -> torch.nn.Module:
    return Trainee(DecoderLm(recipe.model, tokenizer.vocab_size, recipe.batch.length), _lm_objective(recipe))


def _lm_objective(recipe: Recipe) -> NextToken:
    return NextToken(recipe.objective.weights)


def _lm_samples(model: torch.nn.Module, tokenizer: Any, recipe: Recipe) -> list[str]:
    """The best continuation, then sampled ones."""
    count, prompt, seed = recipe.log.samples, recipe.log.prompt, recipe.run.seed
    greedy = generate(model, tokenizer, [prompt], SAMPLE_TOKENS)
    sampled = generate(model, tokenizer, [prompt] * (count - 1), SAMPLE_TOKENS, temperature=0.8, seed=seed)
    return [prompt + result.text for result in greedy + sampled][:count]


def _lm_flops(recipe: Recipe, parameters: int) -> float:
    """Six a parameter (the tied embedding is the output matrix too), and the attention scores over the whole row."""
    return 6 * parameters + 12 * recipe.model.layers * recipe.model.width * recipe.batch.length


def _lm_shrunk(recipe: Recipe) -> Recipe:
    """Width, depth, length and rows small enough for a proof to take seconds; everything else as it is."""
    model = replace(recipe.model, preset=None, width=32, heads=2, layers=2, ff=64)
    rows = 8
    return replace(recipe, model=model, batch=replace(recipe.batch, rows=rows, micro_rows=2, length=32),
                   data=replace(recipe.data, lanes=4, block_tokens=2048, prefetch_steps=2))


FAMILIES = {
    "lm": Family(
        name="lm", pinned=_pinned, open_tokenizer=run_tokenizer,
        build_trainee=_lm_trainee, build_objective=_lm_objective,
        initial_weight=lambda model, name, shape, seed: model.initial(name, shape, seed),
        train_feed=TrainFeed, merge_places=merge_places, valid_batches=valid_batches, filler_batch=filler_batch,
        text_bytes=text_bytes, flops_a_target=_lm_flops, sample=_lm_samples, shrink=_lm_shrunk),
}
