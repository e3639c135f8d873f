"""The yardstick: the plainest good PyTorch loop around the same model, without DeepSpeed and dstrain's runtime.

It has the same Trainee, weights, batches, micro-batches, loss law, clipping and fused AdamW in two groups, and reads
its losses as rarely. What differs between its variants is what a careful author would try to make it faster; the
fastest of them on the machine at hand is what dstrain is measured against.

For 16 bits there are two honest loops, and both are tried. `masters`: the weights that are computed with are 16-bit
copies of fp32 masters, to which gradients are added in fp32: the arithmetic, and the memory, of DeepSpeed's ZeRO.
`autocast`: fp32 weights, which torch.autocast rounds anew in every forward pass: what most bare loops do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from dstrain.config.schema import Recipe
from dstrain.data.collate import Batch
from dstrain.nn.chance import row_keys
from dstrain.objectives.loss_law import loss_law
from dstrain.objectives.next_token import NextToken


class BareLoop:
    """fp32, or autocast to `autocast`. `keeps_gradients`: their memory stays from step to step and is set to zero."""

    def __init__(self, trainee: nn.Module, recipe: Recipe, device: torch.device, keeps_gradients: bool,
                 autocast: torch.dtype | None = None):
        self.trainee, self.recipe, self.device = trainee, recipe, device
        self.keeps_gradients, self.autocast = keeps_gradients, autocast
        self.objective = NextToken(recipe.objective.weights)
        self.parameters = list(trainee.parameters())
        self.optimizer = fused_adamw(dict(trainee.named_parameters()), trainee.model.no_decay, recipe)
        self.losses = UnreadLosses(recipe)

    def step(self, number: int, batches: Sequence[Batch]) -> None:
        batches = [batch.to(self.device, non_blocking=True) for batch in batches]
        counts = torch.stack([self.objective.counts(batch) for batch in batches]).sum(dim=0)
        nll = torch.zeros(len(self.objective.terms), dtype=torch.float64, device=self.device)
        for batch in batches:
            nll += self.add_gradient(number, batch, counts)
        self.update()
        self.losses.add(nll, counts)

    def flush(self) -> list[float]:
        """All losses so far."""
        return self.losses.flush()

    def close(self) -> None:
        """Nothing outlives the loop itself."""

    def add_gradient(self, number: int, batch: Batch, counts: Tensor) -> Tensor:
        rounded = nullcontext() if self.autocast is None else torch.autocast(self.device.type, self.autocast)
        with rounded:
            sums = self.trainee(inputs=batch.inputs(), labels_BT=batch.labels_BT,
                                keys_B=row_keys(self.recipe.run.seed, number, batch.rows_B))
        loss_law(sums.nll, counts, self.recipe.objective.weights).backward()
        return sums.nll.detach()

    def update(self) -> None:
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self.keeps_gradients)


class MastersLoop(BareLoop):
    """16-bit weights, fp32 masters, gradients added up in fp32."""

    def __init__(self, trainee: nn.Module, recipe: Recipe, device: torch.device, keeps_gradients: bool,
                 dtype: torch.dtype = torch.bfloat16):
        self.masters = {name: p.detach().clone().requires_grad_() for name, p in trainee.named_parameters()}
        super().__init__(trainee.to(dtype), recipe, device, keeps_gradients)
        self.optimizer = fused_adamw(self.masters, trainee.model.no_decay, recipe)
        self.sums = [torch.zeros_like(master) for master in self.masters.values()]
        for master, total in zip(self.masters.values(), self.sums):
            master.grad = total
        self.is_first = True

    def add_gradient(self, number: int, batch: Batch, counts: Tensor) -> Tensor:
        nll = super().add_gradient(number, batch, counts)
        gradients = [parameter.grad for parameter in self.parameters]
        (torch._foreach_copy_ if self.is_first else torch._foreach_add_)(self.sums, gradients)
        self.is_first = False
        self.trainee.zero_grad(set_to_none=not self.keeps_gradients)
        return nll

    def update(self) -> None:
        nn.utils.clip_grad_norm_(self.masters.values(), self.recipe.optim.clip)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, list(self.masters.values()))
        self.is_first = True


class UnreadLosses:
    """Sums of nll that stay on the device until so many steps have gone by as dstrain waits for, too."""

    def __init__(self, recipe: Recipe):
        self.every, self.weights = recipe.log.every, recipe.objective.weights
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.read: list[float] = []

    def add(self, nll: Tensor, counts: Tensor) -> None:
        self.waiting.append((nll, counts))
        if len(self.waiting) == self.every:
            self.flush()

    def flush(self) -> list[float]:
        if self.waiting:
            nll = torch.stack([nll for nll, _ in self.waiting]).cpu()
            counts = torch.stack([counts for _, counts in self.waiting]).cpu()
            self.read += [float(loss_law(*both, self.weights)) for both in zip(nll, counts)]
            self.waiting = []
        return self.read


def fused_adamw(named: dict[str, Tensor], no_decay: Callable[[str], bool], recipe: Recipe) -> torch.optim.AdamW:
    optim = recipe.optim
    groups: dict[float, list[Tensor]] = {optim.weight_decay: [], 0.0: []}
    for name, parameter in named.items():
        groups[0.0 if no_decay(name.removeprefix("model.")) else optim.weight_decay].append(parameter)
    return torch.optim.AdamW([{"params": group, "weight_decay": decay} for decay, group in groups.items()],
                             lr=optim.lr, betas=tuple(optim.betas), eps=optim.eps, fused=True)


def bare_loops(build: Callable[[], nn.Module], recipe: Recipe, device: torch.device, precision: str
               ) -> dict[str, Callable[[], BareLoop]]:
    """By name what makes every variant; `build` makes a trainee at its initial weights, anew for each."""
    kinds: dict[str, Callable[[bool], BareLoop]] = {
        "fp32": {"bare": lambda keeps: BareLoop(build(), recipe, device, keeps)},
        "bf16": {"bare masters": lambda keeps: MastersLoop(build(), recipe, device, keeps),
                 "bare autocast": lambda keeps: BareLoop(build(), recipe, device, keeps, torch.bfloat16)}}[precision]
    return {f"{kind}, gradients {word}": partial(make, keeps)
            for kind, make in kinds.items() for word, keeps in (("freed", False), ("kept", True))}
