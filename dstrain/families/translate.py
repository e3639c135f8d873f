"""The family `translate`: an encoder-decoder on pairs of sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from dstrain.config.schema import Recipe
from dstrain.config.shape import Shape
from dstrain.data.collate import FILLER_ROW
from dstrain.data.pairs.feed import PairFeed, merge_window_places, pairs_bytes, valid_pairs, valid_texts
from dstrain.data.pairs.pair_batch import PairBatch, filler_pairs
from dstrain.data.reading.hub import pinned
from dstrain.data.tokenizers.pair_tokenizer import PairTokenizer, pair_tokenizer
from dstrain.families.anatomy.translate import TRANSLATE_ANATOMY
from dstrain.families.own_class import model_of, why_no_text
from dstrain.infer.scores import generated_scores
from dstrain.infer.translate import translate
from dstrain.models.seq2seq import Seq2Seq
from dstrain.objectives.smoothed_next_token import SmoothedNextToken
from dstrain.objectives.trainee import Trainee
from dstrain.train.family import Family

WRITES_WITH = ("encode", "new_cache", "extend")


def _trainee(recipe: Recipe, tokenizer: PairTokenizer) -> torch.nn.Module:
    model = model_of(recipe, Seq2Seq, tokenizer.source.vocab_size, tokenizer.target.vocab_size, tokenizer.shared,
                     recipe.batch.length)
    return Trainee(model, _objective(recipe))


def _objective(recipe: Recipe) -> SmoothedNextToken:
    return SmoothedNextToken(recipe.objective.label_smoothing)


def _filler(recipe: Recipe, world: int) -> PairBatch:
    return filler_pairs()


def _samples(model: torch.nn.Module, tokenizer: PairTokenizer, recipe: Recipe) -> list[str]:
    """The first validation sources, each with what becomes of it and what was wanted."""
    if (why := why_no_text(model, *WRITES_WITH)) is not None:
        return [why]
    pairs = valid_texts(recipe)[:recipe.log.samples]
    found = translate(model, tokenizer, [source for source, _ in pairs], beam=recipe.valid.beam)
    source, target = recipe.data.languages
    return [f"{source}  {text}\n{target}  {result.text}\n    {wanted}  (reference)"
            for (text, wanted), result in zip(pairs, found, strict=True)]


def _flops(recipe: Recipe, parameters: int) -> float:
    """Six a parameter: a target token passes the decoder, and about one source token goes with it through the encoder.
    The scores of attention are left out: sentences are short beside the width."""
    return 6 * parameters


def _row_texts(batch: PairBatch, tokenizer: PairTokenizer) -> Iterator[tuple[int, str]]:
    sources = zip(batch.source_BS, batch.source_lengths_B.tolist())
    targets = zip(batch.ids_BT, batch.lengths_B.tolist())
    for number, (source, source_length), (target, length) in zip(batch.rows_B.tolist(), sources, targets):
        if number != FILLER_ROW:
            yield number, (f"{source_length} and {length} tokens\n"
                           f"{tokenizer.source.decode(source[:source_length].tolist())}\n"
                           f"{tokenizer.target.decode(target[:length].tolist())}")


def _data_in_words(recipe: Recipe, stats: dict[str, int]) -> list[str]:
    batch, padding = recipe.batch, 1 - stats["filled"] / max(1, stats["positions"])
    if batch.over_long == "cut":
        over_long = f"{stats['cut']:,} of them cut to {batch.length} tokens a side"
    else:
        over_long = (f"{stats['window_dropped']:,} with more than {batch.length} tokens on a side were left out to "
                     f"fill its window of {batch.window:,}")
    return [f"{100 * padding:.1f} % of the positions are padding, {stats['documents']:,} pairs; {over_long}"]


def _step_in_words(recipe: Recipe, shape: Shape) -> str:
    batch = recipe.batch
    return (f"pairs x the longest side: at most {batch.tokens:,} positions, out of windows of {batch.window:,} pairs: "
            f"{shape.world} rank(s) x {shape.accumulation} micro-batch(es) of {shape.a_pass()}")


def _generated_scores(model: torch.nn.Module, tokenizer: PairTokenizer, recipe: Recipe, ranks: Any, alone: bool,
                      must_leave: Any) -> dict | None:
    if not recipe.valid.translate or why_no_text(model, *WRITES_WITH) is not None:  # the samples say so
        return {}
    with ranks.together("reading the validation pairs"):
        pairs = valid_texts(recipe)
    return generated_scores(model, tokenizer, pairs, ranks, recipe.valid.beam, alone, must_leave)


TRANSLATE = Family(
    name="translate", command="translate",
    pinned=pinned, open_tokenizer=pair_tokenizer, build_trainee=_trainee, build_objective=_objective,
    initial_weight=lambda model, name, shape, seed: model.initial(name, shape, seed),
    train_feed=PairFeed, merge_places=merge_window_places, valid_batches=valid_pairs, filler_batch=_filler,
    text_bytes=pairs_bytes, flops_a_target=_flops,
    row_texts=_row_texts, data_in_words=_data_in_words, step_in_words=_step_in_words,
    sample=_samples, generated_scores=_generated_scores,
    anatomy=TRANSLATE_ANATOMY)
