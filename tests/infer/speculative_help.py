"""Small models with experts and further heads, untrained and trained, for the tests of speculative generation."""

from __future__ import annotations

from functools import cache

import torch

from dstrain.config.moe import MoeModel
from dstrain.models.moe_lm import MoeLm
from dstrain.nn.init import fill_initial

TEXT = "the quick brown fox jumps over the lazy dog, and the lazy dog sleeps. one two three four five six. "


def moe_model(further: str, next_tokens: int = 4, length: int = 48, vocab_size: int = 257,
              dtype: torch.dtype = torch.float64, scale: float = 4.0, **settings) -> MoeLm:
    """Untrained: its heads agree with its first one now and then."""
    sizes = {"width": 32, "heads": 2, "layers": 2, "ff": 48, "experts": 4, "top_k": 2, "expert_ff": 24}
    model = MoeLm(MoeModel(**sizes | settings, next_tokens=next_tokens, further=further), vocab_size, length, 0.001)
    fill_initial(model, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1.0)        # far from zero, not just copying
    return model.to(dtype)


@cache
def trained_model(further: str, steps: int = 70) -> MoeLm:
    """Knows a little text: most of its drafts stand, and not all."""
    model = moe_model(further, scale=1.0, dtype=torch.float32)
    ids = torch.tensor(list((TEXT * 3).encode()))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        rows = [ids[start:start + 40] for start in torch.arange(4) * 23 + step * 7 % 50]
        ids_BT = torch.cat([torch.full((4, 1), 256), torch.stack(rows)], dim=1)
        places_BT = torch.arange(ids_BT.shape[1]).expand_as(ids_BT)
        out = model(ids_BT=ids_BT, segments_BT=torch.zeros_like(ids_BT), positions_BT=places_BT, keys_B=None)
        loss = sum(torch.nn.functional.cross_entropy(model.logits(hidden_BTC[:, :-ahead]).flatten(0, 1),
                                                     ids_BT[:, ahead:].flatten())
                   for ahead, hidden_BTC in enumerate(out.heads, start=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.double()
