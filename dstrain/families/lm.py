"""The family `lm`: a decoder-only language model on rows packed with documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from dstrain.config.schema import Recipe
from dstrain.config.shape import Shape, positions_a_step, shape_of
from dstrain.data.collate import FILLER_ROW, Batch, filler_batch
from dstrain.data.feed import TrainFeed, merge_places, valid_batches
from dstrain.data.preparing.prepared import as_prepared
from dstrain.data.reading.hub import pinned
from dstrain.data.reading.size import text_bytes
from dstrain.data.tokenizers.run_tokenizer import run_tokenizer
from dstrain.families.anatomy.lm import LM_ANATOMY
from dstrain.families.own_class import model_of, why_no_text
from dstrain.infer.sampling import generate
from dstrain.models.decoder_lm import DecoderLm
from dstrain.objectives.next_token import NextToken
from dstrain.objectives.trainee import Trainee
from dstrain.train.family import Family

SAMPLE_TOKENS = 120


def _pinned(recipe: Recipe, saved: Recipe | None) -> Recipe:
    """Prepared shards know what they were made from: no network is asked."""
    return pinned(recipe if recipe.data.prepared is None else as_prepared(recipe), saved)


def _trainee(recipe: Recipe, tokenizer: Any) -> torch.nn.Module:
    model = model_of(recipe, DecoderLm, tokenizer.vocab_size, recipe.batch.length)
    return Trainee(model, _objective(recipe))


def _objective(recipe: Recipe) -> NextToken:
    return NextToken(recipe.objective.weights)


def _filler(recipe: Recipe, world: int) -> Batch:
    return filler_batch(recipe, shape_of(recipe, world).micro_rows)


def _samples(model: torch.nn.Module, tokenizer: Any, recipe: Recipe) -> list[str]:
    """The best continuation, then sampled ones."""
    if (why := why_no_text(model, "new_cache", "extend")) is not None:
        return [why]
    count, prompt, seed = recipe.log.samples, recipe.log.prompt, recipe.run.seed
    greedy = generate(model, tokenizer, [prompt], SAMPLE_TOKENS)
    sampled = generate(model, tokenizer, [prompt] * (count - 1), SAMPLE_TOKENS, temperature=0.8, seed=seed)
    return [prompt + result.text for result in greedy + sampled][:count]


def _flops(recipe: Recipe, parameters: int) -> float:
    """Six a parameter (the tied embedding is the output matrix too), and the attention scores over the whole row."""
    return 6 * parameters + 12 * recipe.model.layers * recipe.model.width * recipe.batch.length


def _row_texts(batch: Batch, tokenizer: Any) -> Iterator[tuple[int, str]]:
    for number, ids, length in zip(batch.rows_B.tolist(), batch.ids_BT, batch.lengths_B.tolist()):
        if number != FILLER_ROW:
            yield number, f"{length} tokens\n{tokenizer.decode(ids[:length].tolist())}"


def _data_in_words(recipe: Recipe, stats: dict[str, int]) -> list[str]:
    lines = [f"{100 * (1 - stats['filled'] / max(1, stats['positions'])):.1f} % of the positions are padding, "
             f"{stats['documents']} documents begin, {stats['cut']} of them go on in a later row"]
    return lines + ([f"read from the shards in {recipe.data.prepared}"] if recipe.data.prepared is not None else [])


def _step_in_words(recipe: Recipe, shape: Shape) -> str:
    batch = recipe.batch
    empty = f", {shape.rows - batch.rows} of them empty" if shape.rows > batch.rows else ""
    return (f"{batch.rows} rows x {batch.length} = {positions_a_step(recipe):,} positions: {shape.world} rank(s) x "
            f"{shape.accumulation} micro-batch(es) of {shape.a_pass()} (train_batch_size {shape.rows}{empty})")


LM = Family(
    name="lm", command="generate",
    pinned=_pinned, open_tokenizer=run_tokenizer, build_trainee=_trainee, build_objective=_objective,
    initial_weight=lambda model, name, shape, seed: model.initial(name, shape, seed),
    train_feed=TrainFeed, merge_places=merge_places, valid_batches=valid_batches, filler_batch=_filler,
    text_bytes=text_bytes, flops_a_target=_flops,
    row_texts=_row_texts, data_in_words=_data_in_words, step_in_words=_step_in_words,
    sample=_samples, generated_scores=None, anatomy=LM_ANATOMY)
