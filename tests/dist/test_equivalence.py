"""The promise: rows and losses do not depend on ranks, ZeRO stage, micro-batches, and gradients are the loss law's."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from rank_jobs import short_run_with_counts

from dstrain.doctor.proofs.gradient import error_at
from dstrain.doctor.proofs.same_curve import STEPS, compare, run
from dstrain.doctor.reference import reference_step

pytestmark = pytest.mark.ranks
FP32_BOUND, BF16_LOSS_BOUND, BF16_GRADIENT_BOUND = 1e-5, 5e-3, 2e-2


@pytest.fixture(scope="module")
def one_rank(case):
    """20 steps on one rank, the whole batch at once, ZeRO-1, fp32."""
    return run(case, 1, 8, "zero1_fp32")


@pytest.fixture(scope="module")
def float64_step(case):
    """Loss and gradient of step 1 without DeepSpeed, in one process and float64."""
    return reference_step(case.recipe)


@pytest.mark.parametrize("micro_rows", [1, 2, 4])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_twenty_losses_and_all_rows_are_those_of_one_rank(case, one_rank, stage, world, micro_rows):
    trace = run(case, world, micro_rows, f"zero{stage}_fp32")
    error, other_rows = compare(one_rank, [trace])
    assert len(trace.losses) == STEPS and other_rows == 0
    assert error <= FP32_BOUND


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_first_gradient_is_that_of_a_float64_reference(case, float64_step, stage, world):
    assert error_at(case, float64_step[1], world, micro_size=2, ds_config=f"zero{stage}_fp32") <= FP32_BOUND


def test_first_loss_is_that_of_a_float64_reference(one_rank, float64_step):
    assert one_rank.losses[0] == pytest.approx(float64_step[0], rel=1e-6)


@pytest.mark.parametrize("world, micro_rows", [(1, 4), (2, 2), (3, 1)])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_stays_within_its_bound_of_fp32(case, one_rank, stage, world, micro_rows):
    error, other_rows = compare(one_rank, [run(case, world, micro_rows, f"zero{stage}_bf16")])
    assert other_rows == 0
    assert error <= BF16_LOSS_BOUND


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_gradient_stays_within_its_bound(case, float64_step, stage):
    assert error_at(case, float64_step[1], 2, micro_size=2, ds_config=f"zero{stage}_bf16") <= BF16_GRADIENT_BOUND


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++")
@pytest.mark.parametrize("stage", [1, 3])
def test_compiled_losses_are_those_of_one_rank(case, one_rank, stage):
    error, other_rows = compare(one_rank, [run(case, 2, 2, f"zero{stage}_fp32", compiled=True)])
    assert other_rows == 0
    assert error <= FP32_BOUND


def test_rows_had_very_different_numbers_of_targets(case):
    """Else a mean of means would pass all of the above: on 2 ranks with 2 rows a micro-batch, counts differ 3-fold."""
    counts = [count for counts in case.ranks(2).run(short_run_with_counts, case.recipe) for count in counts]
    assert max(counts) >= 3 * min(counts) > 0


def test_another_seed_gives_other_rows_and_other_losses(case, one_rank):
    other = replace(case.recipe, run=replace(case.recipe.run, seed=2))
    trace = run(replace(case, recipe=other), 1, 8, "zero1_fp32")
    assert not set(trace.rows) & set(one_rank.rows)
    assert trace.losses[0] != one_rank.losses[0]
