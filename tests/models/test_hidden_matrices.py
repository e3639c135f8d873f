"""Which matrices are Muon's: all inside the blocks and no others, by the model's own word."""

from __future__ import annotations

import pytest
from lm_help import VARIANTS, small_lm


@pytest.mark.parametrize("settings", VARIANTS)
def test_they_are_the_matrices_inside_the_blocks_and_nothing_else(settings):
    model = small_lm(**settings)
    parameters = dict(model.named_parameters())
    hidden = model.hidden_matrices()
    inside = {f"blocks.{number}.{name}" for number, block in enumerate(model.blocks)
              for name, parameter in block.named_parameters() if parameter.dim() == 2}
    assert hidden.keys() == inside and len(inside) == 2 * 4
    assert not [name for name in hidden if model.no_decay(name)]
    others = {name: parameter.dim() for name, parameter in parameters.items() if name not in hidden}
    assert {name for name, dim in others.items() if dim == 2} <= {"embed.weight", "embed_positions.weight"}
    assert {name for name, dim in others.items() if dim == 1} == {name for name in parameters if model.no_decay(name)}


@pytest.mark.parametrize("block, stacked", [("gelu", {"ff.up.weight": 1}), ("swiglu", {"ff.gate_up.weight": 2})])
def test_query_key_and_value_are_three_matrices_and_gate_and_up_are_two(block, stacked):
    model = small_lm(block=block)
    expected = {"attention.qkv.weight": 3, "attention.out.weight": 1, "ff.down.weight": 1, **stacked}
    assert model.hidden_matrices() == {f"blocks.{number}.{name}": count for number in (0, 1)
                                       for name, count in expected.items()}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    heights = {name: shapes[name][0] // count for name, count in model.hidden_matrices().items()}
    assert heights["blocks.0.attention.qkv.weight"] == 16 and heights["blocks.1.ff.down.weight"] == 16
    assert {heights[name] for name in heights if ".ff." in name and "down" not in name} == {32}
