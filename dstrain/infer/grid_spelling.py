"""Which ids may come next, so that what is written spells a grid: its rows are equally long, and at most 30 a side.

Shapes: B rows of a batch, N of them that go on, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dstrain.data.grids.task import COLOURS, MOST_SIDE
from dstrain.data.grids.tokens import END, ROW_END, VOCABULARY


class Spelling:
    """How far each grid is written: whole rows, cells in the row behind them, and how many cells a row has."""

    def __init__(self, rows: int, device: torch.device):
        self.height_B, self.column_B, self.width_B = torch.zeros(3, rows, dtype=torch.long, device=device)

    def allowed_BV(self) -> Tensor:
        """True where an id may come next; at least one of each row is."""
        first_B, in_row_B, is_full_B = self.height_B == 0, self.column_B > 0, self.column_B == self.width_B
        allowed_BV = torch.zeros(len(first_B), VOCABULARY, dtype=torch.bool, device=first_B.device)
        # A first row is as long as it likes; a later one is begun or not, and then as long as the first.
        cell_B = torch.where(first_B, self.column_B < MOST_SIDE, ~is_full_B & (in_row_B | (self.height_B < MOST_SIDE)))
        allowed_BV[:, :COLOURS] = cell_B[:, None]
        allowed_BV[:, ROW_END] = in_row_B & (first_B | is_full_B)
        allowed_BV[:, END] = ~first_B & ~in_row_B
        return allowed_BV

    def take(self, ids_B: Tensor) -> None:
        """What was chosen, of what was allowed."""
        is_cell_B, ends_row_B = ids_B < COLOURS, ids_B == ROW_END
        column_B = self.column_B + is_cell_B
        self.width_B = torch.where(ends_row_B & (self.height_B == 0), column_B, self.width_B)
        self.height_B = self.height_B + ends_row_B
        self.column_B = torch.where(ends_row_B, 0, column_B)

    def keep(self, rows_N: Tensor) -> None:
        """From now on there are these rows alone."""
        self.height_B, self.column_B, self.width_B = (
            state_B[rows_N] for state_B in (self.height_B, self.column_B, self.width_B))
