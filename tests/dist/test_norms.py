"""Norms of gradient, weight and update: right at every stage, and without a trace in the run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch
from watch_jobs import measured_steps, training

from dstrain.config.schema import Schedule
from dstrain.doctor.proofs.resume import compare_runs, resumable, run_to_end
from dstrain.doctor.reference import reference_step
from dstrain.runtime.norms import Norms

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def recipe(case):
    """A first update that is smooth in the gradient, as AdamW's is with a large eps, at full lr, clipped."""
    return replace(case.recipe, optim=replace(case.recipe.optim, eps=1e-3, clip=0.5),
                   schedule=Schedule(name="WarmupLR"))


@pytest.fixture(scope="module")
def reference(case, recipe):
    """One process, no DeepSpeed: a gradient in float64, clipped, and one update by torch's own AdamW."""
    model, optim = case.fresh_trainee()[0].model, recipe.optim
    gradient = reference_step(recipe)[1]
    norm = sum(float(g.square().sum()) for g in gradient.values()) ** 0.5
    assert norm > 2 * optim.clip
    norms = {}
    for name, parameter in model.named_parameters():
        before, clipped = parameter.detach().clone(), gradient[name] * optim.clip / (norm + 1e-6)
        parameter.grad = clipped.float()
        torch.optim.AdamW([parameter], lr=optim.lr, betas=optim.betas, eps=optim.eps,
                          weight_decay=0.0 if model.no_decay(name) else optim.weight_decay, fused=True).step()
        after = parameter.detach()
        norms[name] = tuple(float(tensor.double().norm()) for tensor in (clipped, after, after - before))
    return norms


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_norms_are_those_of_a_float64_reference(case, recipe, reference, stage, world):
    for steps in case.ranks(world).run(measured_steps, recipe, f"zero{stage}_fp32", 1):  # alike on all ranks
        norms, _ = steps[0]
        assert norms.keys() == reference.keys()
        for name in reference:
            assert tuple(norms[name]) == pytest.approx(reference[name], rel=1e-5), name


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_norms_are_near_those_of_the_reference(case, recipe, reference, stage):
    (norms, _), = case.ranks(2).run(measured_steps, recipe, f"zero{stage}_bf16", 1)[0]
    for name in reference:
        assert tuple(norms[name]) == pytest.approx(reference[name], rel=3e-2), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero2_fp32", "zero1_bf16", "zero3_bf16", "zero2_offload_bf16",
                                       "zero3_offload_param_bf16"])
def test_all_gradients_together_have_the_recorded_norm_clipped(case, recipe, ds_config, optimizer):
    recipe = replace(recipe, optim=replace(recipe.optim, name=optimizer))
    for norms, recorded in case.ranks(2).run(measured_steps, recipe, ds_config, 3)[0]:
        assert Norms.together(list(norms.values())).gradient == pytest.approx(
            min(recorded, recipe.optim.clip), rel=1e-4)
        assert all(of_name.update > 0 for of_name in norms.values())


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_bf16", "zero3_fp32"])
def test_a_run_with_norms_is_bit_identical_to_one_without(case, ds_config):
    runs = []
    for every in (0, 1):
        runs.append(case.new_folder("norms"))
        run_to_end(case, watched(case, every), runs[-1], 2, ds_config)
    differences, compared = compare_runs(*runs, resumable(case.recipe))
    assert differences == [] and compared > 20


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_fp32", "zero3_fp32"])
def test_a_parameter_that_does_not_move_is_named_once(case, ds_config):
    told = case.ranks(2).run(training, at(case, watched(case, 1)), ds_config, "still parameter")
    assert [line for line in told[0].lines if "do not move" in line] == [
        "step 1: 1 parameter(s) do not move: norm.bias; no gradient reaches them"]
    assert told[0].error is None and told[1].lines == []


def test_a_skipped_step_is_not_taken_for_one_that_moves_nothing(case):
    told = case.ranks(1).run(training, at(case, watched(case, 1)), "zero1_fp32", "still parameter, nan", 1)[0]
    assert [line for line in told.lines if "do not move" in line] == [
        "step 2: 1 parameter(s) do not move: norm.bias; no gradient reaches them"]


def test_updates_below_the_weights_resolution_are_said(case):
    recipe = watched(case, 1)
    recipe = replace(recipe, optim=replace(recipe.optim, lr=1e-12))
    lines = case.ranks(1).run(training, at(case, recipe), "zero1_fp32")[0].lines
    assert any("too small to change them" in line and "norm.weight" in line for line in lines)


def watched(case, every):
    recipe = resumable(case.recipe)
    return replace(recipe, log=replace(recipe.log, norms_every=every))


def at(case, recipe):
    return replace(recipe, run=replace(recipe.run, dir=str(case.new_folder("watched"))))
