"""Muon's rule on real ranks at every ZeRO stage, against a few lines of float64; nothing of it in a skipped step."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from muon_jobs import watched_steps, with_muon

from dstrain.doctor.reference import reference_step
from dstrain.doctor.short_run import whole

pytestmark = pytest.mark.ranks
# Relative to the update. Measured: 1.5e-6 (Newton-Schulz in fp32 against float64) and 1.3e-5 (AdamW where a gradient is
# nothing but rounding).
MUON_BOUND, ADAMW_BOUND = 2e-5, 1e-4
CLIP = 0.25  # of a gradient whose norm is more than four times that


@pytest.fixture(scope="module")
def muon(case):
    return with_muon(case)


@pytest.fixture(scope="module")
def initial(case):
    return {name: parameter.detach().double() for name, parameter in case.fresh_trainee()[0].model.named_parameters()}


@pytest.fixture(scope="module")
def stacked(case):
    return case.fresh_trainee()[0].model.hidden_matrices()


def orthogonalized(matrix):
    """By its singular values: each goes five times through the quintic, after division by the Frobenius norm."""
    u, s, v = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ v


def muon_reference(weight, gradients, count, lrs, decay=0.1, beta=0.95):
    """A parameter of `count` matrices, in float64, after one update a gradient."""
    momentum = torch.zeros_like(weight)
    for gradient, lr in zip(gradients, lrs, strict=True):
        momentum = beta * momentum + (1 - beta) * gradient
        direction = (1 - beta) * gradient + beta * momentum
        update = torch.cat([0.2 * max(block.shape) ** 0.5 * orthogonalized(block) for block in direction.chunk(count)])
        weight = weight * (1 - lr * decay) - lr * update
    return weight


def adamw_reference(weight, gradients, decay, lrs, betas=(0.9, 0.95), eps=1e-8):
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for number, (gradient, lr) in enumerate(zip(gradients, lrs, strict=True), start=1):
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        root = (second / (1 - betas[1] ** number)).sqrt() + eps
        weight = weight * (1 - lr * decay) - lr * first / (1 - betas[0] ** number) / root
    return weight


@pytest.mark.parametrize("stage, world, clip", [*product([0, 1, 2, 3], [1, 2, 3, 4], [CLIP]),
                                                (0, 2, 0.0), (1, 3, 0.0), (2, 1, 0.0), (3, 4, 0.0)])
def test_three_steps_are_those_of_a_float64_reference(muon, initial, stacked, stage, world, clip):
    """All parameters, from the gradients that the optimizer got: clipped ones, except at stage 0, where the optimizer
    clips them itself; errors relative to how far each parameter moved."""
    recipe = replace(muon.recipe, optim=replace(muon.recipe.optim, clip=clip))
    shapes = {name: weight.shape for name, weight in initial.items()}
    seen = muon.ranks(world).run(watched_steps, recipe, f"zero{stage}_fp32", 3)
    gradients = [whole([rank.gradients[step] for rank in seen], shapes) for step in range(3)]
    for number, gradient in enumerate(gradients):
        norm = sum(float(values.square().sum()) for values in gradient.values()) ** 0.5
        if clip and stage == 0:
            gradients[number] = {name: values * clip / norm for name, values in gradient.items()}
        assert norm == pytest.approx(clip, rel=1e-4) if clip and stage else norm > 4 * CLIP
    found = whole([rank.weights[2] for rank in seen], shapes)
    adamw_lrs, muon_lrs = ([lr / 2, lr, lr] for lr in (recipe.optim.lr, 5e-3))
    adamw_lrs[2], muon_lrs[2] = (share_of_third_step(recipe) * lr for lr in (recipe.optim.lr, 5e-3))
    for name, weight in initial.items():
        of_name = [gradient[name] for gradient in gradients]
        if name in stacked:
            expected = muon_reference(weight, of_name, stacked[name], muon_lrs)
        else:
            expected = adamw_reference(weight, of_name, 0.1 if weight.dim() == 2 else 0.0, adamw_lrs)
        error = float((found[name] - expected).norm() / (expected - weight).norm())
        assert error < (MUON_BOUND if name in stacked else ADAMW_BOUND), name


def share_of_third_step(recipe):
    """Of the peak: cosine, one step after a warm-up of two."""
    done = torch.tensor(1 / (recipe.run.steps - 2), dtype=torch.float64)
    return 0.1 + 0.9 * float(0.5 + 0.5 * torch.cos(torch.pi * done))


def test_first_step_is_that_of_the_float64_reference_gradient(muon, initial, stacked):
    """The whole way, from the rows on. Newton-Schulz lifts small singular values up to 485-fold, and rounding with
    them: measured 5e-6 of the update, for a gradient that is right to 2e-7."""
    _, gradient = reference_step(muon.recipe)
    seen = muon.ranks(3).run(watched_steps, muon.recipe, "zero3_fp32", 1)
    found = whole([rank.weights[0] for rank in seen], {name: weight.shape for name, weight in initial.items()})
    for name, count in stacked.items():
        expected = muon_reference(initial[name], [gradient[name]], count, [2.5e-3])
        assert float((found[name] - expected).norm() / (expected - initial[name]).norm()) < MUON_BOUND


def test_matrices_were_cut_between_ranks(muon):
    """Else all of the above would hold without any exchange. At stage 3 all are, except query, key and value on three
    ranks, each of which has one of them; at stages 1 and 2 those at the borders."""
    parts = {stage: muon.ranks(3).run(watched_steps, muon.recipe, f"zero{stage}_fp32", 1)[0].parts for stage in (2, 3)}
    cut = {stage: sum(max(sizes) < sum(sizes) for sizes in of_stage) for stage, of_stage in parts.items()}
    assert len(parts[2]) == len(parts[3]) == 2 * (3 + 1 + 1 + 1) == 12
    assert cut == {2: 2, 3: 6}


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32", "zero1_bf16"])
def test_a_nan_on_one_rank_skips_the_step_on_all_and_changes_no_bit(muon, ds_config):
    for rank in muon.ranks(2).run(watched_steps, muon.recipe, ds_config, 4, 3):
        assert differing(rank.weights[1], rank.weights[2]) == 0 < differing(rank.weights[2], rank.weights[3])
        for kind in ("exp_avg", "exp_avg_sq", "momentum"):
            assert differing(rank.moments[1][kind], rank.moments[2][kind]) == 0
            assert differing(rank.moments[2][kind], rank.moments[3][kind]) > 0


def differing(one, other):
    return sum(not torch.equal(a, b) for (_, _, a), (_, _, b) in zip(one, other, strict=True))
