"""What every step must do, at every stage: skip together, use the asked lr, leave no parameter out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from rank_jobs import device_waits, live_elements_at_stage_3, loss_scale_round_trip, reordered_partitions

from dstrain.config.schema import Schedule
from dstrain.doctor.proofs.gradient import difference
from dstrain.doctor.proofs.schedule import largest_error
from dstrain.doctor.short_run import short_run, whole
from dstrain.runtime.rank_group import RankError

pytestmark = pytest.mark.ranks
ENGINES = ["zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32", "zero1_bf16", "zero2_bf16", "zero3_bf16"]


def weights_after(case, steps, ds_config, nan_at=None):
    traces = case.ranks(2).run(short_run, case.recipe, ds_config, steps, True, nan_at)
    shapes = {name: tuple(p.shape) for name, p in case.fresh_trainee()[0].model.named_parameters()}
    return traces, whole([trace.weights for trace in traces], shapes)


@pytest.mark.parametrize("ds_config", ENGINES)
def test_a_nan_on_one_rank_skips_the_step_on_all_and_changes_no_bit(case, ds_config):
    _, before = weights_after(case, 2, ds_config)
    traces, after = weights_after(case, 3, ds_config, nan_at=3)
    assert [[record["skipped"] for record in trace.records] for trace in traces] == [[False, False, True]] * 2
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_fp32", "zero3_fp32", "zero1_bf16"])
def test_a_skipped_step_keeps_its_batch_and_its_place_in_the_lr_curve(case, ds_config):
    whole_run, poisoned = (case.ranks(2).run(short_run, case.recipe, ds_config, 5, True, nan_at)[0]
                           for nan_at in (None, 3))
    assert [r["lr"] for r in poisoned.records] == [r["lr"] for r in whole_run.records]
    assert poisoned.rows == whole_run.rows
    assert poisoned.losses[:2] == whole_run.losses[:2] and poisoned.losses[4] != whole_run.losses[4]


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32"])
def test_the_recorded_norm_is_the_gradients_and_clipping_is_by_it(case, ds_config):
    """Clipped at 1/8 of its norm, an SGD-like first Adam step is the same; so the gradient itself is looked at."""
    free = replace(case.recipe, optim=replace(case.recipe.optim, clip=0.0))
    shapes = {name: tuple(p.shape) for name, p in case.fresh_trainee()[0].model.named_parameters()}
    gradients, norm = {}, None
    for clip in (0.0, None):
        recipe = free if clip == 0.0 else replace(case.recipe, optim=replace(case.recipe.optim, clip=norm / 8))
        traces = case.ranks(2).run(short_run, recipe, ds_config, 1)
        gradients[clip] = whole([trace.gradient for trace in traces], shapes)
        norm = norm or traces[0].records[0]["grad_norm"]
        assert traces[0].records[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    true_norm = sum(float(g.square().sum()) for g in gradients[0.0].values()) ** 0.5
    assert norm == pytest.approx(true_norm, rel=1e-5)
    if ds_config != "zero0_fp32":  # at stage 0 the guard clips inside the optimizer's step, after the proof's look
        assert difference(gradients[None], {name: g / 8 for name, g in gradients[0.0].items()}) < 1e-4


@pytest.mark.parametrize("ds_config", ENGINES)
def test_every_parameter_gets_a_gradient_and_moves(case, ds_config):
    traces, after = weights_after(case, 1, ds_config)
    trainee, _ = case.fresh_trainee()
    initial = {name: parameter.detach().double() for name, parameter in trainee.model.named_parameters()}
    gradient = whole([trace.gradient for trace in traces], {name: tuple(g.shape) for name, g in initial.items()})
    assert initial.keys() == after.keys()
    assert [name for name in initial if not float(gradient[name].abs().sum()) > 0] == []
    assert [name for name in initial if torch.equal(initial[name], after[name])] == []


@pytest.mark.parametrize("name", ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"])
@pytest.mark.parametrize("warmup_steps, warmup", [
    (0, "linear"), (1, "linear"), (5, "linear"), (5, "log"), (20, "linear")])
def test_lr_used_at_every_step_is_the_asked_curve(case, name, warmup_steps, warmup):
    schedule = Schedule(name=name, warmup_steps=warmup_steps, warmup=warmup, floor=0.1)
    assert largest_error(case, schedule) <= 1e-12


@pytest.mark.parametrize("world, micro_rows", [(1, 1), (2, 2)])
def test_accumulation_does_not_change_the_lr_curve(case, world, micro_rows):
    assert largest_error(case, Schedule(warmup_steps=5, floor=0.1), world, micro_rows) <= 1e-12


def test_step_ten_of_twenty_with_five_warmup_steps_and_floor_a_tenth_runs_at_775_thousandths(case):
    recipe = replace(case.recipe, run=replace(case.recipe.run, steps=20), schedule=Schedule(warmup_steps=5, floor=0.1))
    trace = case.ranks(1).run(short_run, recipe, "zero1_fp32", 10)[0]
    assert trace.lrs_used[9] / recipe.optim.lr == pytest.approx(0.775, abs=1e-12)
    assert trace.lrs_used[4] == recipe.optim.lr and trace.lrs_used[0] == pytest.approx(recipe.optim.lr / 5)


def test_at_stage_3_no_rank_ever_holds_the_whole_model(case, tmp_path):
    config = tmp_path / "frugal.json"
    config.write_text(json.dumps({"zero_optimization": {
        "stage": 3, "stage3_max_live_parameters": 0, "stage3_param_persistence_threshold": 0,
        "stage3_prefetch_bucket_size": 0, "stage3_max_reuse_distance": 0}}))
    deep = replace(case.recipe, model=replace(case.recipe.model, layers=6))
    for total, built, peak in case.ranks(2).run(live_elements_at_stage_3, deep, str(config)):
        assert built <= 64                # after building, only DeepSpeed's one-element placeholders
        assert 0 < peak < 0.5 * total     # in a step, some blocks at a time


@pytest.mark.parametrize("ds_config", ["zero1_fp32", "frugal"])
def test_activation_checkpointing_changes_neither_losses_nor_gradient(case, tmp_path, ds_config):
    if ds_config == "frugal":
        config = tmp_path / "frugal.json"
        config.write_text(json.dumps({"zero_optimization": {"stage": 3, "stage3_max_live_parameters": 0,
                                                            "stage3_param_persistence_threshold": 0}}))
        ds_config = str(config)
    shapes = {name: tuple(p.shape) for name, p in case.fresh_trainee()[0].model.named_parameters()}
    seen = []
    for switch in (False, True):
        recipe = replace(case.recipe, model=replace(case.recipe.model, checkpoint_activations=switch))
        traces = case.ranks(2).run(short_run, recipe, ds_config, 3)
        seen.append((traces[0].losses, whole([trace.gradient for trace in traces], shapes)))
    assert seen[0][0] == pytest.approx(seen[1][0], rel=1e-6)
    assert difference(seen[1][1], seen[0][1]) < 1e-6


@pytest.mark.parametrize("ds_config, waits", [
    ("zero0_fp32", 2), ("zero1_fp32", 4), ("zero2_fp32", 4), ("zero3_fp32", 4), ("zero2_bf16", 4)])
def test_a_step_waits_for_the_device_as_often_with_one_micro_batch_as_with_four(case, ds_config, waits):
    """What is left is DeepSpeed's and the guard's own decision whether the step is skipped, once a step."""
    recipes = [replace(case.recipe, batch=replace(case.recipe.batch, micro_rows=micro_rows)) for micro_rows in (8, 2)]
    counts = [case.ranks(1).run(device_waits, recipe, ds_config)[0] for recipe in recipes]
    assert counts[0] == counts[1] <= waits


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_fp16s_loss_scale_and_its_counters_are_part_of_the_state(case, stage):
    saved, restored = case.ranks(1).run(loss_scale_round_trip, case.recipe, f"zero{stage}_fp16")[0]
    assert restored == saved
    assert (saved["cur_scale"], saved["cur_iter"], saved["last_overflow_iter"]) == (4096.0, 17, 11)


def test_a_partition_that_is_not_where_it_should_be_stops_the_run(case):
    """DeepSpeed's round_robin_gradients reorders its partitions; training is right, checkpoints would not be."""
    with pytest.raises(RankError, match="is not where dstrain looks for it"):
        case.ranks(2).run(reordered_partitions, case.recipe)
