"""Padding, other documents, other rows and the future change no scored number by a bit, in training and generate()."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, exactly, largest, relative
from dstrain.infer.sampling import generate
from dstrain.nn.chance import row_keys

CLAIM = "padding, other documents, other rows and later tokens reach no scored logit, no loss and no continuation"
ROUNDING = 1e-5
WATCHED, EXCHANGED, LONGER = (2, 5), 7, 11
"""tokens of the prompts that are watched, of the one beside them, and of a longer one in its place"""
NEW_TOKENS = 8


def prove(case: Case) -> Finding:
    trainee, tokenizer = fresh_trainee(case)
    model, batch = trainee.model, two_documents_a_row(case, tokenizer)
    different, compared, leaks = 0, 0, []
    for name, changed_BT, watched_BT in intrusions(batch):
        other = replace(batch, ids_BT=torch.where(changed_BT, (batch.ids_BT + 1) % tokenizer.vocab_size, batch.ids_BT))
        before, after = (hidden_of(model, b, case)[watched_BT] for b in (batch, other))
        changed = int((before != after).any(dim=-1).sum())
        losses = [nll_of(trainee, b, torch.where(watched_BT, batch.labels_BT, -100), case) for b in (batch, other)]
        lost = not torch.equal(*losses)
        leaks += [f"{name} leaks into scored logits"] if changed else []
        leaks += [f"{name} leaks into the loss (what the engine calls)"] if lost else []
        different, compared = different + changed + lost, compared + int(watched_BT.sum()) + 1
    deaf = what_the_loss_does_not_notice(trainee, batch, tokenizer, case)
    leaks += [f"the loss does not notice {name}" for name in deaf]
    in_generate, generated = generated_difference(model, tokenizer, case)
    leaks += ["another prompt leaks into generate()"] if in_generate else []
    found = exactly(different + len(deaf) + in_generate, compared + generated, "logits, losses and generated tokens",
                    f"{'; '.join(leaks)}: a mask is missing, made from token ids, or not passed on")
    return _with_other_shapes(found, largest([alone_and_unpadded_error(model, batch, case),
                                              longer_neighbour_error(model, tokenizer, case)]))


def _with_other_shapes(found: Finding, error: float) -> Finding:
    """Another amount of padding is another shape of matrices: there only rounding may differ."""
    passed = error <= ROUNDING
    cause = "; ".join([found.cause] * (not found.passed)
                      + ["the amount of padding changes what is computed"] * (not passed))
    return replace(found, passed=found.passed and passed, cause=cause,
                   figure=f"{found.figure}; {error:.1e} with another amount of padding",
                   tolerance=f"{found.tolerance}; {ROUNDING:.0e} relative with another amount of padding")


def hidden_of(model: torch.nn.Module, batch: Any, case: Case) -> torch.Tensor:
    """What the logits are made from, in training mode with keyed dropout."""
    model.train()
    with torch.no_grad():
        hidden, = model(**batch.inputs(), keys_B=row_keys(case.recipe.run.seed, 1, batch.rows_B))
    return hidden


def nll_of(trainee: torch.nn.Module, batch: Any, labels_BT: torch.Tensor, case: Case) -> torch.Tensor:
    """The sums of nll as the engine gets them: through the trainee's own forward."""
    trainee.train()
    with torch.no_grad():
        keys_B = row_keys(case.recipe.run.seed, 1, batch.rows_B)
        return trainee(inputs=batch.inputs(), labels_BT=labels_BT, keys_B=keys_B).nll


