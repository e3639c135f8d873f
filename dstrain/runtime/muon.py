"""Muon for the matrices inside the blocks, AdamW for all other parameters, as one optimizer that DeepSpeed can wrap.

Muon's update of a matrix is its momentum with all singular values brought near 1 (Newton-Schulz), which needs the whole
matrix where ZeRO gives each rank only a part. DeepSpeed's own Muon orthogonalizes before it clips, so that the clipping
acts on the update instead of the gradient, and chooses its parameters by parts of their names. Here it comes
where every optimizer does: the gradient that arrives is summed, unscaled and clipped already, and steps that DeepSpeed
skips never come. Each matrix is put together on one rank at a time; no rank ever holds the whole model.
"""

from __future__ import annotations

from typing import Sequence

import torch
import torch.distributed as torch_dist

from dstrain.runtime.dist import Ranks
from dstrain.runtime.matrices import Matrix, Turn, turns

ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)
"""of x -> a x + b x^3 + c x^5 on each singular value: steep at 0, so that 5 iterations bring all but the smallest into
0.7 .. 1.2 (Jordan et al., 2024)"""
ADAMW_RMS = 0.2
"""root mean square of AdamW's usual updates; Muon's are scaled to it, so that one learning rate serves both (Liu et
al., 2025)"""
SMALLEST = 1e-30


class Muon(torch.optim.Optimizer):
    """Groups say by "rule" whether they are "muon" (with "momentum") or "adamw"; `of_adamw`: AdamW's settings."""

    def __init__(self, groups: Sequence[dict], **of_adamw):
        self.adamw = torch.optim.AdamW([group for group in groups if group["rule"] == "adamw"], **of_adamw)
        super().__init__(self.adamw.param_groups + [group for group in groups if group["rule"] == "muon"], defaults={})
        self.adamw.state = self.state

    def lay_out(self, matrices: Sequence[Matrix], flats: Sequence[torch.Tensor], ranks: Ranks,
                replicated: bool) -> None:
        """Where the matrices are in the flat tensors; `replicated`: every rank has them whole (ZeRO stage 0)."""
        self._matrices, self._ranks, self._replicated = matrices, ranks, replicated
        self._unit_of = {id(flat): number for number, flat in enumerate(flats)}
        self._plans: dict[frozenset[int], list[Turn]] = {}

    @torch.no_grad()
    def step(self, closure=None) -> None:
        # DeepSpeed shows its groups one at a time, or empties the others: what is there now is what is meant.
        self.adamw.param_groups = [group for group in self.param_groups if group["rule"] == "adamw"]
        self.adamw.step()
        for group in self.param_groups:
            if group["rule"] == "muon":
                self._update(group)

    def _update(self, group: dict) -> None:
        flats = [flat for flat in group["params"] if flat.grad is not None]
        for flat in flats:
            self.state[flat]["momentum"].lerp_(flat.grad, 1.0 - group["momentum"])
            flat.mul_(1.0 - group["lr"] * group["weight_decay"])
        for turn in self._plan(flats):
            for matrix, part in zip(turn, self._parts_of_updates(turn, group["momentum"])):
                if part is not None:
                    own = matrix.of(matrix.flat)
                    own.sub_(part.to(own.device), alpha=group["lr"])

    def _plan(self, flats: list[torch.Tensor]) -> list[Turn]:
        """The turns for the matrices in these flat tensors: the same on all ranks, which hold the same ones."""
        units = frozenset(self._unit_of[id(flat)] for flat in flats)
        if units not in self._plans:
            matrices = [matrix for matrix in self._matrices if matrix.unit in units]
            self._plans[units] = turns(matrices, self._ranks.world)
        return self._plans[units]

    def _parts_of_updates(self, turn: Turn, momentum: float) -> list[torch.Tensor | None]:
        """This rank's part of the update of each matrix in the turn; None where it holds nothing."""
        own = turn[self._ranks.rank]
        if self._replicated:
            update = None if own is None else scaled_update(own, self._direction(own, momentum))
            return [self._sent(update, matrix, owner) for owner, matrix in enumerate(turn)]
        held = [0 if matrix is None else matrix.size for matrix in turn]
        sizes = (0,) * len(turn) if own is None else own.sizes
        directions = [self._direction(matrix, momentum) for matrix in turn if matrix is not None and matrix.size]
        joined = torch.cat(directions) if directions else torch.empty(0, device=self._ranks.device)
        at_home = all(matrix is None or matrix.sizes[owner] == matrix.elements for owner, matrix in enumerate(turn))
        whole = joined if at_home else _exchanged(joined, held, sizes)
        update = whole if own is None else scaled_update(own, whole)
        parts = update if at_home else _exchanged(update, sizes, held)
        return [part if part.numel() else None for part in parts.split(held)]

    def _direction(self, matrix: Matrix, momentum: float) -> torch.Tensor:
        """This rank's part of Nesterov's momentum, on the training device even where the optimizer is offloaded."""
        average = matrix.of(self.state[matrix.flat]["momentum"])
        return matrix.of(matrix.flat.grad).lerp(average, momentum).to(self._ranks.device)

    def _sent(self, update: torch.Tensor | None, matrix: Matrix | None, owner: int) -> torch.Tensor | None:
        """Every rank's copy of what the owner made of it, and not what each made itself: copies stay equal to the
        bit, whatever the ranks' devices."""
        if matrix is None or self._ranks.world == 1:
            return update if matrix is not None else None
        if owner != self._ranks.rank:
            update = torch.empty(matrix.elements, device=self._ranks.device)
        torch_dist.broadcast(update, src=owner)
        return update


def scaled_update(matrix: Matrix, direction: torch.Tensor) -> torch.Tensor:
    """The update of a whole matrix for a learning rate of 1, flattened."""
    update = orthogonal(direction.view(matrix.rows, matrix.cols))
    return update.mul_(ADAMW_RMS * max(matrix.rows, matrix.cols) ** 0.5).reshape(-1)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The same singular vectors with singular values near 1, whatever the matrix's size; 0 stays 0."""
    a, b, c = QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.abs().max().clamp(min=SMALLEST)  # first: the squares of very small or large ones are 0 or Inf
    wide = wide / wide.norm().clamp(min=SMALLEST)
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def _exchanged(tensor: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
    """`sent[r]` elements go to rank r, `received[r]` come from it."""
    result = torch.empty(sum(received), device=tensor.device)
    torch_dist.all_to_all_single(result, tensor, list(received), list(sent))
    return result
