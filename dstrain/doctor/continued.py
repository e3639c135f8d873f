"""Greedy continuations twice: as `generate` and `translate` make them, with a cache, and by whole forward passes.

What is continued is a text, or, where a model encodes a source, an empty target beside it. Puzzles are answered
(dstrain.doctor.answered).
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch

from dstrain.data.collate import FILLER_ROW, Part, Row, collate
from dstrain.data.pairs.pair import Pair
from dstrain.data.pairs.pair_batch import collate_pairs
from dstrain.doctor.case import Case
from dstrain.doctor.finding import NotProven
from dstrain.infer.sampling import generate
from dstrain.infer.ties import greedy_ties
from dstrain.infer.translate import limit_of, translate_ids
from dstrain.nn.mode import in_eval

NEW_TOKENS, MANY_NEW_TOKENS = 8, 64
WATCHED, EXCHANGED, LONGER = (2, 5, 3), 7, 11
"""tokens of the beginnings that are watched, of the one beside them, and of a longer one in its place"""
STEPS = 8


@dataclass(frozen=True)
class Continued:
    """One beginning's continuation."""

    ids: list[int]
    logprob: float
    """sum over its tokens, the one that ends it included"""
    ties: int
    """choices that hang on rounding in the model's own precision"""


class Beginnings(Protocol):
    """What is continued: `watched` ones, a `third` beside them, an `other` of as many tokens, and a `longer` one."""

    watched: list[Any]
    third: Any
    other: Any
    longer: Any
    same_shapes: bool
    """with the other one in the third's place all tensors have the same shapes to the end, and no bit may differ"""

    def as_long_as(self, length: int) -> tuple[Any, int]: ...

    def cached(self, model: torch.nn.Module, starts: list[Any], new_tokens: int = ...) -> list[Continued]: ...

    def uncached(self, model: torch.nn.Module, start: Any, new_tokens: int = ...) -> Continued: ...


class Texts:
    """Of a model that continues a text: prompts."""

    same_shapes = True

    def __init__(self, case: Case, tokenizer: Any):
        self._tokenizer, self._heads_of = tokenizer, case.family.anatomy.heads_of
        with closing(case.family.train_feed(case.recipe, tokenizer, 0, 1, None)) as feed:
            ids = torch.cat([batch.ids_BT[batch.ids_BT != tokenizer.eot]
                             for step in islice(feed, STEPS) for batch in step.micro_batches]).tolist()
        *self.watched, self.third, self.other, self.longer = self._prompts(ids)
        self._ids = ids

    def as_long_as(self, length: int) -> tuple[str, int]:
        """(a prompt that leaves as few tokens of that length as are asked for, new tokens to ask for)."""
        size = most = length - NEW_TOKENS
        while size > 0:
            text = self._tokenizer.decode(_repeated(self._ids, size))
            if 0 < len(self._tokenizer.encode(text)) <= most:
                return text, NEW_TOKENS
            size -= 1 + size // 50
        raise NotProven(f"no text leaves {NEW_TOKENS} of {length} tokens to continue")

    def cached(self, model: torch.nn.Module, prompts: list[str], new_tokens: int = NEW_TOKENS) -> list[Continued]:
        return [Continued(found.ids, sum(found.logprobs), found.ties)
                for found in generate(model, self._tokenizer, prompts, new_tokens)]

    def uncached(self, model: torch.nn.Module, prompt: str, new_tokens: int = NEW_TOKENS) -> Continued:
        """By the forward pass of training on the row so far, alone, one for each token."""
        start = self._tokenizer.encode(prompt).tolist()
        most = min(new_tokens, model.length - len(start))

        def inputs(ids: list[int]) -> dict[str, torch.Tensor]:
            row = Row(0, [Part(None, np.array([*start, *ids, 0]), 0, False)])
            return collate([row], 1, len(start) + len(ids) + 1, self._tokenizer.eot).inputs()

        return _by_forward_passes(model, self._heads_of, inputs, self._tokenizer.eot, most, ends_count=False)

    def _prompts(self, ids: list[int]) -> list[str]:
        """Real text of as many tokens as asked; not every run of tokens is some text's (half a character)."""
        texts, start = [], 0
        for size in (*WATCHED, EXCHANGED, EXCHANGED, LONGER):
            for start in range(start, len(ids) - size):
                text = self._tokenizer.decode(ids[start:start + size])
                if len(self._tokenizer.encode(text)) == size and text not in texts:
                    texts.append(text)
                    start += size
                    break
            else:
                raise NotProven(f"the first {STEPS} steps hold no {len(WATCHED) + 3} texts to continue")
        return texts


