"""Batches of puzzles keep their budget, in every way in which a row can be large."""

from __future__ import annotations

import numpy as np
import pytest

from dstrain.data.grids.cutting import cut_by_size
from dstrain.data.grids.grid_batch import collate_grids
from dstrain.data.grids.row import CHAMPION, DECODER, ENCODER_DECODER, Row
from dstrain.data.grids.tokens import ids_of

KINDS = (DECODER, ENCODER_DECODER, CHAMPION)


def row(shown: int, side: int, query: int = 1, answer: int = 1) -> Row:
    """Squares: a grid of `side` has side * (side + 1) + 1 ids."""
    def square(size: int) -> np.ndarray:
        return ids_of(np.ones((size, size), np.uint8))

    return Row(((square(side), square(side)),) * shown, square(query), square(answer))


def many(seed: int) -> list[Row]:
    random = np.random.default_rng(seed)
    return [row(*random.integers(1, (7, 9, 9, 9)).tolist()) for _ in range(60)]


def positions(rows: list[Row], kind: str) -> int:
    """Of the padded tensors that are read, or of those that are written."""
    batch = collate_grids(rows, range(len(rows)), kind)
    read = sum(tensor.numel() for tensor in (batch.source_BS, batch.context_BX) if tensor is not None)
    return max(read, batch.ids_BT.numel())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [700, 1500, 6000])
def test_no_batch_takes_more_positions_than_it_may_when_it_is_padded(kind: str, tokens: int):
    for seed in range(4):
        rows = many(seed)
        cut = cut_by_size(rows, kind, tokens)
        assert sorted(place for batch in cut for place in batch) == list(range(60))
        for batch in cut:
            assert positions([rows[place] for place in batch], kind) <= tokens or len(batch) == 1


def test_rows_of_many_grids_do_not_stand_beside_rows_of_large_ones():
    """A query takes 3 positions. Six grids of 3 and two of 13: 21 and 29 positions alone, together 2 x (3 + 6 x 13)."""
    rows = [row(3, 1), row(1, 3)] * 4
    assert [one.size(CHAMPION) for one in rows[:2]] == [3 + 6 * 3, 3 + 2 * 13]
    cut = cut_by_size(rows, CHAMPION, 120)
    assert sorted(map(sorted, cut)) == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_batches_are_even_and_no_more_than_they_must_be():
    """Ten rows of 9 positions where 45 are allowed: five and five; of 40, four at most, so three batches of 3 or 4."""
    rows = [row(1, 1) for _ in range(10)]
    assert [len(batch) for batch in cut_by_size(rows, CHAMPION, 45)] == [5, 5]
    assert sorted(len(batch) for batch in cut_by_size(rows, CHAMPION, 40)) == [2, 4, 4]
