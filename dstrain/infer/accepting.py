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

    of_draft_2BD = _Inexact(*(torch.stack([own.view(rows, places)[:, :-1], other]) for own, other in (
        (p.slack_B, drafts.slack_BD), (p.astray_B, drafts.astray_BD))))
    tie_BD = drafts.tie_BD | _accept_ties(p_BD, q_BD, of_draft_2BD, accept_BD)
    own_at_B = _Inexact(p.slack_B.view(rows, places)[at_B], p.astray_B.view(rows, places)[at_B])
    rest_BV, moved_B = _rest(p_BJV[at_B], own_at_B, drafts, drafts_B, standing_B)
    last_B, lower_B, upper_B = stretch(rest_BV, draw_BJ[at_B])
    last_tie_B = draw_ties(lower_B, upper_B, draw_BJ[at_B], moved_B, torch.zeros_like(moved_B))
    if p.unsure_BV is not None:
        unsure_BJV = p.unsure_BV.view_as(p_BJV)
        tie_BD = tie_BD | unsure_BJV[:, :-1].gather(2, ids_BD1).squeeze(2)
        last_tie_B = last_tie_B | unsure_BJV[at_B].gather(1, last_B[:, None]).squeeze(1)
    tie_BD = tie_BD & _judged(tie_BD.shape[1], drafts_B)
    tie_BJ = torch.cat([tie_BD, torch.zeros_like(tie_BD[:, :1])], dim=1)
    # A draft that was refused stands at its place no longer, but its ties count: it might have been another, or stand.
    tie_BJ[at_B] |= last_tie_B
    tokens_BJ = torch.cat([drafts.ids_BD, last_B[:, None]], dim=1)
    tokens_BJ[at_B] = last_B
    return Outcome(tokens_BJ, tie_BJ | p.frozen_tie_B.view_as(tie_BJ), standing_B)


class _Inexact(NamedTuple):
    """As of Odds; where there is a first dimension of 2, of p and of q."""

    slack: Tensor
    astray: Tensor


def _rest(p_BV: Tensor, own_at_B: _Inexact, drafts: Drawn, drafts_B: Tensor, standing_B: Tensor,
          ) -> tuple[Tensor, Tensor]:
    """What the last token is drawn from, and how much of it rounding can move elsewhere."""
    last_draft = drafts.ids_BD.shape[1] - 1
    at_B = torch.arange(len(p_BV), device=p_BV.device), standing_B.clamp(max=last_draft)
    q_BV = drafts.q_BDV[at_B]
    p_moved_B, q_moved_B = _moved(torch.stack([p_BV.amax(dim=-1), q_BV.amax(dim=-1)]),
                                  _Inexact(torch.stack([own_at_B.slack, drafts.slack_BD[at_B]]),
                                           torch.stack([own_at_B.astray, drafts.astray_BD[at_B]])))
    more_BV = (p_BV - q_BV).clamp(min=0.0)
    size_B = more_BV.sum(dim=-1)
    # Where p and q are equal but for rounding, nothing is left to draw from: as if there had been no draft.
    refused_B = (standing_B < drafts_B) & (size_B > 0.0)
    moved_B = torch.where(refused_B, 2.0 * (p_moved_B + q_moved_B) / size_B, p_moved_B)
    return torch.where(refused_B[:, None], more_BV, p_BV), moved_B


def _moved(best: Tensor, inexact: _Inexact) -> Tensor:
    """How much probability rounding can take from some tokens and give to others, where the best has `best`."""
    _, others_at_most = around((1.0 - best).clamp(min=0.0), inexact.slack)
    return (torch.minimum(torch.tanh(inexact.slack / 4), others_at_most)
            + inexact.astray / (1.0 - inexact.astray.clamp(max=0.5)))


def _accept_ties(p_BD: Tensor, q_BD: Tensor, inexact_2BD: _Inexact, accept_BD: Tensor) -> Tensor:
    """The number that decides lies where rounding can move the border, p(x) / q(x)."""
    low_2BD, high_2BD = around(torch.stack([p_BD, q_BD]), inexact_2BD.slack)
    scale_2BD = 1.0 - inexact_2BD.astray.clamp(max=0.5)
    (p_low_BD, q_low_BD), (p_high_BD, q_high_BD) = low_2BD * scale_2BD, high_2BD / scale_2BD
    return (accept_BD * q_high_BD >= p_low_BD) & (accept_BD * q_low_BD < p_high_BD)


def _run_of(good_BD: Tensor, drafts_B: Tensor) -> Tensor:
    """How many come before the first that is not good or not to be judged."""
    return (good_BD & _judged(good_BD.shape[1], drafts_B)).long().cumprod(dim=1).sum(dim=1)


def _judged(places: int, drafts_B: Tensor) -> Tensor:
    return torch.arange(places, device=drafts_B.device) < drafts_B[:, None]
