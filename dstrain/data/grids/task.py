"""A puzzle as it is given: demonstrations of a rule, and queries to be answered by that rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dstrain.nn.grid_ids import COLOURS, MOST_SIDE

__all__ = ["COLOURS", "MOST_SIDE", "Example", "Grid", "Task", "category_by_size"]

Grid = np.ndarray
"""uint8 [height, width], 1 to 30 each: colours 0 to 9"""


class Example(NamedTuple):
    """A grid, and what the task's rule makes of it."""

    input: Grid
    output: Grid | None
    """None: nobody has said it"""


@dataclass(frozen=True, eq=False)
class Task:
    name: str
    """such as 007bbfb7, or embedded/flip/17"""
    category: str
    """by which scores are grouped: of made puzzles their kind, of others how the answers' sizes differ"""
    demonstrations: tuple[Example, ...]
    queries: tuple[Example, ...]

    @property
    def examples(self) -> tuple[Example, ...]:
        return (*self.demonstrations, *self.queries)


def category_by_size(demonstrations: tuple[Example, ...]) -> str:
    """How large answers are beside their inputs: same, smaller, larger, or now this and now that."""
    found = {_by_size(*(grid.shape for grid in example)) for example in demonstrations if example.output is not None}
    return found.pop() if len(found) == 1 else "mixed sizes"


def _by_size(shape: tuple[int, int], answer: tuple[int, int]) -> str:
    if shape == answer:
        return "same size"
    return "smaller" if answer[0] * answer[1] <= shape[0] * shape[1] else "larger"
