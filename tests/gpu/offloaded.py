"""Optimizer states, and weights, in the CPU's memory: the same losses, and less on the GPU."""

from __future__ import annotations

import torch
from case_here import CaseHere
from frame import Here, Outcome, judge
from packed import packed_step
from training import DstrainLoop, bench_recipe

from dstrain.config.shape import shape_of
from dstrain.doctor.proofs.same_curve import STEPS, compare, run

PAIRS = {"zero1_offload_bf16": "zero1_bf16", "zero2_offload_bf16": "zero2_bf16", "zero3_offload_bf16": "zero3_bf16",
         "zero3_offload_param_bf16": "zero3_bf16"}
"""offloaded -> the same without"""
LOSSES = 5e-3
LEAST_SAVED = 12
"""bytes a parameter: fp32 weight and two moments are gone from the GPU"""
VOCABULARY = 50257


def show(here: Here) -> Outcome:
    case = CaseHere.of(here)
    figures, holds, traces, peaks = {"steps": STEPS}, {}, {}, {}
    pairs = dict(list(PAIRS.items())[-1:]) if here.rehearsing else PAIRS
    for name in dict.fromkeys((*pairs.values(), *pairs)):
        traces[name] = run(case, 1, case.recipe.batch.rows // 2, name)
        peaks[name], parameters = _peak_bytes(here, name)
        here.note(figures | {"peak_bytes": peaks})
    figures |= {"peak_bytes": peaks, "parameters": parameters}
    for name, plain in pairs.items():
        off, other_rows = compare(traces[plain], [traces[name]])
        saved = (peaks[plain] - peaks[name]) / parameters
        figures[name] = {"losses": off, "other_rows": other_rows, "bytes_saved_a_parameter": saved}
        holds |= {f"{name}: losses {off:.1e}": off <= LOSSES, f"{name}: {other_rows} steps with other rows":
                  other_rows == 0}
        if not here.rehearsing:
            holds[f"{name}: saves {saved:.1f} bytes a parameter"] = saved >= LEAST_SAVED
    return judge(here, holds, figures, f"losses {LOSSES:.0e} relative, rows none, at least {LEAST_SAVED} bytes a "
                 "parameter less at the peak of a step (a CPU shows no memory of a GPU)", only_on_gpu=True)


def _peak_bytes(here: Here, ds_config: str) -> tuple[int, int]:
    """(most memory of the GPU in a step of `small` with few rows, parameters)."""
    if here.rehearsing:
        recipe, vocabulary = bench_recipe("tiny", 4, 2, 16, ["model.width=32", "model.heads=2", "model.ff=64"]), 257
    else:
        recipe, vocabulary = bench_recipe("small", 4, 2, 256), VOCABULARY
    loop = DstrainLoop(recipe, ds_config, vocabulary, here.ranks)
    batches = packed_step(shape_of(recipe, 1), recipe.batch.rows, recipe.batch.length, vocabulary, seed=1)
    for number in (1, 2, 3):
        if number == 3 and not here.rehearsing:
            torch.cuda.reset_peak_memory_stats()
        loop.step(number, batches)
    parameters, peak = loop.engine.parameters, 0 if here.rehearsing else torch.cuda.max_memory_allocated()
    loop.close()
    del loop
    if not here.rehearsing:
        torch.cuda.empty_cache()
    return peak, parameters
