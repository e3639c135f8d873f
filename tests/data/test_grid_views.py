"""Views of a puzzle: eight symmetries and exchanged colours, each undone by looking back."""

from __future__ import annotations

import numpy as np
import pytest
from puzzles_help import grid, pair, task

from dstrain.data.grids.task import COLOURS
from dstrain.data.grids.views import SYMMETRIES, View, turned, turned_back, view_of, views_to_answer

SHAPES = [(1, 1), (1, 30), (30, 1), (30, 30), (2, 3)]


def numbered(height: int, width: int) -> np.ndarray:
    return (np.arange(height * width) * 7 % COLOURS).astype(np.uint8).reshape(height, width)


def test_the_eight_symmetries_of_a_grid_are_different_and_these():
    seen = [turned(grid("12", "34"), symmetry).tolist() for symmetry in range(SYMMETRIES)]
    assert seen == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]],
                    [[1, 3], [2, 4]], [[3, 4], [1, 2]], [[4, 2], [3, 1]], [[2, 1], [4, 3]]]
    assert len({str(one) for one in seen}) == 8


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
def test_a_turned_grid_is_turned_back(shape, symmetry):
    whole = numbered(*shape)
    there = turned(whole, symmetry)
    assert there.shape == (shape[::-1] if symmetry in (1, 3, 4, 6) else shape)
    assert np.array_equal(turned_back(there, symmetry), whole)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_grid_in_a_view_is_seen_back(shape):
    whole = numbered(*shape)
    for number in range(200):
        view = view_of(True, "all", 1, number)
        back = view.back(view.of(whole))
        assert back.dtype == np.uint8 and np.array_equal(back, whole)


def test_a_view_says_what_each_colour_becomes():
    view = View(0, (0, 2, 3, 1, 4, 5, 6, 7, 8, 9))
    assert view.of(grid("0123")).tolist() == [[0, 2, 3, 1]]
    assert view.back(grid("0123")).tolist() == [[0, 3, 1, 2]]


def test_all_but_0_leaves_0_alone_and_exchanges_every_other_colour():
    views = [view_of(True, "all_but_0", number) for number in range(300)]
    assert all(view.colours[0] == 0 and sorted(view.colours) == list(range(COLOURS)) for view in views)
    assert all({view.colours[colour] for view in views} == set(range(1, COLOURS)) for colour in range(1, COLOURS))
    assert {view.symmetry for view in views} == set(range(SYMMETRIES))


def test_all_exchanges_0_too_and_none_exchanges_nothing():
    assert {view_of(False, "all", number).colours[0] for number in range(300)} == set(range(COLOURS))
    assert {view_of(False, "none", number) for number in range(100)} == {View()}
    assert {view_of(True, "none", number) for number in range(100)} == {View(symmetry) for symmetry in range(8)}


def test_a_view_is_a_function_of_its_key():
    assert view_of(True, "all", 3, 5) == view_of(True, "all", 3, 5) != view_of(True, "all", 5, 3)


def test_all_grids_of_a_task_are_seen_alike():
    found = task("t", [pair("12 34", "1"), pair("56", "7 8")], [pair("9 0")])
    view = View(1, (9, 8, 7, 6, 5, 4, 3, 2, 1, 0))
    seen = view.of_task(found)
    assert (seen.name, seen.category) == (found.name, found.category)
    assert [array.tolist() for example in seen.demonstrations for array in example] == [
        [[7, 5], [8, 6]], [[8]], [[3], [4]], [[2, 1]]]
    assert seen.queries[0].output is None and seen.queries[0].input.tolist() == [[0, 9]]


def test_the_views_to_answer_in_are_different_and_begin_with_the_puzzle_as_it_is():
    views = views_to_answer(20, True, "all_but_0", 4)
    assert views[0] == View() and len(set(views)) == len(views) == 20
    assert views_to_answer(20, True, "all_but_0", 4) == views
    assert views_to_answer(3, False, "none") == [View()]
    assert set(views_to_answer(12, True, "none")) == {View(symmetry) for symmetry in range(8)}
