"""Generation with a key-value cache: several prompts of different lengths at once, greedy or sampled.

Shapes: B prompts, T positions, D channels, V vocabulary.

The shape of each step depends on how many tokens there are, never on which: what stands in padding or in another
prompt changes no bit of a prompt's continuation. Sampling has no generator: the number that picks a token is a hash of
(seed, prompt number, position).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dstrain.infer.choose import Choosing, choose
from dstrain.infer.continuing import Generated, Pace, Tokenizer, begin, right_padded, seen_in
from dstrain.infer.ties import ROUNDING
from dstrain.nn.chance import uniforms
from dstrain.nn.mode import in_eval


class LanguageModel(Protocol):
    """What generation asks of a model: DecoderLm has it."""

    length: int

    def new_cache(self, rows: int, capacity: int) -> Any: ...

    def extend(self, ids_BT: Tensor, lengths_B: Tensor, cache: Any) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


@torch.no_grad()
def generate(model: nn.Module & LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int,
             temperature: float = 0.0, seed: int = 0, first_prompt: int = 0, *, top_k: int = 0, top_p: float = 1.0,
             repetition_penalty: float = 1.0, stop: Sequence[str] = (),
             show: Callable[[int, str], None] | None = None, pace: Pace | None = None) -> list[Generated]:
    """Continues each prompt. Temperature 0 takes the best token.

    `first_prompt` is the number of prompts[0] where a caller hands over many prompts in several calls. `show` hears of
    each piece of text when it is certain: show(place in prompts, piece). `pace` is added to.
    """
    how = Choosing(temperature, top_k, top_p, repetition_penalty)
    how.check()
    rows = begin(tokenizer, prompts, model.length, max_new_tokens, first_prompt, stop, show)
    if not rows:
        return []
    pace = pace or Pace()
    starts = [row.start for row in rows]
    device = next(model.parameters()).device
    with in_eval(model):
        longest = max(map(len, starts))
        cache = model.new_cache(len(starts), min(longest + max_new_tokens - 1, model.length))
        lengths_B = torch.tensor([len(start) for start in starts], device=device)
        hidden_BTD = model.extend(right_padded(starts, longest, device), lengths_B, cache)
        last_BD = hidden_BTD[torch.arange(len(starts), device=device), lengths_B - 1]
        numbers_B = torch.arange(first_prompt, first_prompt + len(starts), device=device)
        seen_BV, began = None, None
        while True:
            logits_BV = model.logits(last_BD)
            if seen_BV is None and how.repetition_penalty != 1.0:
                seen_BV = seen_in(starts, logits_BV.shape[-1], device)
            uniform_B = uniforms(seed, numbers_B, lengths_B) if how.temperature else None
            chosen_B, tie_B = choose(how, logits_BV, seen_BV, uniform_B, ROUNDING[last_BD.dtype])
            logprob_B = logits_BV.gather(1, chosen_B[:, None]).squeeze(1) - logits_BV.logsumexp(dim=-1)
            for row, *what in zip(rows, chosen_B.tolist(), logprob_B.tolist(), tie_B.tolist(), strict=True):
                row.take(*what)
            running = [not row.result.stopped for row in rows]
            if began is None:
                began = time.perf_counter()
            if not any(running):
                break
            pace.passes += sum(running)
            pace.tokens += sum(running)
            running_B = torch.tensor(running, device=device).long()
            lengths_B = lengths_B + running_B
            if seen_BV is not None:
                seen_BV[torch.arange(len(starts), device=device), chosen_B] = True
            last_BD = model.extend(chosen_B[:, None], running_B, cache)[:, 0]
    pace.seconds += time.perf_counter() - began
    return [row.result for row in rows]
