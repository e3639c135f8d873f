"""A user's own DeepSpeed file: used where the recipe is silent, fine where equal, refused where different."""

from __future__ import annotations

import pytest
from recipe_texts import SMALLEST, ds_file, recipe_file

from dstrain.config.engine_json import engine_json
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe

SILENT = SMALLEST.replace("rows: 12, micro_rows: 4, ", "").replace(", steps: 10", "")

EVERYTHING = {
    "train_batch_size": 32, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 4,
    "gradient_clipping": 0.5,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.2,
                                              "torch_adam": True}},
    "scheduler": {"type": "WarmupCosineLR", "params": {
        "warmup_num_steps": 7, "warmup_type": "log", "warmup_min_ratio": 0, "total_num_steps": 70,
        "cos_min_ratio": 0.05}},
}


def test_a_silent_recipe_takes_all_its_numbers_from_the_file(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path, SILENT), ds_config=ds_file(tmp_path, EVERYTHING))
    assert (recipe.batch.rows, recipe.batch.micro_rows, recipe.run.steps) == (32, 4, 70)
    assert (recipe.optim.lr, recipe.optim.betas, recipe.optim.eps) == (1e-3, (0.8, 0.9), 1e-6)
    assert (recipe.optim.weight_decay, recipe.optim.clip) == (0.2, 0.5)
    schedule = recipe.schedule
    assert (schedule.name, schedule.warmup_steps, schedule.warmup, schedule.floor) == ("WarmupCosineLR", 7, "log", 0.05)
    assert recipe.data.lanes == 32


def test_optimizer_and_scheduler_do_not_reach_deepspeed(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path, SILENT), ds_config=ds_file(tmp_path, EVERYTHING))
    settings = engine_json(recipe, 2, "cpu")
    assert "optimizer" not in settings and "scheduler" not in settings
    assert (settings["train_batch_size"], settings["gradient_accumulation_steps"]) == (32, 4)  # 2 ranks x 4 x 4 rows


def test_equal_numbers_are_fine(tmp_path):
    settings = {"train_batch_size": 12, "train_micro_batch_size_per_gpu": 4,
                "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "betas": [0.9, 0.95]}}}
    recipe = load_recipe(recipe_file(tmp_path), ["optim.lr=1e-3", "optim.betas=[0.9, 0.95]"],
                         ds_config=ds_file(tmp_path, settings))
    assert recipe.optim.lr == 1e-3


def test_auto_is_the_recipes_number(tmp_path):
    block = {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}}
    schedule = {"type": "WarmupDecayLR", "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto",
                                                    "warmup_num_steps": "auto", "total_num_steps": "auto"}}
    path = ds_file(tmp_path, {key: "auto" for key in EVERYTHING} | {"optimizer": block, "scheduler": schedule})
    recipe = load_recipe(recipe_file(tmp_path), ds_config=path)
    assert (recipe.batch.rows, recipe.optim.lr, recipe.schedule.name) == (12, 6e-4, "WarmupDecayLR")
    assert engine_json(recipe, 1, "cpu")["gradient_clipping"] == 1.0


DIFFERENT = {
    "rows": ({"train_batch_size": 24}, [], ["train_batch_size", "24", "batch.rows", "12", "line 6"]),
    "micro rows": ({"train_micro_batch_size_per_gpu": 2}, [],
                   ["train_micro_batch_size_per_gpu", "2", "micro_rows", "4"]),
    "clip": ({"gradient_clipping": 0.5}, ["optim.clip=1"],
             ["gradient_clipping", "0.5", "optim.clip", "command line"]),
    "lr": ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}, ["optim.lr=2e-3"],
           ["optimizer.params.lr", "0.001", "optim.lr", "0.002"]),
    "the file against itself": ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}},
                                 "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 2e-3}}}, [],
                                ["warmup_max_lr", "0.002", "optim.lr", "0.001"]),
    "steps": ({"scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 11}}}, [],
              ["total_num_steps", "11", "run.steps", "10"]),
    "steps from tokens": ({"scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 11}}},
                          ["run.steps=null", "run.tokens=1e4"], ["total_num_steps", "11", "run.steps", "105"]),
    "schedule": ({"scheduler": {"type": "WarmupLR"}}, ["schedule.name=WarmupDecayLR"],
                 ["scheduler.type", "WarmupLR", "schedule.name", "WarmupDecayLR"]),
    "another optimizer": ({"optimizer": {"type": "Lamb"}}, [], ["optimizer.type", "'Lamb'", "AdamW"]),
    "DeepSpeed's own Muon": ({"optimizer": {"type": "Muon", "params": {"lr": 0.02}}}, [],
                             ["optimizer.type", "'Muon'", "optim.name=muon", "optim.muon_lr"]),
    "not fused": ({"optimizer": {"type": "AdamW", "params": {"fused": False}}}, [],
                  ["optimizer.params.fused", "False", "True"]),
    "another scheduler": ({"scheduler": {"type": "OneCycle"}}, [], ["scheduler.type", "'OneCycle'", "WarmupCosineLR"]),
    "l2 instead of decay": ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, [],
                            ["optimizer.params.adam_w_mode", "False", "True"]),
    "unknown parameter": ({"optimizer": {"type": "Adam", "params": {"learning_rate": 1}}}, [],
                          ["optimizer.params.learning_rate", "does not know"]),
    "a warm-up from above 0": ({"scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": 1e-5}}}, [],
                               ["scheduler.params.warmup_min_lr", "1e-05"]),
    "params without a type": ({"optimizer": {"params": {"lr": 1}}}, [], ["optimizer", "type"]),
    "a wrong type": ({"optimizer": {"type": "Adam", "params": {"lr": "fast"}}}, [],
                     ["mine.json", "optimizer.params.lr", "'fast'", "number"]),
}


@pytest.mark.parametrize("settings, overrides, parts", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_a_file_that_says_another_number_is_refused_by_name(settings, overrides, parts, tmp_path):
    with pytest.raises(UserError) as caught:
        load_recipe(recipe_file(tmp_path), overrides, ds_config=ds_file(tmp_path, settings))
    text = str(caught.value)
    assert "\n" not in text
    for part in ["mine.json", *parts]:
        assert part in text


def test_another_accumulation_is_refused_once_the_ranks_are_known(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path), ds_config=ds_file(tmp_path, {"gradient_accumulation_steps": 3}))
    assert engine_json(recipe, 1, "cpu")["gradient_accumulation_steps"] == 3
    with pytest.raises(UserError, match="gradient_accumulation_steps is 3.*2 ranks takes 2 micro-batches of 3 rows"):
        engine_json(recipe, 2, "cpu")


def test_the_command_lines_file_wins_over_the_recipes(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path, SMALLEST + "engine: {config: zero3_bf16}\n"), ds_config="zero2_fp32")
    assert recipe.engine.config == "zero2_fp32"
    assert engine_json(recipe, 1, "cpu")["zero_optimization"]["stage"] == 2
    assert engine_json(recipe, 1, "cpu", ds_config="zero1_bf16")["zero_optimization"]["stage"] == 1


def test_engine_json_refuses_a_file_that_the_recipe_was_not_joined_with(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path))
    with pytest.raises(UserError, match="train_batch_size is 32, but batch.rows is 12"):
        engine_json(recipe, 1, "cpu", ds_config=ds_file(tmp_path, {"train_batch_size": 32}))
