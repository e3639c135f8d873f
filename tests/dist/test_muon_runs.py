"""Runs with Muon keep every promise: the same losses on any shape, bit-identical going on, moments by kind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from small_run import as_format_1
from muon_jobs import restore, with_muon
from safetensors.torch import load_file

from dstrain.doctor.proofs.resume import differences_after_two_stops, forget_after, resumable, run_to_end
from dstrain.doctor.proofs.same_curve import STEPS, compare, run
from dstrain.runtime.checkpoint.manifest import verify
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks
# Relative, over 20 steps. Measured between shapes: 1e-8, where Muon's single updates differ by 5e-6 of their size.
LOSS_BOUND, BF16_LOSS_BOUND = 1e-6, 5e-3


@pytest.fixture(scope="module")
def muon(case):
    return with_muon(case)


@pytest.fixture(scope="module")
def one_rank(muon):
    return run(muon, 1, 8, "zero1_fp32")


@pytest.mark.parametrize("ds_config, world", [
    ("zero0_fp32", 2), ("zero1_fp32", 4), ("zero2_fp32", 3), ("zero3_fp32", 4), ("offloaded", 2), ("sub_groups", 3)])
def test_twenty_losses_and_all_rows_are_those_of_one_rank(muon, one_rank, tmp_path, ds_config, world):
    own = {"offloaded": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
           "sub_groups": {"stage": 3, "sub_group_size": 3000, "offload_optimizer": {"device": "cpu"}}}
    if ds_config in own:
        path = tmp_path / f"{ds_config}.json"
        path.write_text(json.dumps({"zero_optimization": own[ds_config]}))
        ds_config = str(path)
    error, other_rows = compare(one_rank, [run(muon, world, 2, ds_config)])
    assert len(one_rank.losses) == STEPS and other_rows == 0
    assert error <= LOSS_BOUND


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_stays_within_its_bound_of_fp32(muon, one_rank, stage):
    error, other_rows = compare(one_rank, [run(muon, 2, 2, f"zero{stage}_bf16")])
    assert other_rows == 0
    assert error <= BF16_LOSS_BOUND


@pytest.mark.parametrize("world, ds_config", [
    (2, "zero0_fp32"), (1, "zero1_fp32"), (3, "zero2_fp32"), (3, "zero3_fp32"), (2, "zero1_bf16")])
def test_stopped_twice_and_continued_is_bit_identical(muon, world, ds_config):
    differences, compared = differences_after_two_stops(muon, world, ds_config)
    assert differences == [] and compared == 6 + 6 + 3 * 5  # metrics and ledger lines, files of three checkpoints


@pytest.fixture(scope="module")
def straight(muon):
    """A run on two ranks with ZeRO-2, with checkpoints at steps 2, 4 and 6."""
    folder = muon.folder / "straight-muon"
    run_to_end(muon, resumable(muon.recipe), folder, 2, "zero2_fp32")
    return folder


@pytest.mark.parametrize("world, ds_config", [(1, "zero0_fp32"), (3, "zero3_fp32"), (4, "zero1_fp32")])
def test_continued_on_another_shape_has_the_same_rows_and_losses(muon, straight, tmp_path, world, ds_config):
    recipe = resumable(muon.recipe)
    moved = tmp_path / "moved"
    shutil.copytree(straight, moved)
    forget_after(moved, recipe, 2)
    run_to_end(muon, replace(recipe, batch=replace(recipe.batch, micro_rows=1)), moved, world, ds_config)
    before, after = (RunFolder(folder / "run") for folder in (straight, moved))
    assert read_lines(before.ledger) == read_lines(after.ledger)
    for one, other in zip(read_lines(before.metrics), read_lines(after.metrics), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=LOSS_BOUND)
        assert (other["lr"], other["tokens"]) == (one["lr"], one["tokens"])


def test_a_checkpoint_holds_each_moment_of_the_parameters_that_have_it(case, straight):
    model = case.fresh_trainee()[0].model
    stacked, initial = model.hidden_matrices(), dict(model.named_parameters())
    folder = straight / "run/checkpoints/step_00000006"
    names = {kind: set(load_file(folder / f"optimizer-{kind}.safetensors")) for kind in (
        "exp_avg", "exp_avg_sq", "momentum")}
    assert names["momentum"] == set(stacked)
    assert names["exp_avg"] == names["exp_avg_sq"] == set(initial) - set(stacked)
    assert all(values.any() for values in load_file(folder / "optimizer-momentum.safetensors").values())


@pytest.fixture(scope="module")
def of_adamw(muon):
    """(the same recipe with AdamW, its checkpoint at step 2)"""
    recipe = replace(muon.recipe, optim=replace(muon.recipe.optim, name="adamw", muon_lr=None))
    folder, short = muon.folder / "adamw", resumable(recipe)
    run_to_end(muon, replace(short, run=replace(short.run, steps=2)), folder, 2)
    return recipe, folder / "run/checkpoints/step_00000002"


def test_another_optimizer_than_the_checkpoints_is_refused(muon, straight, of_adamw, tmp_path):
    adamw, by_adamw = of_adamw
    by_muon = straight / "run/checkpoints/step_00000002"
    for recipe, saved in ((muon.recipe, by_adamw), (adamw, by_muon)):
        for said in muon.ranks(2).run(restore, recipe, "zero2_fp32", saved, tmp_path):
            assert "names the optimizer's exp_avg of" in said and "set optim.name back to what made it" in said
    assert not list(tmp_path.glob("step_*"))


def test_a_checkpoint_from_before_there_was_muon_loads(muon, of_adamw, tmp_path):
    """Its manifest does not say which moments there are: AdamW's two."""
    recipe, saved = of_adamw
    old = tmp_path / "old"
    shutil.copytree(saved, old)
    assert json.loads((old / "manifest.json").read_text())["moments"] == ["exp_avg", "exp_avg_sq"]
    as_format_1(old)
    assert verify(old) is None
    assert muon.ranks(2).run(restore, recipe, "zero3_fp32", old, tmp_path) == [2, 2]
    for name in ("model", "optimizer-exp_avg", "optimizer-exp_avg_sq"):
        again = (tmp_path / "step_00000002" / f"{name}.safetensors").read_bytes()
        assert again == (saved / f"{name}.safetensors").read_bytes()
