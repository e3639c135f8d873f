"""How a step is divided: among ranks and micro-batches, the same for every rank."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.config.counted import CountedInTokens


@dataclass(frozen=True)
class Shape:
    """What every rank does in one step: `accumulation` forward passes."""

    world: int
    micro_rows: int | None
    """rows of each pass; None where a batch is counted in tokens, and its rows differ from step to step"""
    accumulation: int
    micro_tokens: int | None = None
    """of such a batch: positions of each pass, at most"""

    @property
    def rows(self) -> int | None:
        """Rows of a step over all ranks, those that stay empty included."""
        return None if self.micro_rows is None else self.world * self.accumulation * self.micro_rows

    def a_pass(self) -> str:
        """The size of one pass in words."""
        return f"{self.micro_rows} rows" if self.micro_tokens is None else f"{self.micro_tokens:,} tokens"


def shape_of(recipe: Recipe, world: int) -> Shape:
    """The shape of a resolved recipe on `world` ranks."""
    if world < 1:
        raise ValueError(f"a run has at least 1 rank, not {world}")
    if isinstance(recipe.batch, CountedInTokens):
        return _of_tokens(recipe.batch, world)
    return _of_rows(recipe, world)


def in_micro_batches(recipe: Recipe, size: int | None) -> Recipe:
    """The recipe with micro-batches of that many rows, or tokens; None: with one that holds a whole step."""
    batch = recipe.batch
    if isinstance(batch, CountedInTokens):
        return replace(recipe, batch=replace(batch, micro_tokens=size or batch.tokens))
    return replace(recipe, batch=replace(batch, micro_rows=size or batch.rows))


def positions_a_step(recipe: Recipe) -> int:
    """Positions of one optimizer step over all ranks; of a batch counted in tokens, at most."""
    batch = recipe.batch
    return batch.tokens if isinstance(batch, CountedInTokens) else batch.rows * batch.length


def _of_rows(recipe: Recipe, world: int) -> Shape:
    """Lane l belongs to rank l mod world, so the fullest rank has ceil(lanes / world) lanes; ranks with fewer rows fill
    up with rows that score nothing. The rows are spread evenly over the micro-batches, batch.micro_rows at most."""
    lanes, rows = recipe.data.lanes, recipe.batch.rows
    if world > lanes:
        remedy = (f"set data.lanes to a divisor of batch.rows that is at least {world} (another data order)"
                  if world <= rows else f"raise batch.rows to at least {world}")
        raise UserError(f"{world} ranks, but the recipe has data.lanes {lanes} (batch.rows {rows}), so some ranks "
                        f"would have no row: {remedy}, or use at most {lanes} ranks")
    fullest_rows = -(-lanes // world) * (rows // lanes)
    accumulation = -(-fullest_rows // recipe.batch.micro_rows)
    return Shape(world, micro_rows=-(-fullest_rows // accumulation), accumulation=accumulation)


def _of_tokens(batch: CountedInTokens, world: int) -> Shape:
    """As many passes as full batches need. Their number is the same in every step: a rank whose data fail in one can
    still take part in it, and DeepSpeed is told one number of micro-batches."""
    return Shape(world, micro_rows=None, accumulation=-(-batch.tokens // (world * batch.micro_tokens)),
                 micro_tokens=min(batch.micro_tokens, -(-batch.tokens // world)))
