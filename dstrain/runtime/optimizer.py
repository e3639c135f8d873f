"""The optimizer over a model's parameters: its groups, and at ZeRO stage 0 a guard that DeepSpeed lacks."""

from __future__ import annotations

import math
import re
from typing import Any, Iterable

import torch
import torch.distributed as torch_dist

from dstrain.config.schema import Optim
from dstrain.runtime.fragments import share
from dstrain.runtime.muon import Muon


def build_optimizer(model: Any, named: Iterable[tuple[str, torch.nn.Parameter]], optim: Optim,
                    guarded: bool, expert_group: Any = None) -> torch.optim.Optimizer:
    """AdamW, or Muon and AdamW, over parameters under the model's own names; `guarded` where DeepSpeed itself neither
    clips nor skips. `expert_group`: of the ranks that share out experts, if any do."""
    groups = _groups(model, named, optim)
    # Fused: one pass over weights, gradients and moments. torch refuses devices that cannot; nothing falls back.
    settings: dict[str, Any] = {"betas": tuple(optim.betas), "eps": optim.eps, "fused": True}
    plain, with_guard = (Muon, GuardedMuon) if optim.name == "muon" else (torch.optim.AdamW, GuardedAdamW)
    return with_guard(groups, optim.clip, expert_group, **settings) if guarded else plain(groups, **settings)


def _groups(model: Any, named: Iterable[tuple[str, torch.nn.Parameter]], optim: Optim) -> list[dict]:
    """AdamW's with and without weight decay, then Muon's, then AdamW's of experts that are shared out among ranks, with
    and without; "peak_lr" is what the schedule takes its share of."""
    hidden = hidden_matrices(model, optim)
    adamw = {"rule": "adamw", "lr": optim.lr, "peak_lr": optim.lr}
    muon_lr = optim.lr if optim.muon_lr is None else optim.muon_lr
    decayed, not_decayed = {**adamw, "weight_decay": optim.weight_decay}, {**adamw, "weight_decay": 0.0}
    apart = {"moe": True}  # DeepSpeed's word; the group's "name" is its word, too
    groups = [decayed, not_decayed,
              {"rule": "muon", "lr": muon_lr, "peak_lr": muon_lr, "weight_decay": optim.weight_decay,
               "momentum": optim.muon_momentum},
              {**decayed, **apart}, {**not_decayed, **apart}]
    for group in groups:
        group.update(params=[], names=[])
    for name, parameter in named:
        if parameter.requires_grad:
            plain = 1 if model.no_decay(name) else 0
            group = groups[3 + plain if _is_apart(parameter) else 2 if name in hidden else plain]
            if _is_apart(parameter):
                group["name"] = parameter.group_name
            group["params"].append(parameter)
            group["names"].append(name)
    missing = hidden.keys() - set(groups[2]["names"])
    if missing:
        raise ValueError(f"the model's hidden_matrices() names {', '.join(sorted(missing))}, but it has no such "
                         "parameters; correct the names")
    return [group for group in groups if group["params"]]


def _is_apart(parameter: torch.nn.Parameter) -> bool:
    """Whether other ranks hold other parts of it, each with its own gradient."""
    return share(parameter) != (0, 1)


def hidden_matrices(model: Any, optim: Optim) -> dict[str, int]:
    """Muon's parameters by name, and how many matrices each is made of; none for AdamW."""
    return model.hidden_matrices() if optim.name == "muon" else {}


def summary(model: Any, optim: Optim, shapes: dict[str, tuple[int, ...]], frozen: int = 0) -> str:
    """Which rule updates what, for the first screen of a run: of Muon's parameters the names, with * for numbers.
    `shapes`: of all that are trained; `frozen`: how many are not."""
    hidden = hidden_matrices(model, optim)
    adamw = f"AdamW, lr {optim.lr:g}, weight decay {optim.weight_decay:g}"
    if not hidden:
        trained = sum(map(math.prod, shapes.values()))
        return adamw + (f", for {trained:,} parameters (the other {frozen:,} stay as they are)" if frozen else "")
    inside = sum(math.prod(shapes[name]) for name in hidden)
    others = sum(map(math.prod, shapes.values())) - inside
    names = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) + (f" (as {count})" if count > 1 else "")
                          for name, count in hidden.items())
    return (f"Muon, lr {optim.lr if optim.muon_lr is None else optim.muon_lr:g}, for {sum(hidden.values())} matrices "
            f"of {inside:,} parameters: {', '.join(names)}; {adamw}, for the other {others:,}")


class Guarded:
    """Clips by the global norm, and leaves everything as it was when the norm is NaN or Inf.

    DeepSpeed's stages 1 to 3 do this themselves; its stage 0 would apply the NaN. The gradients are the same on all
    ranks here, those of experts that live apart are added up, so all ranks decide alike.
    """

    def __init__(self, groups: list[dict], clip: float, expert_group: Any, **settings):
        super().__init__(groups, **settings)
        self.clip, self.expert_group = clip, expert_group
        self.grad_norm: torch.Tensor | None = None
        self.overflow = False  # the name under which DeepSpeed's engine looks for it: a skipped step then counts as one

    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.grad_norm = self._global_norm(parameters)
        self.overflow = not bool(torch.isfinite(self.grad_norm))  # the one wait for the device in a step
        if self.overflow:
            return None
        if self.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, self.grad_norm)
        return super().step(closure)

    def _global_norm(self, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if not _is_apart(p)])
        if self.expert_group is None:
            return norm
        squared = torch.nn.utils.get_total_norm([p.grad for p in parameters if _is_apart(p)]).square()
        torch_dist.all_reduce(squared, group=self.expert_group)
        return (norm.square() + squared).sqrt()


class GuardedAdamW(Guarded, torch.optim.AdamW):
    """AdamW at stage 0."""


class GuardedMuon(Guarded, Muon):
    """Muon with AdamW at stage 0."""
