"""Generation with a key-value cache: several prompts of different lengths at once, greedy or sampled.

Shapes: B prompts, T positions, D channels, V vocabulary.

The shape of each step depends on how many tokens there are, never on which: what stands in padding or in another
prompt changes no bit of a prompt's continuation. Sampling has no generator: the number that picks a token is a hash of
(seed, prompt number, position).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dstrain.config.errors import UserError
from dstrain.nn.chance import uniforms
from dstrain.nn.mode import in_eval

# Relative differences that another batch shape can make: closer best logits are a tie.
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


class Tokenizer(Protocol):
    eot: int

    def encode(self, text: str) -> np.ndarray: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class LanguageModel(Protocol):
    """What generation asks of a model: DecoderLm has it."""

    length: int

    def new_cache(self, rows: int, capacity: int) -> Any: ...

    def extend(self, ids_BT: Tensor, lengths_B: Tensor, cache: Any) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


@dataclass
class Generated:
    """One prompt's continuation."""

    ids: list[int] = field(default_factory=list)
    """the new tokens, without the end-of-text that stopped them"""
    logprobs: list[float] = field(default_factory=list)
    """log p of each of them under the model, at temperature 1"""
    stopped: str = ""
    """why it ends: `eot`; `max_new_tokens`; `length`: the row is as long as those the model was trained on"""
    ties: int = 0
    """how many times the two best tokens were equal within rounding: there another batch shape may choose the other"""
    text: str = ""
    """the new tokens as text"""


@torch.no_grad()
def generate(model: nn.Module & LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int,
             temperature: float = 0.0, seed: int = 0, first_prompt: int = 0) -> list[Generated]:
    """Continues each prompt. Temperature 0 takes the best token.

    `first_prompt` is the number of prompts[0] where a caller hands over many prompts in several calls.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}, but must be at least 1")
    if not temperature >= 0.0:
        raise UserError(f"temperature is {temperature}, but must be at least 0")
    if not prompts:
        return []
    starts = [_start(tokenizer, prompt, number, model.length) for number, prompt in enumerate(prompts, first_prompt)]
    results = [Generated() for _ in prompts]
    device = next(model.parameters()).device
    with in_eval(model):
        longest = max(map(len, starts))
        cache = model.new_cache(len(starts), min(longest + max_new_tokens - 1, model.length))
        lengths_B = torch.tensor([len(start) for start in starts], device=device)
        hidden_BTD = model.extend(_right_padded(starts, longest).to(device), lengths_B, cache)
        last_BD = hidden_BTD[torch.arange(len(starts), device=device), lengths_B - 1]
        numbers_B = torch.arange(first_prompt, first_prompt + len(starts), device=device)
        while True:
            logits_BV = model.logits(last_BD)
            if temperature == 0.0:
                chosen_B = logits_BV.argmax(dim=-1)
            else:
                chosen_B = _sampled(logits_BV, temperature, uniforms(seed, numbers_B, lengths_B))
            _record(results, starts, logits_BV, chosen_B, _ROUNDING[last_BD.dtype], tokenizer.eot, max_new_tokens,
                    model.length)
            running_B = torch.tensor([not result.stopped for result in results], device=device).long()
            if not any(not result.stopped for result in results):
                break
            lengths_B = lengths_B + running_B
            last_BD = model.extend(chosen_B[:, None], running_B, cache)[:, 0]
    for result in results:
        result.text = tokenizer.decode(result.ids)
    return results


def _start(tokenizer: Tokenizer, prompt: str, number: int, length: int) -> list[int]:
    """A document starts with the end-of-text of the one before it, as in training."""
    ids = [tokenizer.eot, *tokenizer.encode(prompt).tolist()]
    if len(ids) > length:
        raise UserError(f"prompt {number} has {len(ids)} tokens with its start, but the model was trained on rows of"
                        f" {length}: shorten the prompt")
    return ids


def _right_padded(rows: list[list[int]], length: int) -> Tensor:
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def _sampled(logits_BV: Tensor, temperature: float, uniform_B: Tensor) -> Tensor:
    """The token at which the cumulated probability passes the uniform number, in float64."""
    below_best_BV = (logits_BV - logits_BV.amax(dim=-1, keepdim=True)).double()  # no temperature makes this overflow
    cumulated_BV = torch.softmax(below_best_BV / temperature, dim=-1).cumsum(dim=-1)
    return torch.searchsorted(cumulated_BV, uniform_B[:, None] * cumulated_BV[:, -1:], right=True).squeeze(1)


def _record(results: list[Generated], starts: list[list[int]], logits_BV: Tensor, chosen_B: Tensor, rounding: float,
            eot: int, max_new_tokens: int, length: int) -> None:
    """Writes each row's new token down, and why the row stops if it does."""
    logprob_B = (logits_BV.gather(1, chosen_B[:, None]).squeeze(1) - logits_BV.logsumexp(dim=-1)).tolist()
    best_B2 = logits_BV.topk(2, dim=-1).values
    tie_B = (best_B2[:, 0] - best_B2[:, 1] <= rounding * best_B2.abs().amax(dim=1).clamp(min=1.0)).tolist()
    for result, start, token, logprob, tie in zip(results, starts, chosen_B.tolist(), logprob_B, tie_B, strict=True):
        if result.stopped:
            continue
        result.ties += tie
        if token == eot:
            result.stopped = "eot"
            continue
        result.ids.append(token)
        result.logprobs.append(logprob)
        if len(result.ids) == max_new_tokens:
            result.stopped = "max_new_tokens"
        elif len(start) + len(result.ids) > length:
            result.stopped = "length"
