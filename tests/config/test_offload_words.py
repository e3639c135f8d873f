"""What a user is told before the first step of a run with offload: what is where, and how much memory that takes."""

from __future__ import annotations

import pytest
from recipe_texts import recipe_file

from dstrain.config.engine_json import engine_json
from dstrain.config.load import load_recipe
from dstrain.config.offload import offload_in_words

BILLION = 2**30


def words(tmp_path, name, world=1):
    return offload_in_words(engine_json(load_recipe(recipe_file(tmp_path), ds_config=name), world, "cuda"), BILLION,
                            world)


@pytest.mark.parametrize("name, gib", [("zero1_offload_bf16", 4 + 4 + 8 + 2), ("zero2_offload_fp16", 4 + 4 + 8 + 2),
                                       ("zero3_offload_bf16", 4 + 4 + 8 + 4),
                                       ("zero3_offload_param_bf16", 4 + 4 + 8 + 4 + 2)])
def test_offload_says_how_much_cpu_memory_a_rank_needs(tmp_path, name, gib):
    assert f"about {gib} GiB a rank" in words(tmp_path, name)
    assert f"about {gib / 4:.2g} GiB a rank" in words(tmp_path, name, world=4)


def test_offload_says_what_moves_and_what_stays(tmp_path):
    optimizer, weights = (words(tmp_path, f"zero3_offload_{which}bf16") for which in ("", "param_"))
    moved, stays = optimizer.split("On the device: ")
    assert "fp32 weights, gradients and moments" in moved and "16-bit" not in moved
    assert stays.startswith("16-bit weights")
    moved, stays = weights.split("On the device: ")
    assert "16-bit weights" in moved and stays == "activations"


def test_without_offload_nothing_is_said(tmp_path):
    assert words(tmp_path, "zero3_bf16") is None
