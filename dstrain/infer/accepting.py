"""Which drafts stand, and the token behind them, so that the outcome is what plain decoding would give.

Shapes: B rows, J places that the model has judged in one pass, D = J - 1 drafts, V vocabulary.

Place j of a row is judged by the model's own odds after the drafts before it. Drafts stand up to the first that is
refused; the place of that one, or the one behind the last draft, gets a token of its own. So a row gains one token at
least, and at most J.

Greedy: a draft stands where it is the best token. Sampled: a draft x, drawn with probability q(x), stands with
probability min(1, p(x) / q(x)); else the token is drawn from what p has more than q, max(p - q, 0). So x comes out with
min(p(x), q(x)) + (1 - sum of min(p, q)) * max(p(x) - q(x), 0) / sum of max(p - q, 0); as 1 - sum of min(p, q) is also
that last sum, this is p(x), whatever q is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dstrain.infer.choose import Odds, stretch
from dstrain.infer.ties import draw_ties
from dstrain.infer.truncate import around


class Outcome(NamedTuple):
    tokens_BJ: Tensor
    """those up to place standing_B count"""
    tie_BJ: Tensor
    """True where rounding could have made it another token"""
    standing_B: Tensor
    """how many drafts stand"""


def stand_if_best(best_BJ: Tensor, tie_BJ: Tensor, drafts_BD: Tensor, drafts_B: Tensor) -> Outcome:
    """`best_BJ` with `tie_BJ`: the best tokens; `drafts_B`: how many of a row's drafts are to be judged."""
    return Outcome(best_BJ, tie_BJ, _run_of(best_BJ[:, :-1] == drafts_BD, drafts_B))


class Drawn(NamedTuple):
    """Drafts that were drawn, and from what."""

    ids_BD: Tensor
    q_BDV: Tensor
    """of sum 1, as that of p"""
    slack_BD: Tensor
    """as of Odds"""
    astray_BD: Tensor
    tie_BD: Tensor
    """rounding could have made it another draft"""


def stand_by_chance(p: Odds, drafts: Drawn, drafts_B: Tensor, accept_BD: Tensor, draw_BJ: Tensor) -> Outcome:
    """`p`: of B * J places; `accept_BD` and `draw_BJ`: independent numbers in [0, 1)."""
    rows, places = draw_BJ.shape
    p_BJV = (p.p_BV / p.p_BV.sum(dim=-1, keepdim=True)).view(rows, places, -1)
    ids_BD1 = drafts.ids_BD.unsqueeze(-1)
    p_BD, q_BD = p_BJV[:, :-1].gather(2, ids_BD1).squeeze(2), drafts.q_BDV.gather(2, ids_BD1).squeeze(2)
    standing_B = _run_of(accept_BD * q_BD < p_BD, drafts_B)
    at_B = torch.arange(rows, device=standing_B.device), standing_B
    rest_BV, moved_B = _rest(p, p_BJV, drafts, drafts_B, standing_B)
    last_B, lower_B, upper_B = stretch(rest_BV, draw_BJ[at_B])
    last_tie_B = draw_ties(lower_B, upper_B, draw_BJ[at_B], moved_B, torch.zeros_like(moved_B))
    unsure_BJV = None if p.unsure_BV is None else p.unsure_BV.view_as(p_BJV)
    tie_BD = drafts.tie_BD | _accept_ties(p, p_BD, q_BD, drafts, accept_BD)
    if unsure_BJV is not None:
        tie_BD = tie_BD | unsure_BJV[:, :-1].gather(2, ids_BD1).squeeze(2)
        last_tie_B = last_tie_B | unsure_BJV[at_B].gather(1, last_B[:, None]).squeeze(1)
    # At its place the refused draft stands no longer, but had it not been refused, another token would: its ties count.
    tie_BJ = torch.cat([tie_BD, torch.zeros_like(tie_BD[:, :1])], dim=1) & (
        torch.arange(places, device=drafts_B.device) < drafts_B[:, None])
    tokens_BJ = torch.cat([drafts.ids_BD, last_B[:, None]], dim=1)
    tokens_BJ[at_B] = last_B
    tie_BJ[at_B] |= last_tie_B
    return Outcome(tokens_BJ, tie_BJ | p.frozen_tie_B.view_as(tie_BJ), standing_B)


def _rest(p: Odds, p_BJV: Tensor, drafts: Drawn, drafts_B: Tensor, standing_B: Tensor) -> tuple[Tensor, Tensor]:
    """What the last token is drawn from, and how much of it rounding can move elsewhere."""
    rows, places, _ = p_BJV.shape
    row_B = torch.arange(rows, device=standing_B.device)
    p_BV = p_BJV[row_B, standing_B]
    p_moved_B = _moved(p_BV, p.slack_B.view(rows, places)[row_B, standing_B],
                       p.astray_B.view(rows, places)[row_B, standing_B])
    refused_B, place_B = standing_B < drafts_B, standing_B.clamp(max=places - 2)
    q_BV = drafts.q_BDV[row_B, place_B]
    q_moved_B = _moved(q_BV, drafts.slack_BD[row_B, place_B], drafts.astray_BD[row_B, place_B])
    more_BV = (p_BV - q_BV).clamp(min=0.0)
    size_B = more_BV.sum(dim=-1)
    refused_B = refused_B & (size_B > 0.0)      # p and q are equal but for rounding: as if there had been no draft
    moved_B = torch.where(refused_B, 2.0 * (p_moved_B + q_moved_B) / size_B, p_moved_B)
    return torch.where(refused_B[:, None], more_BV, p_BV), moved_B


def _moved(p_BV: Tensor, slack_B: Tensor, astray_B: Tensor) -> Tensor:
    """How much probability rounding can take from some tokens and give to others."""
    rest_B = (1.0 - p_BV.amax(dim=-1)).clamp(min=0.0)
    _, rest_at_most_B = around(rest_B, slack_B)
    return torch.minimum(torch.tanh(slack_B / 4), rest_at_most_B) + astray_B / (1.0 - astray_B.clamp(max=0.5))


def _accept_ties(p: Odds, p_BD: Tensor, q_BD: Tensor, drafts: Drawn, accept_BD: Tensor) -> Tensor:
    """The number that decides lies where rounding can move the border, p(x) / q(x)."""
    rows, count = q_BD.shape
    p_slack_BD, p_astray_BD = (values.view(rows, count + 1)[:, :-1] for values in (p.slack_B, p.astray_B))
    p_low_BD, p_high_BD = _bounds(p_BD, p_slack_BD, p_astray_BD)
    q_low_BD, q_high_BD = _bounds(q_BD, drafts.slack_BD, drafts.astray_BD)
    return (accept_BD * q_high_BD >= p_low_BD) & (accept_BD * q_low_BD < p_high_BD)


def _bounds(p_BD: Tensor, slack_BD: Tensor, astray_BD: Tensor) -> tuple[Tensor, Tensor]:
    low_BD, high_BD = around(p_BD, slack_BD)
    scale_BD = 1.0 - astray_BD.clamp(max=0.5)
    return low_BD * scale_BD, high_BD / scale_BD


def _run_of(good_BD: Tensor, drafts_B: Tensor) -> Tensor:
    """How many come before the first that is not good or not to be judged."""
    judged_BD = torch.arange(good_BD.shape[1], device=good_BD.device) < drafts_B[:, None]
    return (good_BD & judged_BD).long().cumprod(dim=1).sum(dim=1)
