"""How good translations are: corpus BLEU and chrF by sacrebleu, with their signatures, and the share of exact ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from dstrain.config.errors import UserError
from dstrain.infer.beam import EncoderDecoder
from dstrain.infer.translate import BATCH, PairTokenizer, encoded, length_batches, one_line, translate_lines
from dstrain.nn.mode import in_eval
from dstrain.runtime.dist import Ranks


def generated_scores(model: nn.Module & EncoderDecoder, tokenizer: PairTokenizer, pairs: Sequence[tuple[str, str]],
                     ranks: Ranks, beam: int, alone: bool, must_leave: Callable[[], bool] = lambda: False
                     ) -> dict | None:
    """Translates the pairs' sources and scores that against their targets; the same on every rank.

    `alone`: every rank holds the whole model, and translates a share; else all translate everything together (inside
    `all_ranks_generate`). What stands in a batch has nothing to do with ranks: their number changes no bit. None, on
    all ranks, when one must leave.
    """
    if not pairs:
        raise ranks.mistake("data.valid holds no pairs to translate: give others, or leave it out")
    with ranks.together("tokenizing the validation sources"):
        lines = encoded(tokenizer, [source for source, _ in pairs], model.length)
    batches = list(length_batches([line.source for line in lines], BATCH))
    share = ranks.world if alone else 1
    translated: dict[int, str] = {}
    with in_eval(model):
        for first in range(0, len(batches), share):
            ranks.pulse.enter("validation", f"translating, batch {first + 1} of {len(batches)}")
            if int(ranks.sum(torch.tensor(must_leave(), dtype=torch.int64, device=ranks.device))):
                return None
            mine = first + (ranks.rank if alone else 0)
            numbers = batches[mine] if mine < len(batches) else []
            with ranks.together("translating the validation sources"):
                results = translate_lines(model, tokenizer, [lines[n] for n in numbers], beam)
                translated |= {n: result.text for n, result in zip(numbers, results, strict=True)}
    hypotheses = {n: text for of_rank in ranks.gather(translated) for n, text in of_rank.items()}
    with ranks.together("scoring translations"):
        scores = None
        if ranks.first:
            scores = corpus_scores([hypotheses.get(n, "") for n in range(len(pairs))], [target for _, target in pairs])
    return ranks.share(scores)


def corpus_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict:
    """`bleu` and `chrf` from 0 to 100, `exact` the share of lines that are their reference to the letter."""
    from sacrebleu.metrics import BLEU, CHRF

    if len(hypotheses) != len(references):
        raise UserError(f"{len(hypotheses)} translations for {len(references)} references: there must be as many")
    if not references:
        raise UserError("there are no translations to score")
    hypotheses, references = [one_line(text).strip() for text in hypotheses], [
        one_line(text).strip() for text in references]
    bleu, chrf = BLEU(force=True), CHRF()       # force: no word about text that looks tokenized, at every validation
    exact = sum(map(str.__eq__, hypotheses, references)) / len(references)
    return {"bleu": bleu.corpus_score(hypotheses, [references]).score,
            "chrf": chrf.corpus_score(hypotheses, [references]).score, "exact": exact,
            "bleu_signature": str(bleu.get_signature()), "chrf_signature": str(chrf.get_signature())}
