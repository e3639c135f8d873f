"""Validation: every target of the validation data scored exactly once, over all ranks, as sums over counts."""

from __future__ import annotations

import itertools
import math
from typing import Any, Callable, Iterator

import torch

from dstrain.config.schema import Recipe
from dstrain.guard.causes import cause_of
from dstrain.nn.mode import in_eval
from dstrain.objectives.loss_law import loss_law
from dstrain.runtime.dist import Ranks
from dstrain.train.family import Batch, Family

NOTHING_TO_SCORE = "data.valid holds no text to score: its documents are empty; give others, or leave it out"


def evaluate(forward: Callable[..., Any], module: torch.nn.Module, family: Family, recipe: Recipe, tokenizer: Any,
             ranks: Ranks, must_leave: Callable[[], bool] = lambda: False) -> dict | None:
    """loss, perplexity, bits_per_byte and word_perplexity over the recipe's validation data, and the family's own.

    `forward` is the engine (or the bare trainee), `module` what is switched to evaluation and back. None when a rank
    had to leave before the end.
    """
    objective = family.build_objective(recipe)
    batches = family.valid_batches(recipe, tokenizer, ranks.rank, ranks.world)
    bytes_of_token = torch.as_tensor(tokenizer.token_bytes(), dtype=torch.int64, device=ranks.device)
    nll = torch.zeros(len(objective.terms), dtype=torch.float64, device=ranks.device)
    counts = torch.zeros(len(objective.terms) + 2, dtype=torch.int64, device=ranks.device)
    beside: list[torch.Tensor] = []

    with in_eval(module), torch.no_grad():
        for batch in in_step(batches, lambda: family.filler_batch(recipe, ranks.world), ranks, must_leave):
            if batch is None:
                return None
            batch = batch.to(ranks.device, non_blocking=True)
            sums = forward(inputs=batch.inputs(), labels_BT=batch.labels_BT, keys_B=None)
            nll += sums.nll
            if family.further_scores is not None:
                beside = [sums.seen, sums.found] if not beside else [beside[0] + sums.seen, beside[1] + sums.found]
            counts[:-2] += objective.counts(batch)
            counts[-2] += (bytes_of_token[batch.labels_BT.clamp(min=0)] * (batch.labels_BT >= 0)).sum()
            counts[-1] += batch.words

    ranks.sum(nll), ranks.sum(counts)
    if not int(counts[0]):
        raise ranks.mistake(NOTHING_TO_SCORE)
    scores = _scores(nll.cpu(), counts.cpu(), objective)
    if family.further_scores is not None:
        seen, found = (ranks.sum(sums).cpu() for sums in beside)
        scores |= family.further_scores(recipe, module.model, counts[:-2].cpu(), seen, found)
    return scores


def _scores(nll: torch.Tensor, counts: torch.Tensor, objective: Any) -> dict:
    targets, text_bytes, words = counts[:-2], int(counts[-2]), int(counts[-1])
    first = float(nll[0])
    scores = {"loss": float(loss_law(nll, targets, objective.weights)),
              "perplexity": _exp(first / max(1, int(targets[0]))), "targets": int(targets[0])}
    if len(objective.terms) > 1:
        scores["terms"] = {term: float(s / max(1, int(n))) for term, s, n in zip(objective.terms, nll, targets)}
    if text_bytes:
        scores["bits_per_byte"] = first / math.log(2) / text_bytes
    if words:
        scores["word_perplexity"] = _exp(first / words)
    return scores


def in_step(batches: Iterator[Batch], filler: Callable[[], Batch], ranks: Ranks,
            must_leave: Callable[[], bool]) -> Iterator[Batch | None]:
    """The rank's batches, then fillers until every rank is through: all must make as many forward passes.

    None, on all ranks, when one must leave.
    """
    for number in itertools.count(start=1):
        ranks.pulse.enter("validation", f"micro-batch {number}")
        batch, error = None, None
        try:
            batch = next(batches, None)
        except Exception as caught:  # agreed on below: the others must not wait for this rank
            ranks.pulse.ended(*cause_of(caught, "data"))
            error = caught
        here = torch.tensor([batch is not None, error is not None, must_leave()], dtype=torch.int64,
                            device=ranks.device)
        left, failed, leaves = ranks.sum(here).tolist()
        if failed:
            ranks.agree(error, "reading the validation data")
        if leaves:
            yield None
        if not left:
            return
        yield filler() if batch is None else batch


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
