"""How a recipe's rows are divided: among ranks and micro-batches, the same for every rank."""

from __future__ import annotations

from dataclasses import dataclass

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe


@dataclass(frozen=True)
class Shape:
    """What every rank does in one step: `accumulation` forward passes of `micro_rows` rows each."""

    world: int
    micro_rows: int
    accumulation: int


def shape_of(recipe: Recipe, world: int) -> Shape:
    """The shape of a resolved recipe on `world` ranks.

    Lane l belongs to rank l mod world, so the fullest rank has ceil(lanes / world) lanes; ranks with fewer rows fill
    up with rows that score nothing. The rows are spread evenly over the micro-batches, batch.micro_rows at most.
    """
    lanes, rows = recipe.data.lanes, recipe.batch.rows
    if world < 1:
        raise ValueError(f"a run has at least 1 rank, not {world}")
    if world > lanes:
        remedy = (f"set data.lanes to a divisor of batch.rows that is at least {world} (another data order)"
                  if world <= rows else f"raise batch.rows to at least {world}")
        raise UserError(f"{world} ranks, but the recipe has data.lanes {lanes} (batch.rows {rows}), so some ranks "
                        f"would have no row: {remedy}, or use at most {lanes} ranks")
    fullest_rows = -(-lanes // world) * (rows // lanes)
    accumulation = -(-fullest_rows // recipe.batch.micro_rows)
    return Shape(world=world, micro_rows=-(-fullest_rows // accumulation), accumulation=accumulation)
