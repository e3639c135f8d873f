"""Made puzzles fill: background that coloured cells enclose is filled with the colour that the demonstrations tell."""

from __future__ import annotations

from functools import partial

import numpy as np

from dstrain.data.grids.made.chance import Chance
from dstrain.data.grids.made.rule import BACKGROUND, Rule, palette, shapes
from dstrain.data.grids.task import Grid

LONGEST = (5, 5, 5, 6, 6, 7)
BOX_SIDES = (3, 3, 3, 4, 4, 5)
"""of a box, with its walls"""


def fill(chance: Chance) -> Rule:
    """One or two boxes, and cells outside that mean nothing. Every demonstration has a box, so one other colour stands
    for all others."""
    paint, *walls = palette(chance, 2, 3)
    shape = shapes(chance, LONGEST, shortest=3)
    return Rule(lambda: boxes(chance, shape(), walls), partial(filled, paint=paint),
                (partial(filled, paint=walls[0]),))


def filled(grid: Grid, paint: int) -> Grid:
    return np.where(enclosed(grid), np.uint8(paint), grid)


def enclosed(grid: Grid) -> np.ndarray:
    """Which cells are background that has no way to the rim, in steps up, down, left and right. bool [height, width]

    A grid is one integer here, a bit a cell: water comes in from a frame of cells around it.
    """
    height, width = grid.shape
    framed = np.zeros((height + 2, width + 2), bool)
    framed[1:-1, 1:-1] = grid != BACKGROUND
    stride, cells = width + 2, framed.size
    walls = int.from_bytes(np.packbits(framed, bitorder="little").tobytes(), "little")
    dry = ~walls & (1 << cells) - 1
    wet, before = 1, 0
    while wet != before:
        before = wet
        wet |= (wet << 1 | wet >> 1 | wet << stride | wet >> stride) & dry  # a step round the frame's end stays in it
    bits = (dry & ~wet).to_bytes((cells + 7) // 8, "little")
    inside = np.unpackbits(np.frombuffer(bits, np.uint8), count=cells, bitorder="little")
    return inside.reshape(framed.shape)[1:-1, 1:-1].astype(bool)


def boxes(chance: Chance, shape: tuple[int, int], colours: list[int]) -> Grid:
    grid = np.zeros(shape, np.uint8)
    taken = np.zeros(shape, bool)
    for _ in range(1 + chance.below(2)):
        height, width = (min(chance.of(BOX_SIDES), side) for side in shape)
        top, left = chance.below(shape[0] - height + 1), chance.below(shape[1] - width + 1)
        if taken[top:top + height, left:left + width].any():
            continue
        grid[top:top + height, left:left + width] = chance.of(colours)
        grid[top + 1:top + height - 1, left + 1:left + width - 1] = BACKGROUND
        taken[max(0, top - 1):top + height + 1, max(0, left - 1):left + width + 1] = True
    for _ in range(chance.below(3)):
        row, column = chance.below(shape[0]), chance.below(shape[1])
        if not taken[row, column]:
            grid[row, column] = chance.of(colours)
    return grid
