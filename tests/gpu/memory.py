"""The most memory of the GPU that a step takes: without whole logits, and with activations recomputed."""

from __future__ import annotations

import torch
from frame import Here, Outcome, judge
from packed import packed_step
from training import DstrainLoop, bench_recipe

from dstrain.config.shape import shape_of
from dstrain.doctor.finding import relative

VOCABULARY = 50257
LOSS = 1e-3
"""relative, in bf16: recomputed activations are the same numbers"""


def show(here: Here) -> Outcome:
    preset, rows, length, vocabulary = ("tiny", 4, 32, 257) if here.rehearsing else ("tiny", 64, 256, VOCABULARY)
    kept, loss = _peak(here, preset, rows, length, vocabulary, recompute=False)
    recomputed, other_loss = _peak(here, preset, rows, length, vocabulary, recompute=True)
    logits = rows * length * vocabulary * 4
    off = relative(other_loss, loss)
    figures = {"preset": preset, "positions": rows * length, "vocabulary": vocabulary,
               "fp32_logits_would_be_bytes": logits, "peak_bytes": kept, "peak_bytes_recomputing": recomputed,
               "loss_off": off}
    holds = {f"the loss is off by {off:.1e} when activations are recomputed": off <= LOSS}
    if not here.rehearsing:
        holds |= {f"the peak, {kept:,} bytes, is above what fp32 logits alone would take, {logits:,}": kept < logits,
                  f"recomputing takes {recomputed:,} bytes of {kept:,}": recomputed < 0.8 * kept}
    return judge(here, holds, figures, "the peak of a step below the bytes of fp32 logits of all positions; at least a "
                 f"fifth less with checkpoint_activations; its loss within {LOSS:.0e}", only_on_gpu=True)


def _peak(here: Here, preset: str, rows: int, length: int, vocabulary: int, recompute: bool) -> tuple[int, float]:
    """(peak of the third step, its loss)."""
    recipe = bench_recipe(preset, rows, rows, length, [f"model.checkpoint_activations={str(recompute).lower()}"])
    loop = DstrainLoop(recipe, "zero1_bf16", vocabulary, here.ranks)
    batches = packed_step(shape_of(recipe, 1), rows, length, vocabulary, seed=1)
    for number in (1, 2, 3):
        if number == 3 and not here.rehearsing:
            torch.cuda.reset_peak_memory_stats()
        loop.step(number, batches)
    peak = 0 if here.rehearsing else torch.cuda.max_memory_allocated()
    loss = loop.flush()[-1]
    loop.close()
    del loop
    if not here.rehearsing:
        torch.cuda.empty_cache()
    return peak, loss
