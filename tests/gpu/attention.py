"""Each backend of scaled_dot_product_attention, with the masks that packed documents have, against float64."""

from __future__ import annotations

import time
import warnings
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from frame import Here, Outcome, judge
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dstrain.nn.masks import can_attend_BTT

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
            "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}
OUTPUT = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
GRADIENT = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""norm of the difference over the norm of the reference"""
SHAPES = {"tiny": (16, 4, 256, 64), "medium": (4, 12, 1024, 64)}
"""B rows, H heads, T positions, D channels of a head"""
SMALL_SHAPES = {"tiny": (2, 2, 64, 16)}
TIMES = 20


def show(here: Here) -> Outcome:
    figures, holds = {}, {}
    for name, shape in (SMALL_SHAPES if here.rehearsing else SHAPES).items():
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            chosen = _one_shape(here, f"{name}, {str(dtype)[6:]}", shape, dtype, figures, holds)
            here.note(figures)
            if not here.rehearsing and dtype != torch.float32:
                holds[f"{name}: torch chooses {chosen} by itself, which holds all scores"] = chosen != "math"
    return judge(here, holds, figures, "norm of the difference over the reference's norm: outputs 1e-5 (fp32), 1e-2 "
                 "(bf16), 2e-3 (fp16), gradients 1e-5, 2e-2, 4e-3; a fused backend chosen by itself for 16 bits")


def _one_shape(here: Here, where: str, shape: tuple, dtype: torch.dtype, figures: dict, holds: dict) -> str:
    """Fills in what is found; returns the backend that torch chooses by itself."""
    rows, heads, length, width = shape
    q_BTHD, k_BTHD, v_BTHD, grad_BTHD = (torch.randn(rows, length, heads, width, device=here.device,
                                                     generator=_generator(here, seed)).to(dtype) for seed in range(4))
    can_attend_B1TT = can_attend_BTT(_segments(here, rows, length)).unsqueeze(1)
    inputs = q_BTHD, k_BTHD, v_BTHD, can_attend_B1TT, grad_BTHD
    expected = _attention(*(x.double() if x.is_floating_point() else x for x in inputs), SDPBackend.MATH)
    default = _attention(*inputs, None)
    found = figures[where] = {"default": _differences(default, expected)}
    holds |= _judged(where, "default", found["default"], dtype)
    same_as_default = []
    for name, backend in BACKENDS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answers = _attention(*inputs, backend)
        except RuntimeError as refusal:
            found[name] = f"refuses: {_reason(inputs, backend) or str(refusal).splitlines()[0]}"
            continue
        found[name] = {**_differences(answers, expected), "forward_and_backward_ms": _ms(here, inputs, backend)}
        holds |= _judged(where, name, found[name], dtype)
        if all(torch.equal(a, b) for a, b in zip(answers, default)):
            same_as_default.append(name)
    found["default"]["forward_and_backward_ms"] = _ms(here, inputs, None)
    found["default_is"] = _fused_choice(inputs)
    found["default_gives_the_bits_of"] = same_as_default
    found["causal_without_documents_ms"] = _ms(here, (*inputs[:3], None, grad_BTHD), None)
    return found["default_is"]


def _attention(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor, can_attend_B1TT: Tensor | None, grad_BTHD: Tensor,
               backend: SDPBackend | None) -> tuple[Tensor, ...]:
    """Output and gradients, in the layout that nn/attention.py hands over; causal without a mask."""
    leaves = [x.detach().requires_grad_() for x in (q_BTHD, k_BTHD, v_BTHD)]
    with nullcontext() if backend is None else sdpa_kernel([backend]):
        out_BHTD = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in leaves), attn_mask=can_attend_B1TT,
                                                  is_causal=can_attend_B1TT is None)
        out_BTHD = out_BHTD.transpose(1, 2)
        return out_BTHD.detach(), *torch.autograd.grad(out_BTHD, leaves, grad_BTHD)


def _differences(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> dict[str, float]:
    off = [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
    return {"output": off[0], "gradient": max(off[1:]) if all(map(torch.isfinite, map(torch.tensor, off))) else
            float("inf")}


def _judged(where: str, name: str, found: dict, dtype: torch.dtype) -> dict[str, bool]:
    return {f"{where}, {name}: output {found['output']:.1e}": found["output"] <= OUTPUT[dtype],
            f"{where}, {name}: gradient {found['gradient']:.1e}": found["gradient"] <= GRADIENT[dtype]}


def _ms(here: Here, inputs: tuple, backend: SDPBackend | None) -> float:
    times = 2 if here.rehearsing else TIMES
    _attention(*inputs, backend)
    here.wait()
    began = time.perf_counter()
    for _ in range(times):
        _attention(*inputs, backend)
    here.wait()
    return 1000 * (time.perf_counter() - began) / times


def _fused_choice(inputs: tuple) -> str:
    q, k, v = (x.transpose(1, 2).detach().requires_grad_() for x in inputs[:3])
    number = torch._fused_sdp_choice(q, k, v, attn_mask=inputs[3])
    return next((name for name, backend in BACKENDS.items() if backend.value == number), str(number))


def _reason(inputs: tuple, backend: SDPBackend) -> str:
    """What torch says in its warnings about why this backend cannot do it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            _attention(*inputs, backend)
        except RuntimeError:
            pass
    reasons = [str(warning.message).split(" (Triggered")[0] for warning in said]
    return "; ".join(reason for reason in reasons if "kernel not used because" not in reason)[:300]


def _segments(here: Here, rows: int, length: int) -> Tensor:
    """Three documents a row, of lengths that differ from row to row, and some padding in every second row."""
    slots_T, b_B1 = torch.arange(length, device=here.device), torch.arange(rows, device=here.device).unsqueeze(1)
    first_B1, second_B1 = length // 5 + 3 * b_B1, length // 2 + 5 * b_B1
    segments_BT = (slots_T >= first_B1).long() + (slots_T >= second_B1).long()
    return torch.where((slots_T >= length - 7) & (b_B1 % 2 == 1), -1, segments_BT)


def _generator(here: Here, seed: int) -> torch.Generator:
    return torch.Generator(device=here.device).manual_seed(seed)
