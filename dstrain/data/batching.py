"""Which rows a rank runs in a step, in which order, and in which micro-batches. Row r is fed by lane r mod L."""

from __future__ import annotations

from collections.abc import Sequence

from dstrain.config.schema import Recipe
from dstrain.config.shape import Shape
from dstrain.data.collate import Batch, Row, collate


def lanes_of_rank(lane_count: int, rank: int, world: int) -> range:
    """The lanes l with l mod world = rank."""
    return range(rank, lane_count, world)


def rows_of_rank(recipe: Recipe, rank: int, world: int) -> list[int]:
    """The rows that the rank's lanes feed, in increasing order."""
    lane_count = recipe.data.lanes
    return [start + lane for start in range(0, recipe.batch.rows, lane_count)
            for lane in lanes_of_rank(lane_count, rank, world)]


def micro_batches_of(rows: Sequence[Row], shape: Shape, length: int, eot: int) -> list[Batch]:
    """The rank's rows in `shape.accumulation` micro-batches: as many, of the same size, on every rank."""
    size = shape.micro_rows
    return [collate(rows[number * size:(number + 1) * size], size, length, eot) for number in range(shape.accumulation)]
