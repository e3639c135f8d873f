"""How the next token is chosen from a row's logits: pure functions, with no generator and no state.

Shapes: B rows, V vocabulary.

In this order: the repetition penalty, the temperature, top-k, top-p, and then the draw. Where two tokens are equal, the
one with the smaller id comes first, everywhere: at the border of top-k and of top-p, and for the best token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dstrain.config.errors import UserError
from dstrain.infer.ties import draw_ties, greedy_ties
from dstrain.infer.truncate import kept_by_top_k, kept_by_top_p


@dataclass(frozen=True)
class Choosing:
    """The defaults change no bit of the model's own choice: its best token."""

    temperature: float = 0.0
    """0: the best token; else logits are divided by it and a token is drawn"""
    top_k: int = 0
    """draw among the k best tokens; 0: among all"""
    top_p: float = 1.0
    """draw among the fewest best tokens that have this much probability together (what top-k left being 1)"""
    repetition_penalty: float = 1.0
    """positive logits of tokens in the prompt or the continuation are divided by it, negative ones multiplied"""

    def check(self) -> None:
        for name, value, good, rule in (
                ("temperature", self.temperature, 0.0 <= self.temperature < float("inf"), "a number of at least 0"),
                ("top_k", self.top_k, self.top_k >= 0, "at least 1, or 0 for all tokens"),
                ("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
                ("repetition_penalty", self.repetition_penalty, 0.0 < self.repetition_penalty < float("inf"),
                 "a number above 0 (1: none)")):
            if not good:
                raise UserError(f"{name} is {value}, but must be {rule}")
        for name, value, off in (("top_k", self.top_k, 0), ("top_p", self.top_p, 1.0)):
            if self.temperature == 0.0 and value != off:
                raise UserError(f"{name} is {value}, but at temperature 0 the best token is taken and nothing is "
                                f"drawn, so it has no effect: remove it, or set a temperature such as 0.8")


class Chosen(NamedTuple):
    tokens_B: Tensor
    tie_B: Tensor
    """True where a change of the logits within rounding could have made it another token"""


def choose(how: Choosing, logits_BV: Tensor, seen_BV: Tensor | None, uniform_B: Tensor | None,
           rounding: float) -> Chosen:
    """`seen_BV`: True for tokens that the penalty is for; `uniform_B`: the numbers in [0, 1) that draw."""
    if how.repetition_penalty != 1.0:
        logits_BV = penalized(logits_BV, seen_BV, how.repetition_penalty)
        rounding *= max(how.repetition_penalty, 1.0 / how.repetition_penalty)
    if how.temperature == 0.0:
        return Chosen(logits_BV.argmax(dim=-1), greedy_ties(logits_BV, rounding))
    return _drawn(how, logits_BV, uniform_B, rounding)


def penalized(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    return torch.where(seen_BV, torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty), logits_BV)


def _drawn(how: Choosing, logits_BV: Tensor, uniform_B: Tensor, rounding: float) -> Chosen:
    """The token at which the cumulated probability passes the uniform number, in float64."""
    best_B1 = logits_BV.amax(dim=-1, keepdim=True)
    slack_B1 = rounding * best_B1.abs().clamp(min=1.0).double()     # of the difference between two logits
    below_best_BV = (logits_BV - best_B1).double()                  # no temperature makes this overflow
    p_BV = torch.softmax(below_best_BV / how.temperature, dim=-1)
    unsure_BV, whole_p_BV = None, p_BV
    if how.top_k:
        keep_BV, unsure_BV = kept_by_top_k(below_best_BV, how.top_k, slack_B1)
        p_BV = p_BV * keep_BV
        if how.top_p < 1.0:
            below_best_BV = below_best_BV.masked_fill(~keep_BV, -torch.inf)
    if how.top_p < 1.0:
        keep_BV, also_unsure_BV = kept_by_top_p(below_best_BV, p_BV, how.top_p, slack_B1, how.temperature)
        unsure_BV = also_unsure_BV if unsure_BV is None else unsure_BV | also_unsure_BV
        p_BV = p_BV * keep_BV
    cumulated_BV = p_BV.cumsum(dim=-1)
    total_B1 = cumulated_BV[:, -1:]
    tokens_B1 = torch.searchsorted(cumulated_BV, uniform_B[:, None] * total_B1, right=True)
    upper_B = (cumulated_BV.gather(1, tokens_B1) / total_B1).squeeze(1)
    lower_B = upper_B - (p_BV.gather(1, tokens_B1) / total_B1).squeeze(1)
    astray_B = torch.zeros_like(upper_B)
    if unsure_BV is not None:
        astray_B = ((whole_p_BV * unsure_BV).sum(dim=-1, keepdim=True) / total_B1).squeeze(1)
    tie_B = draw_ties(lower_B, upper_B, uniform_B, astray_B, slack_B1.squeeze(1) / how.temperature)
    if unsure_BV is not None:
        tie_B = tie_B | unsure_BV.gather(1, tokens_B1).squeeze(1)
    # So cold that probabilities underflow, the draw is the best token, and what ties is what ties for that.
    cold_B = slack_B1.squeeze(1) / how.temperature > 30.0
    return Chosen(tokens_B1.squeeze(1), tie_B | (cold_B & greedy_ties(logits_BV, rounding)))
