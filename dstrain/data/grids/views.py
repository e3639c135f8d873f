"""The same puzzle seen otherwise: turned and mirrored, its colours exchanged; and a grid of it seen as it was.

A view is the same for all grids of a task. An answer in a view, seen back, is an answer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dstrain.data.grids.task import COLOURS, Example, Grid, Task
from dstrain.data.hashing import permutation

SYMMETRIES = 8


class View(NamedTuple):
    symmetry: int = 0
    """0 to 7: quarter turns, of 4 to 7 after the grid was transposed"""
    colours: tuple[int, ...] = tuple(range(COLOURS))
    """what each colour becomes"""

    def of(self, grid: Grid) -> Grid:
        return turned(np.asarray(self.colours, np.uint8)[grid], self.symmetry)

    def back(self, grid: Grid) -> Grid:
        """Of a grid in this view the one that it is a view of."""
        return turned_back(np.argsort(self.colours).astype(np.uint8)[grid], self.symmetry)

    def of_task(self, task: Task) -> Task:
        def seen(examples: tuple[Example, ...]) -> tuple[Example, ...]:
            return tuple(Example(self.of(example.input), None if example.output is None else self.of(example.output))
                         for example in examples)

        return Task(task.name, task.category, seen(task.demonstrations), seen(task.queries))


def turned(grid: Grid, symmetry: int) -> Grid:
    return np.ascontiguousarray(np.rot90(grid.T if symmetry >= 4 else grid, symmetry % 4))


def turned_back(grid: Grid, symmetry: int) -> Grid:
    grid = np.rot90(grid, -(symmetry % 4))
    return np.ascontiguousarray(grid.T if symmetry >= 4 else grid)


def view_of(symmetries: bool, colours: str, *key: int) -> View:
    """One that the key alone decides. `colours`: none, all_but_0 or all of them are exchanged."""
    symmetry = permutation(SYMMETRIES, *key, 0)[0] if symmetries else 0
    if colours == "none":
        return View(symmetry)
    fixed = 1 if colours == "all_but_0" else 0
    others = permutation(COLOURS - fixed, *key, 1)
    return View(symmetry, (*range(fixed), *(colour + fixed for colour in others)))


def views_to_answer(count: int, symmetries: bool, colours: str, *key: int) -> list[View]:
    """The puzzle as it is, and then others, no two alike as long as there are so many."""
    found = [View()]
    for number in range(64 * count):
        if len(found) == count:
            break
        view = view_of(symmetries, colours, *key, number)
        if view not in found:
            found.append(view)
    return found
