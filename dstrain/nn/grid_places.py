"""Where in its grid a token stands: counted from the row ends before it, in each row of a batch for itself.

No width is assumed: grids of any shape stand side by side. Shapes: B rows, T tokens, H heads, A

    read     place of the token itself: of a cell its row and column, of a row end the column behind the last
    written  place of the token that comes next: all that is known of it is what stands before it
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dstrain.nn.cache import KvCache
from dstrain.nn.grid_ids import MOST_SIDE, ROW_END
from dstrain.nn.positions import Turns

GRID_BASE = 100.0
"""of the angles, from half a turn a cell down: neighbours are told apart, and a grid has 30 rows, not thousands"""
PLACES = MOST_SIDE + 1
"""of a row or column, from 0; what stands further, which is in no grid, counts as the last"""


FRAMES = 8
"""in which a square can be seen"""


class Places(NamedTuple):
    rows_BT: Tensor
    columns_BT: Tensor


class FromEnds(NamedTuple):
    """Rows and columns from the other side: 0 behind the last one."""

    rows_BT: Tensor
    columns_BT: Tensor


def read_places(ids_BT: Tensor, lengths_B: Tensor) -> tuple[Places, FromEnds]:
    """Of whole grids, each with its end."""
    slots_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    ends_BT = (ids_BT == ROW_END) & (slots_T < lengths_B[:, None])
    upto_BT = ends_BT.cumsum(1)
    first_BT = torch.where(ends_BT, slots_T + 1, 0).cummax(1).values  # of the row that comes next
    rows_BT = upto_BT - ends_BT.long()
    columns_BT = slots_T - torch.cat([torch.zeros_like(first_BT[:, :1]), first_BT[:, :-1]], dim=1)
    widths_B1 = torch.where(ends_BT, columns_BT, 0).amax(dim=1, keepdim=True)
    places = Places(_within(rows_BT), _within(columns_BT))
    return places, FromEnds(_within(upto_BT[:, -1:] - rows_BT), _within(widths_B1 - columns_BT))


def written_places(ids_BT: Tensor, rows_B: Tensor, columns_B: Tensor) -> Places:
    """Of what comes behind each token, where the first of them stood at (rows_B, columns_B)."""
    slots_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    ends_BT = ids_BT == ROW_END
    last_BT = torch.where(ends_BT, slots_T, -1).cummax(1).values
    columns_BT = torch.where(last_BT >= 0, slots_T - last_BT, columns_B[:, None] + slots_T + 1)
    return Places(rows_B[:, None] + ends_BT.cumsum(1), columns_BT)


def answer_places(ids_BT: Tensor) -> Places:
    """Of an answer's input, which begins with a start: what comes next is its first cell."""
    before_B = torch.zeros_like(ids_BT[:, 0])
    rows_BT, columns_BT = written_places(ids_BT, before_B, before_B - 1)
    return Places(_within(rows_BT), _within(columns_BT))


def grid_turns(places: Places, head_width: int, dtype: torch.dtype) -> Turns:
    """Rotary positions in two dimensions: half of the channels turn by row, half by column."""
    return _turns(torch.stack(places, dim=-1).unsqueeze(2), head_width, dtype)


def framed_turns(places: Places, left: FromEnds, head_width: int, dtype: torch.dtype) -> Turns:
    """Of keys that another grid asks, by queries that are turned by their own places: each of eight heads sees the
    keys' grid in one of the eight frames of a square. In the frame of a puzzle's symmetry, what became of a cell stands
    at the cell's own place."""
    rows_BT, columns_BT = places
    below_BT, right_BT = left.rows_BT - 1, left.columns_BT - 1
    frames = ((rows_BT, columns_BT), (rows_BT, right_BT), (below_BT, columns_BT), (below_BT, right_BT),
              (columns_BT, rows_BT), (right_BT, rows_BT), (columns_BT, below_BT), (right_BT, below_BT))
    return _turns(torch.stack([torch.stack(frame, dim=-1) for frame in frames], dim=2), head_width, dtype)


def _turns(places_BTHA: Tensor, head_width: int, dtype: torch.dtype) -> Turns:
    """Of as many places for each head (H, or 1 for all alike): each gets its share of the channels."""
    axes = places_BTHA.shape[-1]
    if head_width % (2 * axes):
        raise ValueError(f"{axes} places of a token turn pairs of channels, and a head's {head_width} are no multiple "
                         f"of {2 * axes}: change heads or width")
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    count = head_width // (2 * axes)
    steps_F = torch.arange(count, dtype=torch.float64, device=places_BTHA.device) / count
    speeds_F = (torch.pi * GRID_BASE ** -steps_F).to(precision)
    angles_BTHF = (places_BTHA.to(precision)[..., None] * speeds_F).flatten(-2)
    return Turns(angles_BTHF.cos().to(dtype), angles_BTHF.sin().to(dtype))


class GridCache(KvCache):
    """A key-value cache that knows where in its grid each row goes on."""

    def __init__(self, rows: int, *sizes) -> None:
        super().__init__(rows, *sizes)
        self.rows_B = torch.zeros_like(self.lengths_B)
        self.columns_B = torch.full_like(self.lengths_B, -1)

    def places(self, ids_BT: Tensor, lengths_B: Tensor) -> Places:
        """Of what comes behind each of these tokens, which continue the rows; padding behind `lengths_B` counts for
        nothing."""
        rows_BT, columns_BT = written_places(ids_BT, self.rows_B, self.columns_B)
        last_B1 = (lengths_B - 1).clamp(min=0)[:, None]
        self.rows_B = torch.where(lengths_B > 0, rows_BT.gather(1, last_B1)[:, 0], self.rows_B)
        self.columns_B = torch.where(lengths_B > 0, columns_BT.gather(1, last_B1)[:, 0], self.columns_B)
        return Places(_within(rows_BT), _within(columns_BT))

    def take_back(self, counts_B: Tensor) -> None:
        raise NotImplementedError("a row's place before its last tokens is not kept")

    def pick(self, rows_N: Tensor) -> None:
        super().pick(rows_N)
        self.rows_B, self.columns_B = self.rows_B[rows_N], self.columns_B[rows_N]


def _within(places_BT: Tensor) -> Tensor:
    return places_BT.clamp(0, PLACES - 1)
