"""The sections of a recipe that the family `moe` has otherwise than `lm`, each field with its meaning."""

from __future__ import annotations

from dataclasses import dataclass

from dstrain.config.limits import bounded

HEAD_WEIGHTS = (1.0, 0.5, 0.3, 0.2)
"""of prediction heads, unless a recipe says others"""


@dataclass(frozen=True, kw_only=True)
class MoeModel:
    """A decoder-only Transformer with routed experts and several prediction heads: RMSNorm, SwiGLU, no biases. A preset
    fills the sizes; what is set beside it wins."""

    preset: str | None = bounded(None, choices=("tiny", "small", "medium"))
    """tiny: 4 layers of width 256, 8 experts; small: 6 of 512, 16 experts; medium: 12 of 768, 32 experts"""
    width: int | None = bounded(None, low=2)
    """channels of the residual stream"""
    heads: int | None = bounded(None, low=1)
    """attention heads; divides width"""
    layers: int | None = bounded(None, low=1)
    """decoder blocks"""
    ff: int | None = bounded(None, low=1)
    """channels inside the feed-forward where there are no experts: of the other layers, and of the further heads"""
    experts: int | None = bounded(None, low=2, high=4096)
    """routed experts of a layer"""
    top_k: int = bounded(2, low=1)
    """experts that each token is sent to; their outputs are weighted by the router's probabilities, scaled to sum 1 (of
    1 it is the probability itself)"""
    expert_ff: int | None = bounded(None, low=1)
    """channels inside each expert"""
    shared_experts: int = bounded(0, low=0, high=64)
    """experts that see every token, beside the routed ones"""
    every: int = bounded(1, low=1)
    """every n-th layer has experts (the last of each n), the others a feed-forward; 1: all layers"""
    next_tokens: int = bounded(4, low=1, high=16)
    """prediction heads: of the next token, the one after it, and so on"""
    further: str = bounded("parallel", choices=("parallel", "sequential"))
    """the heads beyond the first: `parallel`, a feed-forward each on the last layer's output; `sequential`, a block
    each on the output of the head before and the token that it predicts, as in DeepSeek-V3"""
    positions: str = bounded("rotary", choices=("rotary", "learned", "sinusoidal"))
    """how a token knows its place; counted from the start of its document"""
    dropout: float = bounded(0.0, low=0.0, below=1.0)
    """share of channels dropped after the embedding and after each attention and feed-forward of a block, when
    training"""
    checkpoint_activations: bool = False
    """recompute each block's activations in the backward pass: less memory, about a third more time"""
    upcycle: str | None = None
    """a trained `lm` (run folder or checkpoint; block swiglu, same sizes, expert_ff = its ff) that a new run starts
    from: every expert begins as a copy of its feed-forward. Default: from scratch"""
    code: str | None = None
    """FILE.py:CLASS, a model class of one's own in the place of the family's: called with the same settings and sizes,
    and by the same keywords. The file is relative to the working directory, and kept with each checkpoint"""


@dataclass(frozen=True, kw_only=True)
class MoeObjective:
    weights: tuple[float, ...] | None = None
    """of each prediction head, the next token's first; scaled to sum 1. Default: as many as there are heads of 1, 0.5,
    0.3, 0.2"""
    begins: tuple[int, ...] | None = None
    """of each head the step with which its weight comes in, the first at 1, such as [1, 500, 1000, 1500]; up to there
    the others share its weight. A head that rests gets no gradient, and weight decay makes it smaller. Default: all
    from the first step"""
    final_weights: tuple[float, ...] | None = None
    """what the weights have become at the run's last step, moving in a line; scaled to sum 1. Validations are scored by
    these at every step. Default: they stay"""
    balance: str = bounded("both", choices=("both", "bias", "loss", "none"))
    """what keeps experts equally busy: `bias`, added to the router's scores where experts are chosen, and moved after
    each step towards those that had too few tokens; `loss`, a term for each row; both; or none"""
    bias_speed: float = bounded(1.0e-3, above=0.0)
    """of the bias: how far it moves in a step"""
    balance_weight: float = bounded(1.0e-3, low=0.0)
    """of the balance term, which is 1 where a row's tokens are spread evenly"""
    z_weight: float = bounded(1.0e-4, low=0.0)
    """of the router's z-term, the square of the log of the sum of exp of its logits: it keeps them small"""

    @property
    def has_bias(self) -> bool:
        return self.balance in ("both", "bias")

    @property
    def has_balance_term(self) -> bool:
        return self.balance in ("both", "loss")
