"""What plain and speculative generation share: how prompts begin, a row that takes tokens until it ends, the pace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dstrain.config.errors import UserError
from dstrain.infer.writing import Writer, first_stop, tokens_to


class Tokenizer(Protocol):
    eot: int

    def encode(self, text: str) -> np.ndarray: ...

    def decode(self, ids: Sequence[int]) -> str: ...


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


@dataclass
class Pace:
    """What the passes after the prompts' own did, of all rows."""

    passes: int = 0
    """each counts once for every row that it continues"""
    tokens: int = 0
    """that these gave, an end-of-text among them"""
    seconds: float = 0.0


class Row:
    """One prompt: takes its tokens as they are chosen, and knows when it ends."""

    def __init__(self, start: list[int], tokenizer: Tokenizer, stop: Sequence[str], max_new_tokens: int, length: int,
                 show: Callable[[str], None]):
        self.start, self.result = start, Generated()
        self._tokenizer, self._stop = tokenizer, stop
        self._most = min(max_new_tokens, length + 1 - len(start))
        self._most_because = "max_new_tokens" if self._most == max_new_tokens else "length"
        self._writer = Writer(tokenizer.decode, stop, show)

    @property
    def left(self) -> int:
        """How many tokens it can still take at most."""
        return 0 if self.result.stopped else self._most - len(self.result.ids)

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


def begin(tokenizer: Tokenizer, prompts: Sequence[str], length: int, max_new_tokens: int, first_prompt: int,
          stop: Sequence[str], show: Callable[[int, str], None] | None) -> list[Row]:
    """A row for each prompt, in a model that was trained on rows of `length`."""
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}, but must be at least 1")
    if "" in stop:
        raise UserError("stop: an empty string is in every text; give the text that ends a continuation")
    starts = [_start(tokenizer, prompt, number, length) for number, prompt in enumerate(prompts, first_prompt)]
    return [Row(start, tokenizer, stop, max_new_tokens, length, _shower(show, place))
            for place, start in enumerate(starts)]


def right_padded(rows: Sequence[list[int]], length: int, device: torch.device) -> Tensor:
    return torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)


def seen_in(starts: Sequence[list[int]], vocabulary: int, device: torch.device) -> Tensor:
    """[B, V], the prompts' tokens, without the end-of-text before them: ending is no repetition."""
    seen_BV = torch.zeros(len(starts), vocabulary, dtype=torch.bool, device=device)
    for row, start in enumerate(starts):
        seen_BV[row, start[1:]] = True
    return seen_BV


def _shower(show: Callable[[int, str], None] | None, place: int) -> Callable[[str], None]:
    return (lambda piece: None) if show is None else lambda piece: show(place, piece)


def _start(tokenizer: Tokenizer, prompt: str, number: int, length: int) -> list[int]:
    """A document starts with the end-of-text of the one before it, as in training."""
    ids = [tokenizer.eot, *tokenizer.encode(prompt).tolist()]
    if len(ids) > length:
        raise UserError(f"prompt {number} has {len(ids)} tokens with its start, but the model was trained on rows of"
                        f" {length}: shorten the prompt")
    return ids
