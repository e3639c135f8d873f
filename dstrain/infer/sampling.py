"""Generation with a key-value cache: several prompts of different lengths at once, greedy or sampled.

Shapes: B prompts, T positions, D channels, V vocabulary.

The shape of each step depends on how many tokens there are, never on which: what stands in padding or in another
prompt changes no bit of a prompt's continuation. Sampling has no generator: the number that picks a token is a hash of
(seed, prompt number, position).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dstrain.config.errors import UserError
from dstrain.infer.choose import Choosing, choose
from dstrain.infer.ties import ROUNDING
from dstrain.infer.writing import Writer, first_stop, tokens_to
from dstrain.nn.chance import uniforms
from dstrain.nn.mode import in_eval


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
    """the new tokens, without the end-of-text that stopped them, up to the one that completes a stop string"""
    logprobs: list[float] = field(default_factory=list)
    """log p of each of them under the model itself: at temperature 1, with no penalty, among all tokens"""
    stopped: str = ""
    """why it ends: `eot`; `stop`: a stop string; `max_new_tokens`; `length`: the row is as long as those the model was
    trained on"""
    ties: int = 0
    """how many choices hang on rounding: there another batch shape may choose another token. Greedy: the two best
    tokens are equal within it; sampled: the draw lies that near to another token"""
    text: str = ""
    """the new tokens as text, without the stop string"""


@torch.no_grad()
def generate(model: nn.Module & LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int,
             temperature: float = 0.0, seed: int = 0, first_prompt: int = 0, *, top_k: int = 0, top_p: float = 1.0,
             repetition_penalty: float = 1.0, stop: Sequence[str] = (),
             show: Callable[[int, str], None] | None = None) -> list[Generated]:
    """Continues each prompt. Temperature 0 takes the best token.

    `first_prompt` is the number of prompts[0] where a caller hands over many prompts in several calls. `show` hears of
    each piece of text when it is certain: show(place in prompts, piece).
    """
    how = Choosing(temperature, top_k, top_p, repetition_penalty)
    how.check()
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}, but must be at least 1")
    if "" in stop:
        raise UserError("stop: an empty string is in every text; give the text that ends a continuation")
    if not prompts:
        return []
    starts = [_start(tokenizer, prompt, number, model.length) for number, prompt in enumerate(prompts, first_prompt)]
    rows = [_Row(start, tokenizer, stop, max_new_tokens, model.length, _shower(show, place))
            for place, start in enumerate(starts)]
    device = next(model.parameters()).device
    with in_eval(model):
        longest = max(map(len, starts))
        cache = model.new_cache(len(starts), min(longest + max_new_tokens - 1, model.length))
        lengths_B = torch.tensor([len(start) for start in starts], device=device)
        hidden_BTD = model.extend(_right_padded(starts, longest).to(device), lengths_B, cache)
        last_BD = hidden_BTD[torch.arange(len(starts), device=device), lengths_B - 1]
        numbers_B = torch.arange(first_prompt, first_prompt + len(starts), device=device)
        seen_BV = None
        while True:
            logits_BV = model.logits(last_BD)
            if seen_BV is None and how.repetition_penalty != 1.0:
                seen_BV = _seen(starts, logits_BV)
            uniform_B = uniforms(seed, numbers_B, lengths_B) if how.temperature else None
            chosen_B, tie_B = choose(how, logits_BV, seen_BV, uniform_B, ROUNDING[last_BD.dtype])
            logprob_B = logits_BV.gather(1, chosen_B[:, None]).squeeze(1) - logits_BV.logsumexp(dim=-1)
            for row, *what in zip(rows, chosen_B.tolist(), logprob_B.tolist(), tie_B.tolist(), strict=True):
                row.take(*what)
            running = [not row.result.stopped for row in rows]
            if not any(running):
                break
            running_B = torch.tensor(running, device=device).long()
            lengths_B = lengths_B + running_B
            if seen_BV is not None:
                seen_BV[torch.arange(len(starts), device=device), chosen_B] = True
            last_BD = model.extend(chosen_B[:, None], running_B, cache)[:, 0]
    return [row.result for row in rows]


class _Row:
    """One prompt: takes its tokens as they are chosen, and knows when it ends."""

    def __init__(self, start: list[int], tokenizer: Tokenizer, stop: Sequence[str], max_new_tokens: int, length: int,
                 show: Callable[[str], None]):
        self.result = Generated()
        self._tokenizer, self._stop = tokenizer, stop
        self._most = min(max_new_tokens, length + 1 - len(start))
        self._most_because = "max_new_tokens" if self._most == max_new_tokens else "length"
        self._writer = Writer(tokenizer.decode, stop, show)

    def take(self, token: int, logprob: float, tie: bool) -> None:
        result = self.result
        if result.stopped:
            return
        result.ties += tie
        if token == self._tokenizer.eot:
            self._end("eot")
            return
        result.ids.append(token)
        result.logprobs.append(logprob)
        self._writer.add(token)
        if self._writer.stopped:
            self._end("stop")
        elif len(result.ids) == self._most:
            self._end(self._most_because)

    def _end(self, why: str) -> None:
        self._writer.finish()
        self.result.text = self._writer.text
        self.result.stopped = "stop" if self._writer.stopped else why
        if self._writer.stopped:
            whole = self._tokenizer.decode(self.result.ids)
            _, end = first_stop(whole, self._stop)
            count = tokens_to(whole[:end], self.result.ids, self._tokenizer.decode)
            del self.result.ids[count:], self.result.logprobs[count:]


def _shower(show: Callable[[int, str], None] | None, place: int) -> Callable[[str], None]:
    return (lambda piece: None) if show is None else lambda piece: show(place, piece)


def _start(tokenizer: Tokenizer, prompt: str, number: int, length: int) -> list[int]:
    """A document starts with the end-of-text of the one before it, as in training."""
    ids = [tokenizer.eot, *tokenizer.encode(prompt).tolist()]
    if len(ids) > length:
        raise UserError(f"prompt {number} has {len(ids)} tokens with its start, but the model was trained on rows of"
                        f" {length}: shorten the prompt")
    return ids


def _right_padded(rows: list[list[int]], length: int) -> Tensor:
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def _seen(starts: list[list[int]], logits_BV: Tensor) -> Tensor:
    """The prompts' tokens, without the end-of-text before them: ending is no repetition."""
    seen_BV = torch.zeros_like(logits_BV, dtype=torch.bool)
    for row, start in enumerate(starts):
        seen_BV[row, start[1:]] = True
    return seen_BV
