"""The family `arc`: grid puzzles, answered by one of three kinds of models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from dstrain.config.schema import Recipe
from dstrain.config.shape import Shape
from dstrain.data.collate import FILLER_ROW
from dstrain.data.grids.grid_batch import GridBatch, filler_grids
from dstrain.data.grids.grid_feed import GridFeed
from dstrain.data.grids.grid_validation import valid_grids, valid_questions
from dstrain.data.grids.row import CHAMPION, DECODER, ENCODER_DECODER
from dstrain.data.tokenizers.grid_tokenizer import GridTokenizer, grid_tokenizer
from dstrain.data.window_place import merge_window_places
from dstrain.families.adapting import base_weights, initial_weight, with_adapters
from dstrain.families.anatomy.arc import ARC_ANATOMY
from dstrain.families.arc_seen import pictures, scores_in_words
from dstrain.families.own_class import model_of, why_no_text
from dstrain.infer.grid_scores import generated_grid_scores
from dstrain.models.decoder_lm import DecoderLm
from dstrain.models.grid_champion import GridChampion
from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.grid_ids import VOCABULARY
from dstrain.objectives.next_token import NextToken
from dstrain.objectives.trainee import Trainee
from dstrain.train.family import Family
from dstrain.train.picture import Drawn

BUILT_IN = {DECODER: DecoderLm, ENCODER_DECODER: Seq2Seq, CHAMPION: GridChampion}


def _trainee(recipe: Recipe, tokenizer: GridTokenizer) -> torch.nn.Module:
    kind, length = recipe.model.kind, recipe.batch.length
    sizes = (VOCABULARY, VOCABULARY, True, length) if kind == ENCODER_DECODER else (VOCABULARY, length)
    return Trainee(with_adapters(model_of(recipe, BUILT_IN[kind], *sizes), recipe), _objective(recipe))


def _objective(recipe: Recipe) -> NextToken:
    return NextToken(recipe.objective.weights)


def writes_with(kind: str) -> tuple[str, ...]:
    """What of a model answers puzzles."""
    return ("new_cache", "extend") if kind == DECODER else ("encode", "new_cache", "extend")


def _flops(recipe: Recipe, parameters: int) -> float:
    """Six a parameter and token, as if all grids were of one size: what is read beside an answer's tokens counts, too.
    Beside adapters four: weights that stay as they are need no gradient."""
    model, shown = recipe.model, recipe.data.demonstrations
    tokens = {DECODER: (2 * shown + 2) / max(1, shown), ENCODER_DECODER: 1.0}.get(model.kind)
    if tokens is None:  # the encoder reads all grids, the decoder one
        layers = model.encoder_layers + model.decoder_layers
        tokens = ((1 + 2 * shown) * model.encoder_layers + model.decoder_layers) / layers
    return (4 if model.adapter_rank else 6) * parameters * tokens


def _row_texts(batch: GridBatch, tokenizer: GridTokenizer) -> Iterator[tuple[int, str]]:
    for b, (number, length) in enumerate(zip(batch.rows_B.tolist(), batch.lengths_B.tolist())):
        if number != FILLER_ROW:
            parts = [tokenizer.decode(batch.ids_BT[b, :length].tolist())]
            if batch.source_BS is not None:
                parts.insert(0, tokenizer.decode(batch.source_BS[b, :batch.source_lengths_B[b]].tolist()))
            if batch.context_BX is not None:
                lengths = batch.context_lengths_BG[b].tolist()
                grids = batch.context_BX[b].view(len(lengths), -1)
                parts[:0] = [tokenizer.decode(grid[:size].tolist()) for grid, size in zip(grids, lengths) if size]
            yield number, "\n".join(parts)


def _data_in_words(recipe: Recipe, stats: dict[str, int]) -> list[str]:
    padding = 1 - stats["filled"] / max(1, stats["positions"])
    return [f"{100 * padding:.1f} % of the positions are padding, {stats['documents']:,} puzzles; of {stats['cut']:,} "
            f"some demonstrations are left out to fit batch.length {recipe.batch.length:,}, and "
            f"{stats['window_dropped']:,} did not fit even so, to fill its window of {recipe.batch.window:,}"]


def _step_in_words(recipe: Recipe, shape: Shape) -> str:
    batch = recipe.batch
    return (f"puzzles x the largest of them: at most {batch.tokens:,} positions, out of windows of {batch.window:,} "
            f"puzzles: {shape.world} rank(s) x {shape.accumulation} micro-batch(es) of {shape.a_pass()}")


def _model_in_words(recipe: Recipe, parameters: int) -> list[str]:
    reads = {DECODER: "demonstrations, query and answer are one sequence",
             ENCODER_DECODER: "the query alone is read, no demonstration",
             CHAMPION: "demonstrations are read beside the query, at places in two dimensions"}
    return [f"{recipe.model.kind}: {reads[recipe.model.kind]}"]


def _generated_scores(model: torch.nn.Module, tokenizer: GridTokenizer, recipe: Recipe, ranks: Any, alone: bool,
                      must_leave: Any) -> dict | None:
    if why_no_text(model, *writes_with(recipe.model.kind)) is not None:
        return {}
    with ranks.together("reading the validation puzzles"):
        questions = valid_questions(recipe)
    return generated_grid_scores(model, questions, recipe, ranks, alone, must_leave)


def _pictures(model: torch.nn.Module, tokenizer: GridTokenizer, recipe: Recipe) -> dict[str, Drawn]:
    return {} if why_no_text(model, *writes_with(recipe.model.kind)) is not None else pictures(model, recipe)


ARC = Family(
    name="arc", command="solve",
    pinned=lambda recipe, saved: recipe, open_tokenizer=grid_tokenizer, build_trainee=_trainee,
    build_objective=_objective, initial_weight=initial_weight, taken_over=base_weights,
    train_feed=GridFeed, merge_places=merge_window_places, valid_batches=valid_grids,
    filler_batch=lambda recipe, world: filler_grids(recipe.model.kind),
    text_bytes=lambda recipe: None, flops_a_target=_flops, row_texts=_row_texts, data_in_words=_data_in_words,
    step_in_words=_step_in_words, sample=lambda model, tokenizer, recipe: [], generated_scores=_generated_scores,
    anatomy=ARC_ANATOMY, model_in_words=_model_in_words, scores_in_words=scores_in_words, pictures=_pictures)
