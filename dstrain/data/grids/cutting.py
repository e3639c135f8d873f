"""Rows of puzzles cut into batches under a budget of positions, of which the largest row in each way tells how many.

A champion's rows are as wide as the most grids that one of them is shown times the longest grid of any: two rows that
are both small, one of many grids and one of large ones, are a large batch together. So rows of as many grids stand side
by side.
"""

from __future__ import annotations

from collections.abc import Sequence

from dstrain.data.grids.row import Extent, Row
from dstrain.data.pairs.windows import smallest_budget


def cut_by_size(rows: Sequence[Row], kind: str, tokens: int) -> list[list[int]]:
    """Places of the rows, cut so that a batch takes at most `tokens` positions (or is one row).

    As few batches as this order allows, and then as even ones as possible: the last is no small rest.
    """
    extents = [row.extent(kind) for row in rows]
    order = sorted(range(len(rows)), key=lambda place: (extents[place].grids, extents[place].positions(), place))
    in_order = [extents[place] for place in order]
    largest = max(extent.positions() for extent in extents)
    cuts = _cuts(in_order, smallest_budget(lambda budget: len(_cuts(in_order, budget)), largest, tokens))
    return [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)])]


def _cuts(extents: Sequence[Extent], tokens: int) -> list[int]:
    """Where further batches begin, each as full as `tokens` allows."""
    cuts, start, held = [], 0, extents[0]
    for place, extent in enumerate(extents):
        held = held.with_another(extent) if place > start else extent
        if place > start and (place - start + 1) * held.positions() > tokens:
            cuts.append(place)
            start, held = place, extent
    return cuts
