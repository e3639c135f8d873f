"""How far the clocks of the nodes are apart: measured by questions and answers, not by comparing what was sent."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as torch_dist

ASKED = 5
"""times; the fastest answer counts"""


def offsets(rank: int, leaders: list[int], group: Any) -> tuple[float, float] | None:
    """This leader's (seconds ahead of the first leader's clock, seconds of the round trip). All leaders call it."""
    first, *others = leaders
    if rank != first:
        return min((_ask(first, group) for _ in range(ASKED)), key=lambda asked: asked[1])
    for other in others:
        for _ in range(ASKED):
            _answer(other, group)
    return 0.0, 0.0


def now() -> float:
    """This node's wall clock."""
    return time.time()


def _ask(first: int, group: Any) -> tuple[float, float]:
    """Its clock stood at the middle of the round trip where it answered, give or take half of it."""
    answer = torch.zeros(1, dtype=torch.float64)
    wall, began = now(), time.perf_counter()
    torch_dist.send(torch.zeros(1, dtype=torch.float64), first, group=group)
    torch_dist.recv(answer, first, group=group)
    took_s = time.perf_counter() - began
    return wall + took_s / 2 - answer.item(), took_s


def _answer(other: int, group: Any) -> None:
    question = torch.zeros(1, dtype=torch.float64)
    torch_dist.recv(question, other, group=group)
    torch_dist.send(torch.tensor([now()], dtype=torch.float64), other, group=group)
