"""The chunked loss head on the device: its numbers against float64, and its speed by the size of a chunk."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from frame import Here, Outcome, judge
from torch import Tensor

from dstrain.nn.heads import summed_nll

BOUND = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""norm of a gradient's difference over its norm; the loss is held to a tenth of it, relative"""
POSITIONS, WIDTH, VOCABULARY = 16_384, 512, 50_257
CHECKED_POSITIONS = 1024
CHUNKS = (None, 1024, 4096, 16_384)
"""rows of a chunk; None: as the model runs"""
TIMES = 5


def show(here: Here) -> Outcome:
    positions, width, vocabulary = (128, 16, 300) if here.rehearsing else (POSITIONS, WIDTH, VOCABULARY)
    figures, holds = {"positions": positions, "width": width, "vocabulary": vocabulary}, {}
    for dtype, bound in BOUND.items():
        loss, gradient = _differences(*_inputs(here, min(positions, CHECKED_POSITIONS), width, vocabulary, dtype))
        figures[str(dtype)[6:]] = {"loss": loss, "gradient": gradient}
        holds |= {f"{dtype}: loss {loss:.1e}": loss <= bound / 10, f"{dtype}: gradient {gradient:.1e}":
                  gradient <= bound}
    inputs = _inputs(here, positions, width, vocabulary, torch.bfloat16)
    figures["ms_by_rows_of_a_chunk"] = {str(rows or "default"): _ms(here, lambda: _chunked(*inputs, rows))
                                        for rows in CHUNKS if (rows or 0) <= positions}
    figures["ms_with_whole_logits"] = _ms(here, lambda: _whole(*inputs))
    return judge(here, holds, figures, "gradients " + ", ".join(f"{bound:.0e} ({str(dtype)[6:]})" for dtype, bound in
                 BOUND.items()) + " of their norm, losses a tenth of that; speed is measured, not judged")


def _inputs(here: Here, positions: int, width: int, vocabulary: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Hidden states and weight as after some training, and labels of which a tenth is not scored."""
    chance = torch.Generator(device=here.device).manual_seed(1)
    hidden_ND, weight_VD = (torch.randn(rows, width, device=here.device, generator=chance).to(dtype).requires_grad_()
                            for rows in (positions, vocabulary))
    labels_N = torch.randint(vocabulary, (positions,), device=here.device, generator=chance)
    labels_N[::10] = -100
    return hidden_ND, (weight_VD.detach() * 0.1).requires_grad_(), labels_N


def _differences(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor) -> tuple[float, float]:
    """(of the loss, relative; of the worse gradient, over its norm)."""
    exact = [x.detach().double().requires_grad_() for x in (hidden_ND, weight_VD)]
    loss, *gradients = _chunked(hidden_ND, weight_VD, labels_N, None)
    expected, *exact_gradients = _whole(*exact, labels_N)
    off = [float((a.double() - b).norm() / b.norm()) for a, b in zip(gradients, exact_gradients, strict=True)]
    return abs(float(loss) / float(expected) - 1), max(off)


def _chunked(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, rows: int | None) -> tuple[Tensor, ...]:
    loss = summed_nll(hidden_ND.unsqueeze(0), weight_VD, labels_N.unsqueeze(0), rows)
    return loss.detach(), *torch.autograd.grad(loss, (hidden_ND, weight_VD))


def _whole(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor) -> tuple[Tensor, ...]:
    logits_NV = F.linear(hidden_ND, weight_VD)
    exact_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    loss = F.cross_entropy(exact_NV, labels_N, reduction="sum")
    return loss.detach(), *torch.autograd.grad(loss, (hidden_ND, weight_VD))


def _ms(here: Here, act) -> float:
    act()
    here.wait()
    began = time.perf_counter()
    for _ in range(TIMES):
        act()
    here.wait()
    return 1000 * (time.perf_counter() - began) / TIMES
