"""A row of training: one query of a puzzle, its answer, and the demonstrations that are shown beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dstrain.config.arc import PuzzleData
from dstrain.data.grids.task import Example, Task
from dstrain.data.grids.tokens import SEPARATOR, START, ids_of
from dstrain.data.grids.views import View, view_of
from dstrain.data.hashing import permutation

DECODER, ENCODER_DECODER, CHAMPION = "decoder", "encoder-decoder", "champion"
ORDER = 2


class Extent(NamedTuple):
    """How many positions a row takes, or a batch for each of its rows."""

    written: int
    """of a decoder its whole sequence, else the answer"""
    query: int = 0
    grids: int = 0
    """that are read beside the query"""
    longest: int = 0
    """of those"""

    def positions(self) -> int:
        return max(self.written, self.query + self.grids * self.longest)

    def with_another(self, other: Extent) -> Extent:
        """Of a batch of both."""
        return Extent(*map(max, self, other))


@dataclass(frozen=True, eq=False)
class Row:
    """All ids int32, each grid with its end."""

    shown: tuple[tuple[np.ndarray, np.ndarray], ...]
    """input and output of each demonstration"""
    query: np.ndarray
    answer: np.ndarray
    """empty where it is to be found"""
    left_out: int = 0
    """demonstrations that did not fit"""
    cut: bool = False
    """the answer does not fit, and has no end"""

    def size(self, kind: str) -> int:
        """Positions that it takes in a batch, without padding to its neighbours."""
        return self.extent(kind).positions()

    def extent(self, kind: str) -> Extent:
        if kind == DECODER:
            return Extent(len(self.sequence()) + max(1, len(self.answer)) - 1)
        longest = max((len(grid) for pair in self.shown for grid in pair), default=0)
        grids = 2 * len(self.shown) if kind == CHAMPION else 0
        return Extent(len(self.answer), len(self.query), grids, longest if grids else 0)

    def sequence(self) -> np.ndarray:
        """Demonstrations and query one behind the other, each input and output with what divides them; the answer is
        what comes next."""
        parts = [part for wanted, answer in self.shown for part in ([START], wanted[:-1], [SEPARATOR], answer)]
        return np.concatenate([*parts, [START], self.query[:-1], [SEPARATOR]]).astype(np.int32)


def shown_beside(task: Task, query: Example) -> list[Example]:
    """What may be shown: no example with the query's own input, which would give its answer away, and none twice."""
    seen = {_known(query.input)}
    found = []
    for example in task.examples:
        if example.output is not None and _known(example.input) not in seen:
            seen.add(_known(example.input))
            found.append(example)
    return found


def drawn(task: Task, query: Example, data: PuzzleData, *key: int) -> Row:
    """The query in a view, beside demonstrations in an order; both are decided by the key alone."""
    view, pool = view_of(data.symmetries, data.colours, *key), shown_beside(task, query)
    order = permutation(len(pool), *key, ORDER)[:data.demonstrations]
    return row_of([pool[place] for place in order], query, view)


def row_of(shown: Sequence[Example], query: Example, view: View = View(), with_answer: bool = True) -> Row:
    pairs = tuple((ids_of(view.of(example.input)), ids_of(view.of(example.output))) for example in shown)
    answer = ids_of(view.of(query.output)) if with_answer and query.output is not None else np.empty(0, np.int32)
    return Row(pairs, ids_of(view.of(query.input)), answer)


def fitted(row: Row, kind: str, length: int, fewest: int = 1) -> Row | None:
    """The row in at most so many positions, with as many of its demonstrations as there is room for; None where fewer
    than `fewest` are. An encoder-decoder is shown none: it has no place for them."""
    if kind == ENCODER_DECODER:
        row = replace(row, shown=())
        return row if row.size(kind) <= length else None
    if len(row.shown) < fewest:
        return None
    for count in range(len(row.shown), fewest - 1, -1):
        shorter = replace(row, shown=row.shown[:count], left_out=len(row.shown) - count)
        if shorter.size(kind) <= length:
            return shorter
    return None


def cut_to(row: Row, kind: str, length: int) -> Row:
    """A row to be scored whatever its size: without its last demonstrations, and if it must be, without the end of its
    answer, or of its query."""
    row = row if kind != ENCODER_DECODER else replace(row, shown=())
    found = fitted(row, kind, length, fewest=0)
    if found is not None:
        return found
    alone = replace(row, shown=(), left_out=len(row.shown))
    room = length - 1 if kind == DECODER else length  # there one token of the answer, at least, is in the same row
    query = alone.query if len(alone.query) <= room else np.append(alone.query[:room - 1], alone.query[-1:])
    room = length - len(query) if kind == DECODER else length
    return replace(alone, query=query, answer=alone.answer[:max(1, room)], cut=True)


def _known(grid: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return grid.shape, grid.tobytes()