def what_the_loss_does_not_notice(trainee: torch.nn.Module, batch: Any, tokenizer: Any, case: Case) -> list[str]:
    """Changes of one scored label, of one input, of the documents' borders: each must change the loss."""
    expected = nll_of(trainee, batch, batch.labels_BT, case)
    own_BT = torch.zeros_like(batch.labels_BT, dtype=torch.bool)
    own_BT[0, 1] = True
    joined_BT = torch.where(batch.segments_BT == 1, 0, batch.segments_BT)
    other_label_BT = torch.where(own_BT, (batch.labels_BT + 1) % tokenizer.vocab_size, batch.labels_BT)
    without_ends_BT = batch.labels_BT.masked_fill(batch.labels_BT == tokenizer.eot, -100)
    changed = {
        "an input": replace(batch, ids_BT=torch.where(own_BT, (batch.ids_BT + 1) % tokenizer.vocab_size, batch.ids_BT)),
        "the border between two documents": replace(batch, segments_BT=joined_BT),
        "a label": replace(batch, labels_BT=other_label_BT),
        "a document's end": replace(batch, labels_BT=without_ends_BT)}
    return [name for name, other in changed.items()
            if torch.equal(nll_of(trainee, other, other.labels_BT, case), expected)]


def alone_and_unpadded_error(model: torch.nn.Module, batch: Any, case: Case) -> float:
    """Each row as a batch of its own without any padding, against the same row beside others and padded."""
    together_BTD = hidden_of(model, batch, case)
    errors = []
    for b, length in enumerate(batch.lengths_B.tolist()):
        row = slice(b, b + 1)
        alone = replace(batch, ids_BT=batch.ids_BT[row, :length], segments_BT=batch.segments_BT[row, :length],
                        positions_BT=batch.positions_BT[row, :length], rows_B=batch.rows_B[row])
        expected_TD = together_BTD[b, :length]
        errors.append(float((hidden_of(model, alone, case)[0] - expected_TD).abs().max() / expected_TD.abs().max()))
    return largest(errors)


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


def generated_difference(model: torch.nn.Module, tokenizer: Any, case: Case) -> tuple[int, int]:
    """(continuations that differ, tokens compared) of two prompts when a third, of as many tokens, is exchanged."""
    *watched, third, other, _ = prompts(tokenizer, case)
    with_one, with_other = (generate(model, tokenizer, [*watched, beside], NEW_TOKENS)[:len(watched)]
                            for beside in (third, other))
    pairs = list(zip(with_one, with_other))
    different = sum((a.ids, a.logprobs, a.stopped) != (b.ids, b.logprobs, b.stopped) for a, b in pairs)
    return different, sum(len(a.ids) for a, _ in pairs)


def longer_neighbour_error(model: torch.nn.Module, tokenizer: Any, case: Case) -> float:
    """Largest relative difference of a token's log probability when a longer prompt stands beside.

    Greedy choices may only part where the two best tokens tie; what comes after is another text.
    """
    *watched, third, _, longer = prompts(tokenizer, case)
    short, long = (generate(model, tokenizer, [*watched, beside], NEW_TOKENS)[:len(watched)]
                   for beside in (third, longer))
    errors = [0.0]
    for a, b in zip(short, long):
        for token_a, token_b, logprob_a, logprob_b in zip(a.ids, b.ids, a.logprobs, b.logprobs):
            if token_a != token_b:
                errors.append(0.0 if a.ties or b.ties else math.inf)
                break
            errors.append(relative(logprob_a, logprob_b))
    return largest(errors)


def prompts(tokenizer: Any, case: Case) -> list[str]:
    """Real text of as many tokens as asked: two to watch, two of one length to exchange, and a longer one."""
    with closing(case.family.train_feed(case.recipe, tokenizer, 0, 1, None)) as feed:
        tokens = torch.cat([batch.ids_BT[batch.ids_BT != tokenizer.eot] for batch in next(feed).micro_batches]).tolist()
    texts, start = [], 0
    for size in (*WATCHED, EXCHANGED, EXCHANGED, LONGER):
        texts.append(next(text for start in range(start, len(tokens) - size)
                          if (text := _spelled(tokenizer, tokens[start:start + size], size)) and text not in texts))
        start += size
    return texts


def _spelled(tokenizer: Any, ids: list[int], size: int) -> str | None:
    """The text of these ids if it has that many tokens; not all do (half a character, words that join)."""
    text = tokenizer.decode(ids)
    return text if len(tokenizer.encode(text)) == size else None


def fresh_trainee(case: Case) -> tuple[torch.nn.Module, Any]:
    return case.fresh_trainee()
