"""A puzzle as a picture: its demonstrations, and each query with what was written for it and what is right.

Shapes: H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dstrain.data.grids.task import Example, Grid
from dstrain.train.picture import Drawn, write

COLOURS_103 = np.array([(0, 0, 0), (0, 116, 217), (255, 65, 54), (46, 204, 64), (255, 220, 0), (170, 170, 170),
                        (240, 18, 190), (255, 133, 27), (127, 219, 255), (135, 12, 37)], np.uint8)
"""of ARC's own pages: black, blue, red, green, yellow, grey, magenta, orange, sky, maroon"""
PAPER, LINE, INK, QUIET = (np.array(colour, np.uint8) for colour in (
    (250, 250, 250), (85, 85, 85), (20, 20, 20), (190, 190, 190)))
RIGHT, WRONG, UNKNOWN = (np.array(colour, np.uint8) for colour in ((0, 150, 60), (215, 35, 25), (120, 120, 120)))
FRAME, GAP, LETTER = 5, 20, 3
"""pixels: of a frame; between parts; to a dot of a letter"""
HEAD, LONGEST_LABEL = 5 * LETTER + 6, 4 * LETTER * len("SECOND WRONG")
CELLS = range(24, 3, -1)
"""pixels of a cell with its line: the largest with which the picture is at most so wide"""
WIDEST = 1600


class Asked(NamedTuple):
    """A query, and what was written for it."""

    query: Example
    attempts: Sequence[Grid]
    """the best first"""


def puzzle_picture(demonstrations: Sequence[Example], asked: Sequence[Asked], about: str = "") -> Drawn:
    """SHOWN above, input over output; below, for each query, ASKED, what was written, and the TRUTH where it is known.

    A green frame and RIGHT, or a red one and WRONG, where that is known; what is wrong has a dot in it.
    """
    across = [[max(grid.shape[1] for grid in example) for example in demonstrations],
              *([grid.shape[1] for grid in (*one.query, *one.attempts) if grid is not None] for one in asked)]
    cell = next((cell for cell in CELLS if max(_width(widths, cell) for widths in across) <= WIDEST), CELLS[-1])
    shown = _beside([_demonstration(example, cell) for example in demonstrations])
    return Drawn(_framed_by_paper(_below([shown, *(_beside(_query(one, cell)) for one in asked)])), about)


def _width(widths: Sequence[int], cell: int) -> int:
    """At most, of grids of such widths beside each other."""
    return GAP + sum(max(width * cell + 1 + 2 * FRAME, LONGEST_LABEL) + GAP for width in widths)


def _demonstration(example: Example, cell: int) -> np.ndarray:
    return _labelled("SHOWN", _below([_grid(example.input, cell), _arrow(), _grid(example.output, cell)], GAP // 4),
                     INK)


def _query(asked: Asked, cell: int) -> list[np.ndarray]:
    truth = asked.query.output
    parts = [_labelled("ASKED", _framed(_grid(asked.query.input, cell), PAPER), INK)]
    for name, attempt in zip(("FIRST", "SECOND"), asked.attempts):
        is_right = truth is not None and attempt.shape == truth.shape and bool((attempt == truth).all())
        colour, verdict = (UNKNOWN, "") if truth is None else (RIGHT, " RIGHT") if is_right else (WRONG, " WRONG")
        parts.append(_labelled(name + verdict, _framed(_grid(attempt, cell, truth), colour), colour))
    if not asked.attempts:
        parts.append(_labelled("NOTHING", _framed(np.full((2 * cell, 2 * cell, 3), PAPER), WRONG), WRONG))
    return parts if truth is None else [*parts, _labelled("TRUTH", _framed(_grid(truth, cell), PAPER), INK)]


def _grid(grid: Grid, cell: int, truth: Grid | None = None) -> np.ndarray:
    """With a dot in each cell that differs from the truth, or that it has not."""
    height, width = grid.shape
    pixels_HW3 = np.empty((height * cell + 1, width * cell + 1, 3), np.uint8)
    pixels_HW3[:] = LINE
    pixels_HW3[:-1, :-1] = COLOURS_103[grid].repeat(cell, axis=0).repeat(cell, axis=1)
    pixels_HW3[::cell] = LINE
    pixels_HW3[:, ::cell] = LINE
    for row, column in zip(*np.nonzero(_differs(grid, truth))) if truth is not None else ():
        first, last = cell // 2 - max(1, cell // 8), cell // 2 + max(1, cell // 8) + 1
        dark = COLOURS_103[grid[row, column]].astype(int).sum() < 300
        pixels_HW3[row * cell + first:row * cell + last, column * cell + first:column * cell + last] = (
            PAPER if dark else INK)
    return pixels_HW3


def _differs(grid: Grid, truth: Grid) -> np.ndarray:
    differs = np.ones(grid.shape, bool)
    height, width = np.minimum(grid.shape, truth.shape)
    differs[:height, :width] = grid[:height, :width] != truth[:height, :width]
    return differs


def _arrow() -> np.ndarray:
    """Downwards."""
    pixels_HW3 = np.full((12, 21, 3), PAPER)
    pixels_HW3[:6, 9:12] = INK
    for line in range(6):
        pixels_HW3[6 + line, 5 + line:16 - line] = INK
    return pixels_HW3


def _framed(inner_HW3: np.ndarray, colour: np.ndarray) -> np.ndarray:
    height, width, _ = inner_HW3.shape
    pixels_HW3 = np.full((height + 2 * FRAME, width + 2 * FRAME, 3), colour)
    pixels_HW3[FRAME:-FRAME, FRAME:-FRAME] = inner_HW3
    return pixels_HW3


def _labelled(text: str, inner_HW3: np.ndarray, colour: np.ndarray) -> np.ndarray:
    height, width, _ = inner_HW3.shape
    pixels_HW3 = np.full((height + HEAD, max(width, 4 * LETTER * len(text)), 3), PAPER)
    write(pixels_HW3, text, 0, 0, colour, LETTER)
    pixels_HW3[HEAD:, :width] = inner_HW3
    return pixels_HW3


def _beside(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Their upper edges on a line."""
    pixels_HW3 = np.full((max(part.shape[0] for part in parts), sum(part.shape[1] + GAP for part in parts) - GAP, 3),
                         PAPER)
    left = 0
    for part in parts:
        pixels_HW3[:part.shape[0], left:left + part.shape[1]] = part
        left += part.shape[1] + GAP
    return pixels_HW3


def _below(parts: Sequence[np.ndarray], gap: int = 0) -> np.ndarray:
    """Their left edges on a line; without a gap of their own a rule divides them."""
    between = gap or 2 * GAP + 1
    width = max(part.shape[1] for part in parts)
    pixels_HW3 = np.full((sum(part.shape[0] + between for part in parts) - between, width, 3), PAPER)
    top = 0
    for part in parts:
        if top and not gap:
            pixels_HW3[top - GAP - 1] = QUIET
        pixels_HW3[top:top + part.shape[0], :part.shape[1]] = part
        top += part.shape[0] + between
    return pixels_HW3


def _framed_by_paper(inner_HW3: np.ndarray) -> np.ndarray:
    return np.pad(inner_HW3, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=int(PAPER[0]))
