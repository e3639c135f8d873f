"""Whether the rows come faster than the device eats them: seconds of the feed against seconds of a step."""

from __future__ import annotations

from dstrain.doctor.warnings.figure import Figure
from dstrain.doctor.warnings.look import Look
from dstrain.train.progress import duration

SLOW_SHARE = 0.8


def figures(look: Look) -> list[Figure]:
    slow = look.feed_s > SLOW_SHARE * look.step_s
    whole = duration(look.step_s * look.recipe.run.steps)
    return [Figure("data speed", f"{look.feed_s:.3f} s for the rows of a step; roughly {look.step_s:.2g} s to train on "
                   f"them here ({whole} for {look.recipe.run.steps:,} steps), guessed from what matrix products run at",
                   "the device would wait for its rows: more data.workers, or dstrain prepare and data.prepared"
                   if slow else "")]
