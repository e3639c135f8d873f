"""Rows without end out of sources of puzzles. The n-th row of a source is a function of n and the seed.

Every question of a source comes once an epoch, in an order and a view of that epoch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.data.grids.corpus import PuzzleCorpus
from dstrain.data.grids.row import Row, drawn, fitted
from dstrain.data.hashing import PUZZLES, VIEWS, order_of

STATE = ("given",)
"""questions that were given or passed over since the run began"""


class Draws:
    """One source's rows."""

    def __init__(self, corpus: PuzzleCorpus, recipe: Recipe, state: dict[str, int]):
        self._corpus, self._data, self._seed = corpus, recipe.data, recipe.run.seed
        self._kind, self._length = recipe.model.kind, recipe.batch.length
        self.given = state["given"]
        self.over_long = 0
        """questions that were passed over, because not even one demonstration fits beside them"""

    def state(self) -> dict[str, int]:
        return {"given": self.given}

    @property
    def epoch(self) -> int:
        return self.given // len(self._corpus)

    def take(self) -> Row:
        """The next row that fits."""
        for _ in range(len(self._corpus)):
            row = self._next()
            if row is not None:
                return row
            self.over_long += 1
        raise self._nothing_fits()

    def _next(self) -> Row | None:
        epoch, place = divmod(self.given, len(self._corpus))
        number = int(_order(len(self._corpus), PUZZLES, self._seed, self._corpus.number, epoch)[place])
        self.given += 1
        task, query = self._corpus.question(number)
        row = drawn(task, query, self._data, VIEWS, self._seed, self._corpus.number, epoch, number)
        return fitted(row, self._kind, self._length)

    def _nothing_fits(self) -> UserError:
        return UserError(f"{self._corpus.name}: no puzzle fits into batch.length {self._length} with a demonstration "
                         f"beside it, so none is left to train on; raise batch.length")


class Mixed:
    """Sources as one, so that each gives its share of the rows."""

    def __init__(self, draws: Sequence[Draws], weights: Sequence[float]):
        self.draws = draws
        self._shares = [weight / sum(weights) for weight in weights]

    def take(self) -> tuple[int, Row]:
        """(number of the source, its next row): of the source that, with half of its next row, is furthest behind."""
        due = [(draws.given + 0.5) / share for draws, share in zip(self.draws, self._shares)]
        source = due.index(min(due))
        return source, self.draws[source].take()


@lru_cache(maxsize=8)
def _order(count: int, *key: int) -> np.ndarray:
    return order_of(np.arange(count), *key)
