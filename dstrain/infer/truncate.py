"""Top-k and top-p: which tokens stay in the draw, and of which ones that cannot be said within rounding.

Shapes: B rows, V vocabulary, M best tokens in descending order.

Equal tokens at a border: those with the smaller ids stay, so that exactly k stay, or the fewest that reach p.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_FEW, _MORE = 256, 16  # best tokens that are sorted first, and how many times as many next: cheaper than all at once


class Kept(NamedTuple):
    keep_BV: Tensor
    unsure_BV: Tensor
    """tokens that a change of the logits within rounding could have let in or out"""


def kept_by_top_k(logits_BV: Tensor, k: int, slack_B1: Tensor) -> Kept:
    """The k best. Differences of logits are exact to `slack_B1`."""
    vocabulary = logits_BV.shape[-1]
    if k >= vocabulary:
        return Kept(torch.ones_like(logits_BV, dtype=torch.bool), torch.zeros_like(logits_BV, dtype=torch.bool))
    best_BM = logits_BV.topk(k + 1, dim=-1).values
    last_B1 = torch.full_like(slack_B1, k - 1, dtype=torch.long)
    return Kept(_first(logits_BV, best_BM, last_B1), _unsure(logits_BV, best_BM, last_B1, last_B1, slack_B1))


def kept_by_top_p(logits_BV: Tensor, p_BV: Tensor, share: float, slack_B1: Tensor, temperature: float) -> Kept:
    """The fewest best tokens with `share` of the probability that is in p_BV, which need not add up to 1.

    Where a token is out already, its logit is minus infinity and its probability 0.
    """
    vocabulary, most = logits_BV.shape[-1], min(_FEW, logits_BV.shape[-1])
    shares = [torch.full_like(slack_B1, share), *around(torch.full_like(slack_B1, share), slack_B1 / temperature)]
    total_B1 = p_BV.sum(dim=-1, keepdim=True)
    while True:
        best_BM, ids_BM = logits_BV.topk(most, dim=-1)
        cumulated_BM = p_BV.gather(1, ids_BM).cumsum(dim=-1) / total_B1
        last_B1, earliest_B1, latest_B1 = ((cumulated_BM < bound_B1).sum(dim=-1, keepdim=True) for bound_B1 in shares)
        if most == vocabulary or int(latest_B1.max()) + 1 < most:
            break
        most = min(vocabulary, most * _MORE)
    last_B1, earliest_B1, latest_B1 = (place_B1.clamp(max=most - 1) for place_B1 in (last_B1, earliest_B1, latest_B1))
    return Kept(_first(logits_BV, best_BM, last_B1), _unsure(logits_BV, best_BM, earliest_B1, latest_B1, slack_B1))


def around(share_B1: Tensor, slack_B1: Tensor) -> tuple[Tensor, Tensor]:
    """Between what a share of probability can lie when logits, divided by the temperature, differ by up to the slack.

    A change of all logits inside the share against all outside multiplies its odds.
    """
    factor_B1 = slack_B1.clamp(max=50.0).exp()
    return (share_B1 / (share_B1 + (1.0 - share_B1) * factor_B1),
            share_B1 * factor_B1 / (share_B1 * factor_B1 + 1.0 - share_B1))


def _first(logits_BV: Tensor, best_BM: Tensor, last_B1: Tensor) -> Tensor:
    """The tokens up to place `last_B1` in descending order, equal ones by id."""
    border_B1 = best_BM.gather(1, last_B1)
    up_to_it_BV = logits_BV >= border_B1
    if bool((up_to_it_BV.sum(dim=-1, keepdim=True) == last_B1 + 1).all()):  # mostly: nothing equals the last one
        return up_to_it_BV
    above_BV, at_BV = logits_BV > border_B1, logits_BV == border_B1
    room_B1 = last_B1 + 1 - above_BV.sum(dim=-1, keepdim=True)
    return above_BV | (at_BV & (at_BV.cumsum(dim=-1) <= room_B1))


def _unsure(logits_BV: Tensor, best_BM: Tensor, earliest_B1: Tensor, latest_B1: Tensor, slack_B1: Tensor) -> Tensor:
    """The last place that stays lies between `earliest_B1` and `latest_B1`, and the order within the slack is open."""
    most = best_BM.shape[-1]
    nothing_B1 = torch.full_like(best_BM[:, :1], -torch.inf)
    behind_B1 = torch.cat([best_BM, nothing_B1], dim=-1).gather(1, (earliest_B1 + 1).clamp(max=most))
    surely_in_BV = logits_BV > behind_B1 + slack_B1
    surely_out_BV = logits_BV < best_BM.gather(1, latest_B1) - slack_B1
    return ~(surely_in_BV | surely_out_BV)
