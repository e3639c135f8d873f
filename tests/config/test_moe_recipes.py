"""Recipes of the family `moe`: what is filled in, what is refused in which words, and what the packaged ones say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from recipe_texts import recipe_file

from dstrain.config.errors import UserError
from dstrain.config.load import find_recipe, load_recipe, recipe_from_dict, recipe_names, recipe_to_dict
from dstrain.config.moe import MoeObjective
from dstrain.config.schema import Recipe
from dstrain.families.moe import active_parameters
from dstrain.models.moe_lm import MoeLm

SMALLEST = """\
family: moe
model: {preset: tiny}
data:
  train: [{embedded: python-stdlib, part: train}]
batch: {rows: 12, micro_rows: 4, length: 8}
run: {name: smallest, steps: 10}
"""
GPT2_IDS = 50_257


def loaded(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(recipe_file(folder, SMALLEST), overrides)


def test_the_preset_s_sizes_give_way_to_what_is_set_beside_it(tmp_path):
    model = loaded(tmp_path, "model.experts=4", "model.expert_ff=100").model
    sizes = (model.width, model.layers, model.ff, model.experts, model.expert_ff, model.top_k)
    assert sizes == (256, 4, 704, 4, 100, 2)


@pytest.mark.parametrize("heads, weights", [(1, (1.0,)), (3, (1.0, 0.5, 0.3)), (4, (1.0, 0.5, 0.3, 0.2))])
def test_each_head_has_a_weight_by_default(tmp_path, heads, weights):
    objective = loaded(tmp_path, f"model.next_tokens={heads}").objective
    assert objective == MoeObjective(weights=weights) and objective.balance == "both"


def test_a_recipe_read_back_from_a_checkpoint_is_the_same(tmp_path):
    for overrides in ((), ("model.upcycle=runs/dense", "objective.begins=[1, 2, 3, 3]",
                           "objective.final_weights=[1, 0.1, 0, 0]", "model.every=2", "engine.expert_parallel=4")):
        recipe = loaded(tmp_path, *overrides)
        assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


@pytest.mark.parametrize("overrides, said", [
    (["model.preset=null"], "model has no preset and no width, heads, layers, ff, experts, expert_ff; set model.preset "
                            "(tiny, small, medium)"),
    (["model.heads=3"], "model.heads is 3, which does not divide model.width 256"),
    (["model.code=mine"], "model.code is 'mine', which does not name a file and a class in it"),
    (["engine.compile=true"], "engine.compile is on, but how many tokens an expert gets differs from batch to batch"),
    (["model.every=5"], "model.every is 5, but there are only 4 layers, so none would have experts; choose at most 4, "
                        "or family lm"),
    (["model.top_k=1", "model.upcycle=runs/dense"], "model.top_k is 1, so an expert's output is weighted by its "
                                                    "probability"),
    (["objective.balance=none", "objective.bias_speed=0.1"],
     "objective.bias_speed is 0.1, but objective.balance is none, which has none; remove it"),
    (["objective.balance=bias", "objective.balance_weight=0.1"],
     "objective.balance_weight is 0.1, but objective.balance is bias, which has none; remove it"),
    (["model.top_k=9"], "model.top_k is 9, more than the 8 experts there are (model.experts); choose fewer"),
    (["engine.expert_parallel=3"], "engine.expert_parallel is 3, which does not divide model.experts 8; choose one of "
                                   "1, 2, 4, 8"),
    (["model.next_tokens=5"], "model.next_tokens is 5, and only 4 heads have weights by default; write "
                              "objective.weights, 5 numbers"),
    (["objective.weights=[1, 0.5]"], "objective.weights is [1.0, 0.5], but there are 4 heads (model.next_tokens); "
                                     "write 4 numbers"),
    (["objective.begins=[1]"], "objective.begins is [1], but there are 4 heads"),
    (["objective.final_weights=[1]"], "objective.final_weights is [1.0], but there are 4 heads"),
    (["objective.weights=[0, 1, 1, 1]"], "but the first, the next token's, must be above 0, and none below"),
    (["objective.final_weights=[1, 1, 1, -0.1]"], "objective.final_weights is [1.0, 1.0, 1.0, -0.1], but the first"),
    (["objective.begins=[2, 2, 3, 4]"], "must begin with 1 and never fall"),
    (["objective.begins=[1, 3, 2, 4]"], "must begin with 1 and never fall"),
    (["objective.begins=[1, 2, 3, 11]"], "has a head come in at step 11, but the run ends with step 10"),
    (["objective.balance=sometimes"], "objective.balance is 'sometimes'"),
    (["model.further=serial"], "model.further is 'serial'"),
    (["objective.bias_speed=0"], "objective.bias_speed is 0"),
    (["model.block=gelu"], "unknown key 'block' in model"),
    (["data.train=[]"], "nothing to train on"),
    (["family=lm"], "engine.expert_parallel is 2, but family lm has no experts; remove it"),
])
def test_a_mistake_is_one_line_that_names_it(tmp_path, overrides, said):
    if overrides == ["family=lm"]:
        overrides = ["family=lm", "engine.expert_parallel=2"]
    with pytest.raises(UserError, match=".*" + re.escape(said)) as refused:
        loaded(tmp_path, *overrides)
    assert "\n" not in str(refused.value)


# The packaged recipes

PACKAGED = {"moe-quickstart": 257, "moe-mtp-small": GPT2_IDS, "moe-mtp-medium": GPT2_IDS}


@pytest.mark.parametrize("name", ["moe-mtp-small", "moe-mtp-medium"])
def test_a_packaged_recipe_says_how_many_parameters_it_has_and_how_many_a_token_meets(name):
    recipe = load_recipe(name)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in MoeLm(recipe.model, PACKAGED[name], recipe.batch.length, 0.0).parameters())
    active = active_parameters(recipe, parameters)
    assert f"({parameters / 1e6:.1f}M parameters, {active / 1e6:.1f}M active)" in dict(recipe_names())[name]
    text = find_recipe(name).read_text()
    if (without := re.search(r"experts=(\d+) is (\d+)M", text)) is not None:
        fewer = parameters - active_of(recipe, recipe.model.experts - int(without[1]))
        assert f"{fewer / 1e6:.0f}" == without[2]
    memory = re.search(r"18 bytes a parameter in bf16, ([\d.]+) GB", text)[1]
    assert memory == f"{18 * parameters / 1e9:.1f}"
    seen = re.search(r"see about ([\d.]+) targets each", text)
    targets = recipe.run.steps * recipe.batch.rows * recipe.batch.length
    assert seen is None or seen[1] == f"{targets / parameters:.1f}"


def active_of(recipe: Recipe, experts: int) -> int:
    """Parameters of so many experts in every layer, and of their router's rows."""
    model = recipe.model
    return model.layers * experts * (3 * model.width * model.expert_ff + model.width)


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_recipe_names_its_run_after_itself(name):
    recipe = load_recipe(name)
    assert recipe.run.name == name and recipe.family == "moe" and recipe.model.next_tokens == 4


@pytest.mark.parametrize("name", ["small", "medium"])
def test_beside_the_dense_recipe_of_its_size_all_else_is_alike(name):
    dense, moe = load_recipe(f"wikitext103-{name}"), load_recipe(f"moe-mtp-{name}")
    for section in ("data", "batch", "optim", "schedule", "engine", "valid", "checkpoint", "log", "tokenizer"):
        assert getattr(dense, section) == getattr(moe, section)
    for size in ("width", "heads", "layers", "positions", "dropout"):
        assert getattr(dense.model, size) == getattr(moe.model, size)
