"""Padding, other documents, other rows and the future change no scored number by a single bit, in training and generate()."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, exactly
from dstrain.infer.sampling import generate
from dstrain.nn.chance import row_keys

CLAIM = "padding, other documents, other rows and later tokens reach no scored logit"


def prove(case: Case) -> Finding:
    trainee, tokenizer = fresh_trainee(case)
    model = trainee.model
    batch = two_documents_a_row(case, tokenizer)
    different, compared, leaks = 0, 0, []
    for name, changed_BT, watched_BT in intrusions(batch):
        other = replace(batch, ids_BT=torch.where(changed_BT, (batch.ids_BT + 1) % tokenizer.vocab_size, batch.ids_BT))
        before, after = (hidden_of(model, b, case)[watched_BT] for b in (batch, other))
        changed = int((before != after).any(dim=-1).sum())
        leaks += [name] if changed else []
        different, compared = different + changed, compared + int(watched_BT.sum())
    generated = generated_difference(model, tokenizer)
    leaks += ["another prompt in generate()"] if generated else []
    return exactly(different + generated, compared, "positions",
                   f"{', '.join(leaks)} leaks into scored logits: a mask is missing, made from token ids, or not passed on")


def hidden_of(model: torch.nn.Module, batch: Any, case: Case) -> torch.Tensor:
    """What the logits are made from, in training mode with keyed dropout."""
    model.train()
    with torch.no_grad():
        hidden, = model(**batch.inputs(), keys_B=row_keys(case.recipe.run.seed, 1, batch.rows_B))
    return hidden


def intrusions(batch: Any) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """(what intrudes, where ids are changed, which scored positions must not notice)."""
    scored_BT = batch.labels_BT != -100
    slots_T = torch.arange(batch.ids_BT.shape[1])
    padding_BT = slots_T >= batch.lengths_B[:, None]
    first_row_BT = torch.zeros_like(scored_BT)
    first_row_BT[0] = True
    middle_BT = torch.where(batch.segments_BT == 0, batch.positions_BT >= 3, False)
    return [("padding", padding_BT, scored_BT),
            ("an earlier document of the row", batch.segments_BT == 0, scored_BT & (batch.segments_BT != 0)),
            ("a later document of the row", batch.segments_BT == 1, scored_BT & (batch.segments_BT == 0)),
            ("another row", first_row_BT, scored_BT & ~first_row_BT),
            ("a later token", middle_BT, scored_BT & (batch.segments_BT == 0) & ~middle_BT)]


def two_documents_a_row(case: Case, tokenizer: Any) -> Any:
    """Real tokens, laid out so that each row has two documents and padding, all of different lengths."""
    with closing(case.family.train_feed(case.recipe, tokenizer, 0, 1, None)) as feed:
        batch = next(feed).micro_batches[0]
    rows, length = batch.ids_BT.shape
    slots_T = torch.arange(length)
    ends_B = length - 3 - torch.arange(rows) % 5
    borders_B = ends_B // 2 - torch.arange(rows) % 4
    second_BT, padding_BT = slots_T >= borders_B[:, None], slots_T >= ends_B[:, None]
    segments_BT = second_BT.long().masked_fill(padding_BT, -1)
    positions_BT = torch.where(second_BT, slots_T - borders_B[:, None], slots_T).masked_fill(padding_BT, 0)
    last_of_first_BT = slots_T == borders_B[:, None] - 1
    labels_BT = batch.labels_BT.masked_fill(last_of_first_BT, tokenizer.eot).masked_fill(padding_BT, -100)
    return replace(batch, lengths_B=ends_B, segments_BT=segments_BT, positions_BT=positions_BT, labels_BT=labels_BT,
                   ids_BT=batch.ids_BT.masked_fill(padding_BT, 0))


def generated_difference(model: torch.nn.Module, tokenizer: Any) -> int:
    """Continuations of two prompts that differ when a third, of the same length, is exchanged."""
    watched = ["a", "for i in"]
    with_one, with_other = (generate(model, tokenizer, [*watched, third], 8) for third in ("while True", "0123456789"))
    return sum(a.ids != b.ids or a.logprobs != b.logprobs for a, b in zip(with_one[:2], with_other[:2]))


def fresh_trainee(case: Case) -> tuple[torch.nn.Module, Any]:
    """The untrained model at its initial weights, in one process."""
    from dstrain.runtime.engine import fill_weights
    tokenizer = case.tokenizer()
    trainee = case.family.build_trainee(case.recipe, tokenizer)
    fill_weights(trainee, lambda name, shape: case.family.initial_weight(trainee.model, name, shape, case.recipe.run.seed), rank=0)
    return trainee, tokenizer
