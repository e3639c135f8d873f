"""Norms by layer: how parameters are put together for TensorBoard, and which are said not to move."""

from __future__ import annotations

import pytest

from dstrain.runtime.norms import Norms
from dstrain.train.movement import Movement, part_of


@pytest.mark.parametrize("name, part", [
    ("blocks.3.attention.qkv.weight", "blocks.03.attention"), ("blocks.3.attention.qkv.bias", "blocks.03.attention"),
    ("blocks.11.ff_norm.weight", "blocks.11.ff_norm"), ("encoder.blocks.0.ff.up.weight", "encoder.blocks.00.ff"),
    ("embed.weight", "embed"), ("norm.bias", "norm"), ("heads.2.weight", "heads.02"), ("scale", "scale")])
def test_parameters_belong_to_a_block_and_a_part_of_it(name, part):
    assert part_of(name) == part


def test_norms_of_a_part_are_the_roots_of_summed_squares_and_the_ratio_is_update_per_weight():
    shown = Movement().scalars({
        "blocks.0.ff.up.weight": Norms(3.0, 30.0, 0.3), "blocks.0.ff.up.bias": Norms(4.0, 40.0, 0.4),
        "norm.bias": Norms(1.0, 0.0, 0.0)})
    assert shown == {
        "gradient_norm/blocks.00.ff": 5.0, "weight_norm/blocks.00.ff": 50.0, "update_norm/blocks.00.ff": 0.5,
        "update_per_weight/blocks.00.ff": 0.01,
        "gradient_norm/norm": 1.0, "weight_norm/norm": 0.0, "update_norm/norm": 0.0}  # nothing is divided by 0


def test_parameters_that_do_not_move_are_named_once_with_the_reason():
    movement = Movement()
    norms = {"a.weight": Norms(1.0, 1.0, 0.1), "b.weight": Norms(0.0, 1.0, 0.0), "c.weight": Norms(1.0, 1.0, 0.0)}
    assert movement.news(1, norms, lr=0.0) == []  # at lr 0 nothing should move
    assert movement.news(2, norms, lr=1e-3) == [
        "step 2: 1 parameter(s) do not move: b.weight; no gradient reaches them",
        "step 2: 1 parameter(s) do not move: c.weight; their updates are too small to change them"]
    assert movement.news(3, norms, lr=1e-3) == []
    norms["a.weight"] = Norms(0.0, 1.0, 0.0)
    assert movement.news(4, norms, lr=1e-3) == [
        "step 4: 1 parameter(s) do not move: a.weight; no gradient reaches them"]


def test_what_rests_as_the_recipe_wants_it_is_named_when_it_should_move():
    movement = Movement()
    norms = {"further.0.norm.weight": Norms(0.0, 1.0, 0.0), "c.weight": Norms(1.0, 1.0, 0.0)}
    assert ["c.weight" in line for line in movement.news(1, norms, lr=1e-3, rests=True)] == [True]
    line, = movement.news(2, norms, lr=1e-3)
    assert "further.0.norm.weight; no gradient reaches them" in line


def test_a_line_names_six_parameters_and_counts_the_others():
    line, = Movement().news(1, {f"p{n}": Norms(0.0, 1.0, 0.0) for n in range(100)}, lr=1.0)
    assert "100 parameter(s)" in line and "p5 and 94 more" in line and len(line) < 120
