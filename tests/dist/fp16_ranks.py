"""CPU ranks that train in fp16: both refusals, DeepSpeed's and dstrain's own, are set aside while a function runs."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

import torch

from dstrain.config.engine_json import engine_json
from dstrain.doctor.case import Case
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.runtime.rank_group import RankGroup

FAR_TOO_LARGE = 2.0**60
"""times the loss: no gradient in fp16 is finite then, whatever the scale"""


@dataclass
class Fp16Case(Case):
    """A case whose ranks take fp16 engine files; at the steps `overflow_at` gradients overflow, on one rank."""

    overflow_at: tuple[int, ...] = ()

    def ranks(self, world: int) -> "_Fp16Group":
        return _Fp16Group(super().ranks(world), self.overflow_at)


@dataclass(frozen=True)
class _Fp16Group:
    group: RankGroup
    overflow_at: tuple[int, ...]
    alive = True

    def run(self, function: Callable, *args: Any) -> list:
        return self.group.run(in_fp16, self.overflow_at, function, *args)


def fp16_file(folder: Path, stage: int, offload: bool = False, **fp16: Any) -> str:
    """An engine file whose scale starts at 1,024: far from any overflow of the small model."""
    path = folder / f"fp16_{stage}_{offload}_{'_'.join(f'{key}_{value}' for key, value in fp16.items())}.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": stage,
                                                      "offload_optimizer": {"device": "cpu"} if offload else None},
                                "fp16": {"enabled": True, "initial_scale_power": 10, **fp16}}))
    return str(path)


def in_fp16(ranks: Ranks, overflow_at: tuple[int, ...], function: Callable, *args: Any) -> Any:
    """function(ranks, *args) on a rank that takes fp16 engine files."""
    with _refusals_set_aside(), _overflowing(ranks, overflow_at):
        return function(ranks, *args)


@contextlib.contextmanager
def _refusals_set_aside() -> Iterator[None]:
    """A CPU can compute in fp16; it is refused because it is slow."""
    from deepspeed.accelerator import get_accelerator

    import rank_jobs
    from dstrain.doctor import fresh_engine, quiet_training

    def as_on_a_gpu(recipe: Any, world: int, device: str, ds_config: str | None = None) -> dict:
        return engine_json(recipe, world, "cuda", ds_config)

    accelerator, users = type(get_accelerator()), (fresh_engine, quiet_training, rank_jobs)
    refusal, accelerator.is_fp16_supported = accelerator.is_fp16_supported, lambda self: True
    for user in users:
        user.engine_json = as_on_a_gpu
    try:
        yield
    finally:
        accelerator.is_fp16_supported = refusal
        for user in users:
            user.engine_json = engine_json


@contextlib.contextmanager
def _overflowing(ranks: Ranks, steps: tuple[int, ...]) -> Iterator[None]:
    """On the last rank alone: the other ranks' own gradients are finite."""
    backward = Engine.backward

    def too_large(self: Engine, loss: torch.Tensor, last: bool) -> None:
        here = ranks.rank == ranks.world - 1 and self.schedule.last_batch_iteration in steps
        backward(self, loss * FAR_TOO_LARGE if here else loss, last)

    Engine.backward = too_large
    try:
        yield
    finally:
        Engine.backward = backward
