"""Whether an input is to train on or to validate on: said by what all its views share, so a view is on the same side.

A puzzle takes inputs of its own side alone. So no pair that validation shows or asks is ever trained on, turned,
mirrored or with other colours.
"""

from __future__ import annotations

import numpy as np

from dstrain.data.grids.task import COLOURS, Grid
from dstrain.data.hashing import MADE_PUZZLES, mix

VALID_EVERY = 8
"""one in so many inputs is to validate on, nearly"""


def is_to_validate(grid: Grid) -> bool:
    height, width = grid.shape
    amounts = sorted(np.bincount(grid.reshape(-1), minlength=COLOURS).tolist())
    beside = _alike(grid[1:], grid[:-1]) + _alike(grid[:, 1:], grid[:, :-1])
    further = _alike(grid[2:], grid[:-2]) + _alike(grid[:, 2:], grid[:, :-2])
    askew = _alike(grid[1:, 1:], grid[:-1, :-1]) + _alike(grid[1:, :-1], grid[:-1, 1:])
    seen = bytes((min(height, width), max(height, width), *amounts))
    return mix(MADE_PUZZLES, int.from_bytes(seen, "little"), beside, further, askew) % VALID_EVERY == 0


def _alike(one: Grid, other: Grid) -> int:
    """Cells of the same colour, whichever it is."""
    return int(np.count_nonzero(one == other))
