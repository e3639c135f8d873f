"""What is generated, with a cache or whatever else makes it fast, is what whole forward passes give."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dstrain.config.errors import UserError
from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.model_proofs.by_heart import learned
from dstrain.doctor.model_proofs.probes import IGNORED, ROUNDING, cut, look, part_of, untouched
from dstrain.doctor.subject import Subject, TensorDict

CLAIM = "greedy generation gives the tokens that plain whole forward passes give, each row as if it were alone"
NEW_TOKENS = 8
ROWS = 4


def prove(subject: Subject, generate: Callable[[nn.Module, TensorDict, int], Tensor], end: int | None) -> Finding:
    longest = subject.lengths_B.argsort(descending=True)[:ROWS]
    some = part_of(subject, longest)
    most = int(some.lengths_B.min())
    start = max(1, most // 2)
    new = min(NEW_TOKENS, most - start)
    if new < 1:
        raise NotProven("the rows are too short for a prompt and a token after it")
    at_first = compared(some, generate, start, new, end)
    with learned(some) as course:  # weights that know the rows by heart hang on every token before
        learnt = compared(some, generate, start, new, end)
    different, ties, tried = (one + other for one, other in zip(at_first, learnt, strict=True))
    figure = (f"{different:,} of {tried:,} generated tokens are not the best of a whole pass; {ties:,} ties; at "
              f"initial weights and after {course.steps} steps on the same rows")
    tolerance = "none, but for ties within rounding"
    if tried and not different:
        return Finding(True, figure, tolerance)
    return Finding(False, figure, tolerance, "a cache with the wrong positions, a mask that does not cover what is in "
                   "it, prompts of other rows, or dropout that is still on" if tried else "nothing was generated",
                   "compare the logits of each cached step with those of a whole pass, and find the first that differ")


def compared(some: Subject, generate: Callable[[nn.Module, TensorDict, int], Tensor], start: int, new: int,
             end: int | None) -> tuple[int, int, int]:
    """(tokens that are not the best, ties, tokens compared) with the weights that the module has now."""
    with untouched(some.module), torch.no_grad():
        prompt = _prompt(cut(some, some.batch, start, None), some)
        some.module.eval()
        ids = generate(some.module, prompt, new)
    found = [0, 0, 0]
    with untouched(some.module):
        for row, tokens in enumerate(_continuations(ids, prompt[some.roles.ids], new)):
            of_row = follow(part_of(some, torch.tensor([row])), start, tokens.tolist(), end)
            found = [one + other for one, other in zip(found, of_row, strict=True)]
    return found[0], found[1], found[2]


def follow(subject: Subject, start: int, tokens: list[int], end: int | None) -> tuple[int, int, int]:
    """(tokens that are not the best, ties, tokens compared) of one row: up to its end or its first difference."""
    roles, size, ties = subject.roles, start, 0
    batch = {name: tensor.clone() for name, tensor in subject.batch.items()}
    for number, token in enumerate(tokens):
        whole = cut(subject, batch, size, None)
        features = look(subject, whole, training=False).features[0][:, -1:]
        logits_V = subject.logits_of(subject.module, features).double()[0, -1]
        best = int(logits_V.argmax())
        if token != best:
            near = float(logits_V[best] - logits_V[token]) <= ROUNDING[features.dtype] * float(logits_V.abs().max())
            if not near:
                return 1, ties, number + 1
            ties += 1
        if token == end:
            return 0, ties, number + 1
        batch[roles.ids][0, size] = token
        size += 1
    return 0, ties, len(tokens)


def _prompt(batch: TensorDict, subject: Subject) -> TensorDict:
    """What there is before anything is predicted: no tensor that holds targets."""
    targets = [name for name, tensor in subject.batch.items()
               if tensor.ndim == 2 and name not in (subject.roles.ids, subject.roles.source)
               and (bool((tensor == IGNORED).any()) or "label" in name or "target" in name)]
    return {name: tensor for name, tensor in batch.items() if name not in targets}


def _continuations(ids: Tensor, prompts: Tensor, new: int) -> Tensor:
    """The new tokens, of a result with or without the prompts."""
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.shape[0] != prompts.shape[0]:
        raise UserError("generate: it has to give ids [rows, tokens] for the rows of its prompt: with the prompt "
                        "before them, or the new ones alone")
    size = prompts.shape[1]
    if ids.shape[1] > size and torch.equal(ids[:, :size], prompts):
        ids = ids[:, size:]
    return ids[:, :new]

