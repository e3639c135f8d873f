"""The ids of grids. A grid is its rows from the top, each with a row end, and an end behind the last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dstrain.data.grids.task import Grid
from dstrain.nn.grid_ids import COLOURS, END, MOST_SIDE, ROW_END, SEPARATOR, START, VOCABULARY

__all__ = ["COLOURS", "END", "LONGEST", "ROW_END", "SEPARATOR", "START", "VOCABULARY", "grid_of", "ids_of"]

LONGEST = MOST_SIDE * (MOST_SIDE + 1) + 1


def ids_of(grid: Grid) -> np.ndarray:
    """int32: the grid's rows, each with its end, and the grid's end."""
    height, width = grid.shape
    rows = np.full((height, width + 1), ROW_END, np.int32)
    rows[:, :width] = grid
    return np.append(rows.reshape(-1), np.int32(END))


def grid_of(ids: Sequence[int] | np.ndarray) -> Grid | None:
    """The grid that these ids spell, with or without what stands behind its end; None where they spell none."""
    ids = np.asarray(ids, np.int64)
    ends = np.flatnonzero(ids == END)
    if not len(ends):
        return None
    ids = ids[:ends[0]]
    row_ends = np.flatnonzero(ids == ROW_END)
    height = len(row_ends)
    if not height or len(ids) % height or len(ids) == height:
        return None
    rows = ids.reshape(height, -1)
    fits = height <= MOST_SIDE and rows.shape[1] - 1 <= MOST_SIDE
    whole = (rows[:, -1] == ROW_END).all() and (rows[:, :-1] < COLOURS).all() and (rows >= 0).all()
    return rows[:, :-1].astype(np.uint8) if fits and whole else None
