"""What this device reaches on nothing but matrix products and copies: the yardsticks of the speed checks."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from frame import Here, Outcome, judge

SIZE, SMALL_SIZE = 8192, 256
COPY_BYTES = 2**30


def show(here: Here) -> Outcome:
    figures = {"matrix_tflops": {name: matrix_flops(here, dtype) / 1e12
                                 for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16),
                                                     ("fp32", torch.float32))},
               "tf32_is_on_by_default": torch.backends.cuda.matmul.allow_tf32}
    here.note(figures)
    figures["copy_gb_per_s"] = _copies(here)
    holds = {f"{name}: {rate} TFLOP/s": rate > 0 for name, rate in figures["matrix_tflops"].items()}
    holds["tf32 is on: fp32 claims would be of another precision"] = not figures["tf32_is_on_by_default"]
    return judge(here, holds, figures, "measured, not judged; tf32 off", only_on_gpu=True)


def matrix_flops(here: Here, dtype: torch.dtype) -> float:
    """FLOP/s of a large product of random matrices."""
    size = SMALL_SIZE if here.rehearsing else SIZE
    a, b = (torch.randn(size, size, device=here.device).to(dtype) for _ in range(2))
    return 2 * size**3 / best_seconds(here, lambda: a @ b)


def best_seconds(here: Here, act: Callable[[], object], times: int = 10) -> float:
    """The shortest of several turns, after two to warm up."""
    seconds = []
    for _ in range(2 + times):
        here.wait()
        began = time.perf_counter()
        act()
        here.wait()
        seconds.append(time.perf_counter() - began)
    return min(seconds[2:])


def _copies(here: Here) -> dict[str, float]:
    size = 2**20 if here.rehearsing else COPY_BYTES
    on_device = torch.empty(size, dtype=torch.uint8, device=here.device)
    pageable = torch.ones(size, dtype=torch.uint8)
    rates = {"device_read_and_written": 2 * size / best_seconds(here, lambda: on_device.clone()),
             "host_to_device_pageable": size / best_seconds(here, lambda: on_device.copy_(pageable))}
    if not here.rehearsing:
        pinned = pageable.pin_memory()
        rates["host_to_device_pinned"] = size / best_seconds(
            here, lambda: on_device.copy_(pinned, non_blocking=True))
    return {name: rate / 1e9 for name, rate in rates.items()}
