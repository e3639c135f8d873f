"""AdamW over a model's parameters: decay on matrices only, and at ZeRO stage 0 a guard that DeepSpeed lacks."""

from __future__ import annotations

from typing import Callable

import torch

from dstrain.config.schema import Optim


def build_optimizer(module: torch.nn.Module, no_decay: Callable[[str], bool], optim: Optim,
                    guarded: bool) -> torch.optim.AdamW:
    """AdamW in two groups, with and without weight decay; `guarded` where DeepSpeed itself neither clips nor skips."""
    decayed, spared = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (spared if no_decay(name) else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    settings = {"lr": optim.lr, "betas": tuple(optim.betas), "eps": optim.eps, "fused": True}
    return GuardedAdamW(groups, clip=optim.clip, **settings) if guarded else torch.optim.AdamW(groups, **settings)


class GuardedAdamW(torch.optim.AdamW):
    """Clips by the global norm, and leaves everything as it was when the norm is NaN or Inf.

    DeepSpeed's stages 1 to 3 do this themselves; its stage 0 would apply the NaN. The gradients are the same on all
    ranks here, so all ranks decide alike.
    """

    def __init__(self, groups: list[dict], clip: float, **settings):
        super().__init__(groups, **settings)
        self.clip = clip
        self.grad_norm: torch.Tensor | None = None
        self.overflow = False  # the name under which DeepSpeed's engine looks for it: a skipped step then counts as one

    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.grad_norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        self.overflow = not bool(torch.isfinite(self.grad_norm))  # the one wait for the device in a step
        if self.overflow:
            return None
        if self.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, self.grad_norm)
        return super().step(closure)
