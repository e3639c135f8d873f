"""A changed lr, weight decay, clipping or betas is said on resume and decides the very next update, at every stage."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from dstrain.doctor.proofs.resume import forget_after, resumable, run_to_end
from dstrain.runtime.schedules import share_of_peak
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks

CHANGED = {"lr": 3.0e-3, "weight_decay": 0.37, "clip": 0.05, "betas": (0.7, 0.8)}


@pytest.fixture(scope="module")
def stopped(case, tmp_path_factory):
    """A run with a checkpoint at step 2, and what the recipe may say from there on."""
    folder, recipe = tmp_path_factory.mktemp("stopped"), resumable(case.recipe)
    recipe = replace(recipe, checkpoint=replace(recipe.checkpoint, every=1))
    run_to_end(case, recipe, folder, 2, "zero1_fp32")
    forget_after(folder, recipe, 2)
    return recipe, folder


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32"])
def test_the_next_update_is_adamw_with_the_new_settings(case, stopped, tmp_path, ds_config):
    recipe, folder = stopped
    shutil.copytree(folder, tmp_path / "copy")
    recipe = replace(recipe, optim=replace(recipe.optim, **CHANGED))
    run_to_end(case, recipe, tmp_path / "copy", 2, ds_config)
    run = RunFolder(tmp_path / "copy/run")
    before, after = (state_at(run, step) for step in (2, 3))
    lr = CHANGED["lr"] * share_of_peak(recipe.schedule, recipe.run.steps, 3)
    record = next(line for line in read_lines(run.metrics) if line["step"] == 3)
    assert record["lr"] == pytest.approx(lr, rel=1e-12)
    assert record["grad_norm"] > 2 * CHANGED["clip"]  # so the clipping is seen
    assert off_by_hand(before, after, {**CHANGED, "lr": lr}, 3, recipe.optim.eps) < 2e-4
    for key, old in (("lr", 0.8 * lr), ("weight_decay", 0.1), ("clip", 1.0), ("betas", (0.9, 0.95)),
                     ("betas", (0.7, 0.95))):
        wrong = off_by_hand(before, after, {**CHANGED, "lr": lr, key: old}, 3, recipe.optim.eps)
        assert wrong > 2e-3, f"the old {key} would not be noticed"


def state_at(run: RunFolder, step: int) -> dict[str, dict[str, torch.Tensor]]:
    folder = run.checkpoints / f"step_{step:08d}"
    return {key: {name: tensor.double() for name, tensor in load_file(folder / f"{key}.safetensors").items()}
            for key in ("model", "optimizer-exp_avg", "optimizer-exp_avg_sq")}


def off_by_hand(before: dict, after: dict, optim: dict, step: int, eps: float) -> float:
    """The largest relative deviation of AdamW by hand from what the checkpoint after the step holds.

    The gradient comes from the first moment. Then its norm, the second moment and the weights have no freedom left.
    """
    (beta1, beta2), worst, squares = optim["betas"], 0.0, 0.0
    for name, weight in before["model"].items():
        m0, v0, m, v = (state[f"optimizer-{key}"][name] for state in (before, after)
                        for key in ("exp_avg", "exp_avg_sq"))
        gradient = (m - beta1 * m0) / (1 - beta1)
        squares += float(gradient.square().sum())
        worst = max(worst, relative(beta2 * v0 + (1 - beta2) * gradient.square(), v))
        decay = 0.0 if name.endswith("bias") or "norm" in name else optim["weight_decay"]
        moved = m / (1 - beta1**step) / ((v / (1 - beta2**step)).sqrt() + eps)
        expected = -optim["lr"] * decay * weight - optim["lr"] * moved
        worst = max(worst, relative(expected, after["model"][name] - weight))
    return max(worst, abs(squares**0.5 / optim["clip"] - 1))


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())
