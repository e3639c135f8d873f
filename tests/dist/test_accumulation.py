"""16-bit gradients are added up in fp32, over micro-batches and over ranks: the curve does not depend on the shape."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fp16_ranks import Fp16Case, fp16_file
from step_jobs import summed_gradient_error

pytestmark = pytest.mark.ranks
ROWS = 64
FP32_BOUND = 1e-6
SEEN = 1e-3
"""a sum in bf16 is off by more than this: 2^-9, half a unit of its 8 bits, a rounding"""


def error_of(case, world, micro_rows, ds_config, **settings):
    recipe = replace(case.recipe, batch=replace(case.recipe.batch, rows=ROWS, micro_rows=micro_rows),
                     optim=replace(case.recipe.optim, clip=0.0))
    return max(case.ranks(world).run(summed_gradient_error, recipe, ds_config, settings))


@pytest.mark.parametrize("ds_config, world, micro_rows", [
    ("zero1_bf16", 1, 64), ("zero1_bf16", 1, 1), ("zero1_bf16", 4, 4), ("zero2_bf16", 1, 1), ("zero2_bf16", 4, 16),
    ("zero3_bf16", 2, 8), ("zero3_bf16", 4, 16), ("zero1_offload_bf16", 2, 4), ("zero2_offload_bf16", 1, 1),
    ("zero3_offload_param_bf16", 2, 8)])
def test_sixty_four_rows_in_any_cut_add_up_as_in_float64(case, ds_config, world, micro_rows):
    assert error_of(case, world, micro_rows, ds_config) <= FP32_BOUND


def test_in_fp16_they_do_too(case, tmp_path):
    half = Fp16Case(case.recipe, case.folder, case.groups)
    assert error_of(half, 2, 1, fp16_file(tmp_path, 2)) <= FP32_BOUND


def test_a_sum_in_bf16_would_be_seen(case):
    assert error_of(case, 1, 1, "zero2_bf16", data_types={"grad_accum_dtype": "bf16"}) > 4 * SEEN


@pytest.mark.parametrize("ds_config", ["zero1_bf16", "zero2_bf16", "zero3_bf16"])
def test_travelling_in_bf16_would_be_seen(case, ds_config):
    assert error_of(case, 4, 16, ds_config, communication_data_type="bf16") > SEEN
