"""Whether the rows come faster than the device eats them: seconds of the feed against seconds of a step."""

from __future__ import annotations

from dstrain.doctor.warnings.figure import Figure
from dstrain.doctor.warnings.look import Look
from dstrain.train.progress import duration

SLOW_SHARE = 0.8
FAST_DEVICE = 50
"""a GPU is about so many times faster than the cores of one rank"""


def figures(look: Look) -> list[Figure]:
    if look.feed_s is None:
        return []
    step_s = look.step_s
    if step_s is None:
        return [Figure("data speed", f"{look.feed_s:.3f} s for the rows of a step; how long a step takes is not known")]
    slow = look.feed_s > SLOW_SHARE * step_s
    whole = duration(step_s * look.recipe.run.steps)
    return [Figure("data speed", f"{look.feed_s:.3f} s for the rows of a step, {step_s:.2f} s to train on them here "
                   f"(about {whole} for {look.recipe.run.steps:,} steps)",
                   "the device would wait for its rows: more data.workers, or dstrain prepare and data.prepared"
                   if slow else "")]
