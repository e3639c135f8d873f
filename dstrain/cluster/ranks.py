"""Whether a recipe's rows can be shared out among the ranks that a job has, at fewest and at most."""

from __future__ import annotations

from dstrain.cluster.request import Request
from dstrain.config.engine_json import engine_json
from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.config.shape import shape_of

IDLE_WORTH_SAYING = 0.1
"""share of the work that is done on rows that score nothing"""


def shapes_in_words(recipe: Recipe, request: Request) -> tuple[str, list[str]]:
    """What each rank does, and notes on what is wasted. A UserError where some ranks would have no row."""
    words, notes = [], []
    device = "cuda" if request.gpus else "cpu"
    for world in request.worlds:
        nodes = world // request.ranks_per_node
        where = f"{nodes} node(s) x {request.ranks_per_node} = {world} rank(s)"
        try:
            shape = shape_of(recipe, world)
            engine_json(recipe, world, device)
        except UserError as mistake:
            raise UserError(f"on {where}: {mistake}") from None
        words.append(f"{where}: {shape.accumulation} micro-batch(es) of {shape.a_pass()} each")
        if shape.rows is None:
            continue
        rows = shape.rows
        idle = (rows - recipe.batch.rows) / rows
        if idle > IDLE_WORTH_SAYING:
            notes.append(f"on {where}: {rows - recipe.batch.rows} of {rows} rows are empty, {100 * idle:.0f} % of the "
                         f"work, since batch.rows {recipe.batch.rows} (data.lanes {recipe.data.lanes}) does not divide "
                         f"evenly among them")
    return "; ".join(words), notes
