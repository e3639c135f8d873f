"""A grid as ids and back, whatever its shape; ids that are no grid spell none."""

from __future__ import annotations

import numpy as np
import pytest
from puzzles_help import grid, pair, task

from dstrain.data.grids.task import category_by_size
from dstrain.data.grids.tokens import END, LONGEST, ROW_END, SEPARATOR, START, VOCABULARY, grid_of, ids_of

R, E = ROW_END, END


def test_ids_are_rows_with_their_ends_and_an_end():
    ids = ids_of(grid("012", "345"))
    assert ids.tolist() == [0, 1, 2, R, 3, 4, 5, R, E] and ids.dtype == np.int32
    assert ids_of(grid("7")).tolist() == [7, R, E]


def test_what_is_no_cell_has_an_id_of_its_own():
    assert sorted({ROW_END, START, END, SEPARATOR}) == [10, 11, 12, 13] and VOCABULARY == 14


@pytest.mark.parametrize("height, width", [(1, 1), (1, 30), (30, 1), (30, 30), (2, 3), (3, 2), (29, 30)])
def test_a_grid_is_spelled_and_read_back(height, width):
    whole = np.random.default_rng(height * 31 + width).integers(0, 10, (height, width), np.uint8)
    ids = ids_of(whole)
    assert len(ids) == height * (width + 1) + 1 <= LONGEST
    back = grid_of(ids)
    assert back.dtype == np.uint8 and np.array_equal(back, whole)


def test_what_stands_behind_the_end_is_not_read():
    assert grid_of([1, R, E, 5, R, E, 0]).tolist() == [[1]]


@pytest.mark.parametrize("ids, why", [
    ([], "nothing"), ([E], "no rows"), ([1, R], "no end"), ([1, 2, E], "no row end"), ([1, 2, R, 3, E], "a cut row"),
    ([1, 2, R, 3, R, E], "rows of different lengths"),
    ([1, R, 2, 3, 4, R, E], "the same, as many ids as two rows have"),
    ([R, E], "a row without cells"), ([R, R, E], "rows without cells"), ([START, 1, R, E], "a start"),
    ([1, SEPARATOR, R, E], "a separator for a cell"), ([-1, R, E], "a number below all ids"), ([14, R, E], "one above"),
    ([0] * 31 + [R, E], "31 wide"), ([0, R] * 31 + [E], "31 high"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_ids_that_are_no_grid_spell_none(ids, why):
    assert grid_of(ids) is None


def test_tasks_are_grouped_by_how_sizes_differ():
    def category(*pairs: dict) -> str:
        return category_by_size(task("t", list(pairs), []).demonstrations)

    assert category(pair("12", "34"), pair("1", "2")) == "same size"
    assert category(pair("12", "3")) == category(pair("12 34", "123")) == "smaller"
    assert category(pair("12", "12 34")) == category(pair("1", "12")) == "larger"
    assert category(pair("1", "1"), pair("1", "12")) == "mixed sizes"
    assert category(pair("12", "1 2")) == "smaller", "as many cells in another shape"
