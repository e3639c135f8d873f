"""A sweep: one run a value, with a name of its own."""

from __future__ import annotations

import pytest

from dstrain.cluster.sweep import members_of
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe


def members(sweep, *overrides):
    return members_of(sweep, overrides, lambda overrides: load_recipe("quickstart", overrides))


def test_each_value_has_a_run_of_its_own_named_by_it():
    found = members("optim.lr=1e-3,0.002,3e-3", "run.steps=30")
    assert [member.recipe.run.name for member in found] == [f"quickstart-lr={lr}" for lr in (0.001, 0.002, 0.003)]
    assert [member.recipe.optim.lr for member in found] == [0.001, 0.002, 0.003]
    assert {member.recipe.run.steps for member in found} == {30}


def test_the_same_value_in_the_same_words_names_the_same_folder():
    assert members("optim.lr=1e-3,2e-3")[0].recipe.run.name == members("optim.lr=0.001,5")[0].recipe.run.name


@pytest.mark.parametrize("sweep, names", [
    ("optim.betas=[0.9,0.95],[0.8,0.99]", ["betas=0.9_0.95", "betas=0.8_0.99"]),
    ("run.seed=1,2", ["seed=1", "seed=2"]), ("optim.lr=1e-7,1e-5", ["lr=1e-07", "lr=1e-05"]),
    ("batch.rows=8,32", ["rows=8", "rows=32"]), ("model.block=gelu,swiglu", ["block=gelu", "block=swiglu"]),
    ("data.train.0.part=train,all", ["part=train", "part=all"])])
def test_names_are_short_and_can_name_a_folder(sweep, names):
    assert [member.recipe.run.name.removeprefix("quickstart-") for member in members(sweep)] == names


def test_what_follows_from_the_value_is_worked_out_for_each():
    assert [member.recipe.data.lanes for member in members("batch.rows=6,32")] == [6, 32]


def test_without_a_sweep_there_is_one_run_under_its_own_name():
    (only,) = members(None, "run.name=mine")
    assert only.recipe.run.name == "mine" and only.override == ""


@pytest.mark.parametrize("sweep, said", [
    ("optim.lr", "not a key with several values"), ("optim.lr=1e-3", "not a key with several values"),
    ("optim.lr=1e-3,,2e-3", "not a key with several values"), ("=1,2", "not a key with several values"),
    ("optim.lr=1e-3,0.001", "are the same, or give the same run.name"), ("run.name=a,b", "sweep another key"),
    ("optim.lr=1e-3,-1", "optim.lr"), ("optim.rl=1,2", "optim"), ("batch.rows=0,1", "batch.rows")])
def test_a_wrong_sweep_is_said_in_one_line(sweep, said):
    with pytest.raises(UserError) as raised:
        members(sweep)
    assert said in str(raised.value) and "\n" not in str(raised.value)
