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


class Odds(NamedTuple):
    """What is drawn from, in float64, and how far rounding can move it."""

    p_BV: Tensor
    """0 for tokens that are out of the draw; the others' are not scaled again to sum 1"""
    unsure_BV: Tensor | None
    """tokens that a change of the logits within rounding could have let in or out; None: there is no truncation"""
    astray_B: Tensor
    """the probability of these tokens, relative to that of all in the draw"""
    slack_B: Tensor
    """of the difference between two logits, divided by the temperature"""
    frozen_tie_B: Tensor
    """so cold that probabilities underflow, the draw is the best token: True where that one ties with another"""


def choose(how: Choosing, logits_BV: Tensor, seen_BV: Tensor | None, uniform_B: Tensor | None,
           rounding: float) -> Chosen:
    """`seen_BV`: True for tokens that the penalty is for; `uniform_B`: the numbers in [0, 1) that draw."""
    if how.temperature > 0.0:
        return drawn(odds(how, logits_BV, seen_BV, rounding), uniform_B)
    logits_BV, rounding = _penalized(how, logits_BV, seen_BV, rounding)
    return Chosen(logits_BV.argmax(dim=-1), greedy_ties(logits_BV, rounding))


def best(how: Choosing, logits_BV: Tensor, seen_BV: Tensor | None) -> Tensor:
    """The best tokens, after the penalty."""
    return _penalized(how, logits_BV, seen_BV, 0.0)[0].argmax(dim=-1)


def penalized(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    return torch.where(seen_BV, torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty), logits_BV)


def odds(how: Choosing, logits_BV: Tensor, seen_BV: Tensor | None, rounding: float) -> Odds:
    """Of a draw, which needs a temperature."""
    logits_BV, rounding = _penalized(how, logits_BV, seen_BV, rounding)
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
    astray_B = torch.zeros_like(p_BV[:, 0])
    if unsure_BV is not None:
        astray_B = (whole_p_BV * unsure_BV).sum(dim=-1) / p_BV.sum(dim=-1)
    slack_B = slack_B1.squeeze(1) / how.temperature
    return Odds(p_BV, unsure_BV, astray_B, slack_B, (slack_B > 30.0) & greedy_ties(logits_BV, rounding))


def drawn(of: Odds, uniform_B: Tensor) -> Chosen:
    """The token at which the cumulated probability passes the uniform number."""
    tokens_B, lower_B, upper_B = stretch(of.p_BV, uniform_B)
    tie_B = draw_ties(lower_B, upper_B, uniform_B, of.astray_B, of.slack_B) | of.frozen_tie_B
    if of.unsure_BV is not None:
        tie_B = tie_B | of.unsure_BV.gather(1, tokens_B[:, None]).squeeze(1)
    return Chosen(tokens_B, tie_B)


def stretch(p_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The token whose stretch of [0, 1] has the number, and where that begins and ends; p may have any sum."""
    cumulated_BV = p_BV.cumsum(dim=-1)
    total_B1 = cumulated_BV[:, -1:]
    tokens_B1 = torch.searchsorted(cumulated_BV, uniform_B[:, None] * total_B1, right=True)
    upper_B = (cumulated_BV.gather(1, tokens_B1) / total_B1).squeeze(1)
    return tokens_B1.squeeze(1), upper_B - (p_BV.gather(1, tokens_B1) / total_B1).squeeze(1), upper_B


def _penalized(how: Choosing, logits_BV: Tensor, seen_BV: Tensor | None, rounding: float) -> tuple[Tensor, float]:
    """With what rounding is in them then."""
    if how.repetition_penalty == 1.0:
        return logits_BV, rounding
    return (penalized(logits_BV, seen_BV, how.repetition_penalty),
            rounding * max(how.repetition_penalty, 1.0 / how.repetition_penalty))