class Sources:
    """Of a model that encodes a source: its tokens, for which a target is written."""

    same_shapes = True

    def __init__(self, case: Case, tokenizer: Any):
        self._start, self._heads_of = tokenizer.target.eot, case.family.anatomy.heads_of
        with closing(case.family.train_feed(case.recipe, tokenizer, 0, 1, None)) as feed:
            found = [batch.source_BS[b, :length].tolist() for step in islice(feed, STEPS)
                     for batch in step.micro_batches for b, length in enumerate(batch.source_lengths_B.tolist())
                     if batch.rows_B[b] != FILLER_ROW]
        end, inner = tokenizer.source.eot, [token for source in found for token in source[:-1]]
        if len(inner) < 2 * LONGER:
            raise NotProven(f"the first {STEPS} steps hold no {2 * LONGER} tokens of a source")
        sizes = (*WATCHED, EXCHANGED, EXCHANGED, LONGER)
        starts = np.cumsum([0, *sizes[:-1]]) % (len(inner) - LONGER)
        *self.watched, self.third, self.other, self.longer = (
            [*inner[start:start + size - 1], end] for start, size in zip(starts, sizes))
        if self.other == self.third:
            self.other = [*self.third[-2::-1], end]
        self._inner, self._end = inner, end

    def as_long_as(self, length: int) -> tuple[list[int], int]:
        """(a source of that length, tokens of a target to ask for: each is a pass)."""
        return [*_repeated(self._inner, length - 1), self._end], MANY_NEW_TOKENS

    def cached(self, model: torch.nn.Module, sources: list[list[int]], new_tokens: int = NEW_TOKENS) -> list[Continued]:
        """`translate`, greedy. Its score is divided by a function of the number of tokens."""
        limits = [min(new_tokens, limit_of(len(source), model.length)) for source in sources]
        found = translate_ids(model, sources, self._start, beam=1, limits=limits)
        return [Continued(each.ids, each.score * (5 + len(each.ids) + (each.stopped == "end")) / 6, each.ties)
                for each in found]

    def uncached(self, model: torch.nn.Module, source: list[int], new_tokens: int = NEW_TOKENS) -> Continued:
        """By the forward pass of training on the pair so far, alone, one for each token."""
        most = min(new_tokens, limit_of(len(source), model.length))

        def inputs(ids: list[int]) -> dict[str, torch.Tensor]:
            pair = Pair(np.array(source), np.array([*ids, 0]))
            return collate_pairs([pair], [0], self._start).inputs()

        return _by_forward_passes(model, self._heads_of, inputs, self._start, most, ends_count=True)


def _repeated(tokens: list[int], size: int) -> list[int]:
    return (tokens * (size // len(tokens) + 1))[:size]


@torch.no_grad()
def _by_forward_passes(model: torch.nn.Module, heads_of: Any, inputs: Any, eot: int, most: int,
                       ends_count: bool) -> Continued:
    ids: list[int] = []
    logprob, ties = 0.0, 0
    with in_eval(model):
        while len(ids) < most:
            hidden = heads_of(model(**inputs(ids), keys_B=None))[0]
            logits_V = model.logits(hidden[:, -1:])[0, -1].double()
            token = int(logits_V.argmax())
            ties += int(greedy_ties(logits_V[None], 1e-12))
            if token != eot or ends_count:
                logprob += float(logits_V.log_softmax(dim=0)[token])
            if token == eot:
                break
            ids.append(token)
    return Continued(ids, logprob, ties)
