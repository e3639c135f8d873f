"""The rows of each step; where one rank cannot read them in mid-run, all ranks end together and with its reason.

A rank whose feed fails has nothing to train on, but the others are already in the step and wait for its gradients.
So it takes part once more, with rows that score nothing and a loss that is NaN: all ranks skip that step, as they do
for every NaN, and after a skipped step they ask each other why. A step that is applied costs nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Iterator

from dstrain.config.shape import shape_of
from dstrain.guard.causes import cause_of
from dstrain.train.run import Run


@dataclass(frozen=True)
class NoRows:
    """Stands for the step that this rank's feed could not give."""

    number: int
    micro_batches: list[Any]
    rows_hash: int = 0


def rows_of_steps(first: Any, feed: Iterator[Any], run: Run) -> Iterator[tuple[Any, Exception | None]]:
    """`first` and what the feed gives after it, each with what went wrong in reading it."""
    yield replace(first, wait_s=0.0), None  # waited for before the run's clock started
    while True:
        run.ranks.pulse.enter("data")
        try:
            batch, error = next(feed), None
        except Exception as caught:  # agreed on after the step
            run.ranks.pulse.ended(*cause_of(caught, "data"))
            batch, error = no_rows(run), caught
        yield batch, error


def ask_why(error: Exception | None, run: Run) -> None:
    """After a skipped step: ends the run on all ranks if one of them had no rows."""
    run.ranks.agree(error, f"reading the rows of step {run.state.step + 1}")


def no_rows(run: Run) -> NoRows:
    shape = shape_of(run.recipe, run.ranks.world)
    return NoRows(run.state.step + 1, [run.family.filler_batch(run.recipe, run.ranks.world)] * shape.accumulation)
