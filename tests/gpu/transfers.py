"""One training step under the profiler: where its batch comes from, how AdamW runs, how often the GPU is waited for."""

from __future__ import annotations

import warnings
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from case_here import CaseHere
from frame import Here, Outcome, judge
from torch.profiler import ProfilerActivity, profile

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.families import family_of
from dstrain.runtime.engine import Engine
from dstrain.train.step import train_step

ENGINES = ("zero0_fp32", "zero1_bf16", "zero2_bf16", "zero3_bf16")
MOST_WAITS = 8
"""of a whole step; DeepSpeed's own overflow check and norms"""
WARM_STEPS = 4


def show(here: Here) -> Outcome:
    case = CaseHere.of(here)
    rows, figures, holds = case.recipe.batch.rows, {}, {}
    for name in ENGINES[1:2] if here.rehearsing else ENGINES:
        one, four = (_one_step(here, replace(case.recipe, batch=replace(case.recipe.batch, micro_rows=rows // count)),
                               name) for count in (1, 4))
        figures[name] = {"1 micro-batch": one, "4 micro-batches": four}
        here.note(figures)
        holds[f"{name}: AdamW is not fused"] = one["fused_adamw_calls"] > 0
        if not here.rehearsing:
            tensors = four["tensors_of_the_batches"]
            holds |= {f"{name}: {four['waits']} waits with 4 micro-batches, {one['waits']} with 1":
                      four["waits"] == one["waits"],
                      f"{name}: {one['waits']} waits in a step": one["waits"] <= MOST_WAITS,
                      f"{name}: batches are not pinned": four["batches_pinned"],
                      f"{name}: {four['copies_from_pinned']} copies from pinned memory of {tensors} tensors":
                      four["copies_from_pinned"] >= tensors,
                      f"{name}: copies from other memory grow with micro-batches":
                      four["copies_from_pageable"] == one["copies_from_pageable"],
                      f"{name}: no kernel of fused AdamW": one["fused_adamw_kernels"] > 0}
    return judge(here, holds, figures, f"waits equal for 1 and 4 micro-batches, at most {MOST_WAITS} a step; every "
                 "copy of a batch from pinned memory; AdamW by its fused kernel", only_on_gpu=True)


def _one_step(here: Here, recipe: Recipe, ds_config: str) -> dict[str, Any]:
    """What the trace of one warm step shows."""
    family, tokenizer = family_of(recipe), load_tokenizer(recipe.tokenizer)
    objective, on_gpu = family.build_objective(recipe), here.device.type == "cuda"
    engine = Engine(lambda: family.build_trainee(recipe, tokenizer),
                    lambda trainee: lambda name, shape: family.initial_weight(trainee.model, name, shape, 1),
                    recipe, engine_json(recipe, 1, "cuda", ds_config), here.ranks)
    with closing(family.train_feed(recipe, tokenizer, 0, 1, None, pin=on_gpu)) as feed:
        steps = [next(feed) for _ in range(WARM_STEPS + 2)]
    tensors = [tensor for batch in steps[-1].micro_batches for tensor in batch._tensors().values()]

    def train(number: int) -> None:
        train_step(engine, objective, steps[number].micro_batches, steps[number].rows_hash, number + 1, 1, here.ranks)

    for number in range(WARM_STEPS):  # in the first ones DeepSpeed still records what it will do
        train(number)
    here.wait()
    waits = _waits(lambda: train(WARM_STEPS)) if on_gpu else 0
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        train(WARM_STEPS + 1)
        here.wait()
    engine.close()
    names = [event.name.lower() for event in profiled.events()]
    return {"waits": waits, "tensors_of_the_batches": len(tensors),
            "batches_pinned": all(tensor.is_pinned() for tensor in tensors),
            "fused_adamw_calls": names.count("aten::_fused_adamw_"),
            "fused_adamw_kernels": sum("fusedadam" in name for name in names),
            "copies_from_pinned": sum("memcpy htod (pinned" in name for name in names),
            "copies_from_pageable": sum("memcpy htod (pageable" in name for name in names),
            "copies_to_host": sum("memcpy dtoh" in name for name in names)}


def _waits(act) -> int:
    """How often PyTorch makes the host wait for the GPU in `act`: its own count, kept for debugging."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            act()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in said)
