"""When a choice hangs on rounding: another batch shape may then choose another token, and that is counted.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dstrain.infer.truncate import around

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""relative differences that another batch shape can make in a logit"""

_CUMULATED = 1e-12  # what adding up a vocabulary of probabilities in float64 can make


def greedy_ties(logits_BV: Tensor, rounding: float) -> Tensor:
    """The two best logits are equal within rounding."""
    best_B2 = logits_BV.topk(2, dim=-1).values
    return best_B2[:, 0] - best_B2[:, 1] <= rounding * best_B2.abs().amax(dim=1).clamp(min=1.0)


def draw_ties(lower_B: Tensor, upper_B: Tensor, uniform_B: Tensor, astray_B: Tensor, slack_B: Tensor) -> Tensor:
    """The number that draws lies within rounding of an end of the chosen token's stretch, lower to upper, of [0, 1].

    `slack_B`: of the logits, divided by the temperature; `astray_B`: the probability of tokens that may be in the draw
    or out of it, which shifts the ends by no more than this.
    """
    shift_B = astray_B / (1.0 - astray_B.clamp(max=0.5)) + _CUMULATED
    _, lower_end_B = around((lower_B + shift_B).clamp(max=1.0), slack_B)
    upper_end_B, _ = around((upper_B - shift_B).clamp(min=0.0), slack_B)
    has_lower_B, has_upper_B = lower_B + astray_B > _CUMULATED, upper_B - astray_B < 1.0 - _CUMULATED
    return (has_lower_B & (uniform_B < lower_end_B)) | (has_upper_B & (uniform_B > upper_end_B))
