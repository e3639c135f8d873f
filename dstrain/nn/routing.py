"""Which experts a token goes to, and what keeps experts equally busy.

Shapes: B rows, T positions, N real tokens of all rows, C channels, E experts, K of them that each token is sent to.

Only real tokens are routed: padding stands in no count, no mean and no balance. A token chooses its experts by itself
(never experts their tokens: that would look at the future).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Real(NamedTuple):
    """Which of a batch's positions hold a token."""

    places_N: Tensor | None
    """in the flattened batch, in their order; None: all of them do"""
    rows: int
    length: int
    counted: bool
    """whether what the routing adds up to is wanted: generation has no use for it"""

    @classmethod
    def where(cls, is_real_BT: Tensor, counted: bool = True) -> "Real":
        places_N = is_real_BT.flatten().nonzero().squeeze(1)
        return cls(None if len(places_N) == is_real_BT.numel() else places_N, *is_real_BT.shape, counted)

    def taken(self, x_BTC: Tensor) -> Tensor:
        flat = x_BTC.flatten(0, 1)
        return flat if self.places_N is None else flat[self.places_N]

    def put_back(self, x_NC: Tensor) -> Tensor:
        """[B, T, C], zeros elsewhere."""
        if self.places_N is not None:
            x_NC = x_NC.new_zeros(self.rows * self.length, x_NC.shape[1]).index_copy(0, self.places_N, x_NC)
        return x_NC.view(self.rows, self.length, -1)


class Routed(NamedTuple):
    """What a layer's routing of a batch adds up to; the first two are terms of the loss law, and have gradients."""

    balance: Tensor
    """float64: sum over rows of E / K * sum over experts of (share of the row's choices * mean probability): 1 a row
    where both are even"""
    router_z: Tensor
    """float64: sum over tokens of (log of the sum of exp of the router's logits) squared"""
    seen_X: Tensor
    """float64 [E + 2]: how often each expert was given a token; how many tokens there were; the sum of their
    distributions' entropies in nats"""


class Router(nn.Module):
    """Scores in fp32 (fp64 in a double model) whatever the model computes in: near ties decide where a token goes."""

    def __init__(self, width: int, experts: int, top_k: int, bias_speed: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, width))
        self.top_k, self.bias_speed = top_k, bias_speed
        # A count of steps up less steps down: exact in any precision, where a bias in bf16 would not move at all.
        self.register_buffer("nudges", torch.zeros(experts, dtype=torch.int64))

    def forward(self, x_NC: Tensor, real: Real) -> tuple[Tensor, Tensor, Routed | None]:
        """(experts [N, K], their weights [N, K] in fp32, what it adds up to)."""
        exact = torch.float64 if x_NC.dtype == torch.float64 else torch.float32
        logits_NE = F.linear(x_NC.to(exact), self.weight.to(exact))
        probs_NE = logits_NE.softmax(dim=-1)
        chosen_NK = (probs_NE.detach() + self.bias_E(exact)).topk(self.top_k, dim=-1).indices
        # Of the chosen logits alone, not by a quotient: where a bias sends a token to experts of probability 0 as well.
        # One alone would always be 1, and nothing would tell the router where to send a token.
        gates_NK = logits_NE.gather(1, chosen_NK).softmax(dim=-1) if self.top_k > 1 else probs_NE.gather(1, chosen_NK)
        routed = self._added_up(logits_NE, probs_NE, chosen_NK, real) if real.counted else None
        return chosen_NK, gates_NK, routed

    def bias_E(self, dtype: torch.dtype) -> Tensor:
        """Added to the probabilities where experts are chosen, and nowhere else: it has no gradient."""
        return self.bias_speed * self.nudges.to(dtype)

    @torch.no_grad()
    def balance_after_step(self, counts_E: Tensor) -> None:
        """One nudge for each expert, up where it got less than its share of the whole step's tokens."""
        self.nudges += (counts_E.sum() - counts_E * len(counts_E)).sign().to(torch.int64)

    def _added_up(self, logits_NE: Tensor, probs_NE: Tensor, chosen_NK: Tensor, real: Real) -> Routed:
        experts = probs_NE.shape[1]
        chosen_NE = torch.zeros_like(probs_NE).scatter(1, chosen_NK, 1.0)
        by_row = [real.put_back(values_NE).sum(dim=1, dtype=torch.float64) for values_NE in (chosen_NE, probs_NE)]
        tokens_B1 = real.put_back(torch.ones_like(probs_NE[:, :1])).sum(dim=1, dtype=torch.float64).clamp(min=1)
        balance = (by_row[0] * by_row[1] / tokens_B1 ** 2).sum() * (experts / self.top_k)
        router_z = logits_NE.logsumexp(dim=-1).square().sum(dtype=torch.float64)
        with torch.no_grad():
            entropy = -(probs_NE * probs_NE.clamp(min=1e-30).log()).sum(dtype=torch.float64)
            tokens = torch.tensor(len(probs_NE), dtype=torch.float64, device=probs_NE.device)
            seen_X = torch.cat([chosen_NE.sum(dim=0, dtype=torch.float64), torch.stack([tokens, entropy])])
        return Routed(balance, router_z, seen_X)
