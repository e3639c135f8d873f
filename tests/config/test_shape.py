"""How rows are divided among ranks and micro-batches."""

from __future__ import annotations

import pytest
from recipe_texts import recipe_file

from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe
from dstrain.config.shape import Shape, shape_of


@pytest.mark.parametrize("rows, lanes, micro, world, expected", [
    (12, 12, 4, 1, (4, 3)),    # 12 rows: 3 x 4
    (12, 12, 4, 2, (3, 2)),    # 6 rows on each: 2 x 3, not 4 + 2
    (12, 12, 100, 3, (4, 1)),  # 4 rows on each fit in one
    (12, 12, 4, 5, (3, 1)),    # lanes 3, 3, 2, 2, 2: the fullest has 3
    (12, 4, 4, 3, (3, 2)),     # 3 rows a lane; ranks have 2, 1, 1 lanes: 6 rows, 2 x 3
    (12, 12, 1, 12, (1, 1)),
])
def test_the_fullest_rank_decides_the_shape_of_all(tmp_path, rows, lanes, micro, world, expected):
    overrides = [f"batch.rows={rows}", f"data.lanes={lanes}", f"batch.micro_rows={micro}"]
    recipe = load_recipe(recipe_file(tmp_path), overrides)
    assert shape_of(recipe, world) == Shape(world, *expected)


@pytest.mark.parametrize("world", range(1, 13))
def test_every_rank_has_room_for_all_its_rows(tmp_path, world):
    shape = shape_of(load_recipe(recipe_file(tmp_path)), world)
    lanes_of_the_fullest = sum(1 for lane in range(12) if lane % world == 0)
    assert shape.micro_rows <= 4
    assert 0 <= shape.micro_rows * shape.accumulation - lanes_of_the_fullest < shape.accumulation


def test_more_ranks_than_lanes_is_an_error_that_says_what_to_set(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path), ["data.lanes=4"])
    with pytest.raises(UserError, match="6 ranks.*data.lanes 4.*at least 6.*at most 4 ranks"):
        shape_of(recipe, 6)
    with pytest.raises(UserError, match="13 ranks.*raise batch.rows to at least 13"):
        shape_of(recipe, 13)
