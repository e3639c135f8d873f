"""Every group of parameters runs at its own peak times the requested curve: fresh, resumed, and with a changed peak."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from muon_jobs import fused_kernels, lrs_of_training

from dstrain.config.schema import Schedule
from dstrain.doctor.proofs.resume import forget_after, resumable
from dstrain.doctor.proofs.schedule import largest_error

pytestmark = pytest.mark.ranks
STEPS, STOPPED_AT = 20, 10


@pytest.fixture(scope="module")
def recipe(case):
    """20 steps, of which 5 warm up and 5 fall, with a checkpoint in the middle."""
    schedule = Schedule(name="WarmupStableDecayLR", warmup_steps=5, decay_steps=5, floor=0.1)
    return replace(resumable(case.recipe), schedule=schedule,
                   optim=replace(case.recipe.optim, name="muon", lr=1e-3, muon_lr=2e-2),
                   checkpoint=replace(case.recipe.checkpoint, every=STOPPED_AT, keep=99),
                   run=replace(case.recipe.run, name="run", steps=STEPS), valid=replace(case.recipe.valid, every=99))


def asked(step):
    """By hand, as a share of the peak."""
    if step < 5:
        return step / 5
    return 1.0 if step <= 15 else 0.1 + 0.9 * (20 - step) / 5


def worst(used, first_step, peaks):
    """Over all updates of the three groups (Muon's, and AdamW's with and without decay), relative to the peak."""
    assert len(used) == STEPS - first_step + 1
    assert all(lrs.keys() == peaks.keys() for lrs in used)
    return max(abs(lr / peaks[group] - asked(step)) for step, lrs in enumerate(used, start=first_step)
               for group, of_group in lrs.items() for lr in of_group)


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_fp32", "zero1_bf16", "zero2_fp32", "zero3_fp32"])
def test_each_group_runs_at_its_own_peak_and_a_changed_peak_takes_effect_on_going_on(case, recipe, tmp_path, ds_config):
    recipe = replace(recipe, run=replace(recipe.run, dir=str(tmp_path)))
    ranks = case.ranks(2)
    peaks = {"muon 0.1": 2e-2, "adamw 0.1": 1e-3, "adamw 0": 1e-3}
    for used in ranks.run(lrs_of_training, recipe, ds_config):
        assert worst(used, 1, peaks) <= 1e-12

    forget_after(tmp_path, recipe, STOPPED_AT)
    for used in ranks.run(lrs_of_training, recipe, ds_config):
        assert worst(used, STOPPED_AT + 1, peaks) <= 1e-12

    forget_after(tmp_path, recipe, STOPPED_AT)
    changed = replace(recipe, optim=replace(recipe.optim, lr=3e-3, muon_lr=None))
    for used in ranks.run(lrs_of_training, changed, ds_config):
        assert worst(used, STOPPED_AT + 1, dict.fromkeys(peaks, 3e-3)) <= 1e-12


@pytest.mark.parametrize("name", ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR", "WarmupStableDecayLR"])
def test_every_schedule_gives_muon_the_same_share_of_its_own_peak(case, recipe, name):
    schedule = Schedule(name=name, warmup_steps=5, warmup="log", floor=0.0 if name == "WarmupLR" else 0.1,
                        decay_steps=7 if name == "WarmupStableDecayLR" else None)
    assert largest_error(replace(case, recipe=recipe), schedule, ds_config="zero2_fp32") <= 1e-12


def test_the_proof_sees_a_muon_group_at_adamws_rate(case, recipe, monkeypatch):
    """The check can fail: a recipe that asks another peak than the one used is off by it."""
    import dstrain.doctor.proofs.schedule as proof
    monkeypatch.setattr(proof, "asked_share", lambda schedule, step: 0.5 * asked(step))
    assert math.isclose(largest_error(replace(case, recipe=recipe), recipe.schedule), 0.5)


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_fp32", "zero2_offload_bf16", "zero3_bf16"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_adamw_runs_as_one_fused_kernel_and_nothing_else(case, recipe, name, ds_config):
    """Also where the optimizer is offloaded. torch raises for devices that have no fused kernel."""
    optim = replace(recipe.optim, name=name, muon_lr=None)
    for kernels, updated in case.ranks(2).run(fused_kernels, replace(recipe, optim=optim), ds_config):
        assert kernels == {"_fused_adamw_"} and updated >= 2
