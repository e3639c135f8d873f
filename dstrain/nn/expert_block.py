"""A decoder block whose feed-forward is a layer of routed experts, with shared ones beside them where asked for.

Shapes: B rows, T positions, S positions that may be attended, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from dstrain.nn.cache import LayerMemory
from dstrain.nn.experts import Experts
from dstrain.nn.layers import Block, SwigluFeedForward
from dstrain.nn.positions import Turns
from dstrain.nn.routing import Real, Routed, Router


class RoutedFeedForward(nn.Module):
    MATRICES: dict[str, int] = {}
    """none for Muon: the experts' weights are three-dimensional, and the router's rows no matrix to be balanced"""

    def __init__(self, width: int, experts: int, top_k: int, ff: int, shared: int, bias_speed: float) -> None:
        super().__init__()
        self.router = Router(width, experts, top_k, bias_speed)
        self.experts = Experts(width, experts, ff)
        self.shared = SwigluFeedForward(width, shared * ff) if shared else None

    def forward(self, x_BTC: Tensor, real: Real) -> tuple[Tensor, Routed | None]:
        """What stands in padding comes out as zeros: it is sent to no expert."""
        x_NC = real.taken(x_BTC)
        chosen_NK, gates_NK, routed = self.router(x_NC, real)
        y_NC = self.experts(x_NC, chosen_NK, gates_NK)
        if self.shared is not None:
            y_NC = y_NC + self.shared(x_NC)
        return real.put_back(y_NC), routed


class ExpertBlock(Block):
    """x + attention(norm(x)), then x + experts(norm(x))."""

    PARTS = ("attention",)

    def __init__(self, width: int, heads: int, dropout: float, ff: RoutedFeedForward) -> None:
        super().__init__("swiglu", width, heads, ff, dropout)

    def forward(self, x_BTC: Tensor, can_attend_B1TS: Tensor, turns: Turns | None, keys_B: Tensor | None,
                slots_T: Tensor | None, memory: LayerMemory | None, real: Real) -> tuple[Tensor, Routed | None]:
        x_BTC = self.attended(x_BTC, can_attend_B1TS, turns, keys_B, slots_T, memory)
        y_BTC, routed = self.ff(self.ff_norm(x_BTC), real)
        return x_BTC + self.ff_dropout(y_BTC, keys_B, slots_T), routed
