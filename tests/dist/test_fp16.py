"""fp16: the promise while nothing overflows; all ranks skip together when something does; resume in between.

A CPU is refused fp16 because it is slow; here the refusals are set aside, so that these are real fp16 runs.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from fp16_ranks import Fp16Case, fp16_file
from step_jobs import steps_of

from dstrain.doctor.proofs.gradient import error_at
from dstrain.doctor.proofs.resume import compare_runs, forget_after, resumable, run_to_end
from dstrain.doctor.proofs.same_curve import compare, run
from dstrain.doctor.reference import reference_step
from dstrain.runtime.rank_group import RankError
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks
LOSS_BOUND = 2e-4
"""of fp16 against fp32 over 20 steps: 11 bits round by at most 2^-12 = 2.4e-4, and a loss is a mean of many"""
GRADIENT_BOUND = 2e-3
"""eight such roundings, one after the other"""


@pytest.fixture
def half(case):
    """The same case on the same ranks, in fp16."""
    return Fp16Case(case.recipe, case.folder, case.groups)


def overflowing(case, *steps):
    return Fp16Case(case.recipe, case.folder, case.groups, overflow_at=steps)


@pytest.fixture(scope="module")
def one_rank(case):
    return run(case, 1, 8, "zero1_fp32")


@pytest.mark.parametrize("stage, world, micro_rows", [(1, 3, 2), (2, 2, 1), (2, 1, 8), (3, 2, 4)])
def test_where_nothing_overflows_rows_and_losses_are_those_of_one_rank_in_fp32(
        case, half, one_rank, tmp_path, stage, world, micro_rows):
    trace = run(half, world, micro_rows, fp16_file(tmp_path, stage))
    assert not any(record["skipped"] for record in trace.records)
    error, other_rows = compare(one_rank, [trace])
    assert other_rows == 0
    assert 0 < error <= LOSS_BOUND


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_first_gradient_is_within_its_bound_of_a_float64_reference(case, half, tmp_path, stage):
    _, expected = reference_step(case.recipe)
    assert error_at(half, expected, 2, micro_size=2, ds_config=fp16_file(tmp_path, stage)) <= GRADIENT_BOUND


@pytest.mark.parametrize("stage, offload", [(1, False), (2, False), (3, False), (2, True), (3, True)])
def test_an_overflow_on_one_rank_skips_on_all_halves_the_scale_and_changes_no_bit(
        case, half, tmp_path, stage, offload):
    config = fp16_file(tmp_path, stage, offload, hysteresis=1)
    ranks = overflowing(case, 3).ranks(2).run(steps_of, case.recipe, config, 5)
    straight = half.ranks(2).run(steps_of, case.recipe, config, 5)[0]
    for seen in ranks:
        assert [step["applied"] for step in seen] == [True, True, False, True, True]
        assert seen[2]["held"] == seen[1]["held"] != seen[3]["held"]
        assert [step["scale"]["cur_scale"] for step in seen] == [1024, 1024, 512, 512, 512]
        assert [step["scale"]["cur_iter"] for step in seen] == [1, 2, 3, 4, 5]
        assert [step["scale"]["last_overflow_iter"] for step in seen] == [-1, -1, 2, 2, 2]
        assert [(step["lrs"], step["rows"]) for step in seen] == [(step["lrs"], step["rows"]) for step in straight]
    assert [step["nll"] for step in ranks[0]] == [step["nll"] for step in ranks[1]]
    assert ranks[0][1]["held"] == straight[1]["held"]


@pytest.mark.parametrize("fp16, overflow_at, scales", [
    # Hysteresis 2: the first overflow is forgiven, the second halves; after 2 good steps the scale doubles, and so
    # does it after each 2 more. An overflow begins the count anew.
    ({"hysteresis": 2, "loss_scale_window": 2}, (1, 2), [1024, 512, 512, 512, 1024, 1024, 2048]),
    ({"hysteresis": 1, "loss_scale_window": 3}, (2,), [1024, 512, 512, 512, 512, 1024, 1024]),
    # At its minimum it stays, and the steps are skipped like any other.
    ({"hysteresis": 1, "min_loss_scale": 256}, (1, 2, 3, 4, 5), [512, 256, 256, 256, 256, 256, 256]),
    ({"loss_scale": 128}, (2, 3), [128] * 7),
])
def test_the_scale_follows_window_hysteresis_and_minimum(case, tmp_path, fp16, overflow_at, scales):
    config = fp16_file(tmp_path, 2, **fp16)
    for seen in overflowing(case, *overflow_at).ranks(2).run(steps_of, case.recipe, config, 7):
        assert [step["scale"]["cur_scale"] for step in seen] == scales
        assert [number for number, step in enumerate(seen, start=1) if not step["applied"]] == list(overflow_at)


def test_a_run_whose_every_step_overflows_ends_with_one_line_and_not_with_deepspeeds_exception(case, tmp_path):
    config = fp16_file(tmp_path, 1, hysteresis=1, min_loss_scale=1024)
    recipe = replace(case.recipe, run=replace(case.recipe.run, name="run", steps=9, max_skipped=4, dir=str(tmp_path)))
    with pytest.raises(RankError, match=r"UserError: step 4: the last 4 steps were all skipped"):
        run_to_end(overflowing(case, *range(1, 10)), recipe, tmp_path, 1, config)


OVERFLOW = {"hysteresis": 1, "loss_scale_window": 2}
OVERFLOW_AT = (2,)
"""The checkpoint at step 2 is taken just after the overflow, the one at step 4 in the middle of a window: the scale
was halved at step 2 and doubles after step 5."""


def resumed_twice(case, folder, world, config):
    recipe = resumable(case.recipe)
    straight, stopped = folder / "straight", folder / "stopped"
    patient = overflowing(case, *OVERFLOW_AT)
    run_to_end(patient, recipe, straight, world, config)
    shutil.copytree(straight, stopped)
    for lost_after in (2, 4):
        forget_after(stopped, recipe, lost_after)
        run_to_end(patient, recipe, stopped, world, config)
    return straight, compare_runs(straight, stopped, recipe)


def loss_scales(folder):
    return [json.loads((folder / f"run/checkpoints/step_0000000{step}/state.json").read_text())["loss_scale"]
            for step in (2, 4, 6)]


@pytest.mark.parametrize("stage, world", [(1, 2), (2, 3), (3, 2)])
def test_stopped_just_after_an_overflow_and_in_mid_window_and_continued_is_bit_identical(
        case, tmp_path, stage, world):
    straight, (differences, compared) = resumed_twice(case, tmp_path, world, fp16_file(tmp_path, stage, **OVERFLOW))
    assert differences == [] and compared == 24
    assert [scale["cur_scale"] for scale in loss_scales(straight)] == [512, 512, 1024]
    assert [scale["cur_iter"] - scale["last_overflow_iter"] for scale in loss_scales(straight)] == [1, 3, 5]
    records = read_lines(RunFolder(straight / "run").metrics)
    assert [record["step"] for record in records if record["skipped"]] == [2]
    assert [record["loss_scale"] for record in records] == [1024, 1024, 512, 512, 512, 1024]


@pytest.mark.parametrize("world, stage", [(1, 3), (3, 1)])
def test_continued_on_another_shape_has_the_same_rows_losses_and_scale(case, tmp_path, world, stage):
    recipe, patient = resumable(case.recipe), overflowing(case, *OVERFLOW_AT)
    straight, moved = tmp_path / "straight", tmp_path / "moved"
    run_to_end(patient, recipe, straight, 2, fp16_file(tmp_path, 2, **OVERFLOW))
    shutil.copytree(straight, moved)
    forget_after(moved, recipe, 4)
    run_to_end(patient, recipe, moved, world, fp16_file(tmp_path, stage, **OVERFLOW))
    before, after = (RunFolder(folder / "run") for folder in (straight, moved))
    assert read_lines(before.ledger) == read_lines(after.ledger)
    assert loss_scales(straight) == loss_scales(moved)
    for one, other in zip(read_lines(before.metrics), read_lines(after.metrics), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=LOSS_BOUND)


def test_going_on_in_another_precision_neither_takes_a_scale_over_nor_leaves_one_behind(case, tmp_path):
    recipe, patient = resumable(case.recipe), overflowing(case)
    run_to_end(patient, recipe, tmp_path, 1, "zero1_bf16")
    assert loss_scales(tmp_path) == [None] * 3
    forget_after(tmp_path, recipe, 2)
    run_to_end(patient, recipe, tmp_path, 1, fp16_file(tmp_path, 2))
    assert [scale and scale["cur_scale"] for scale in loss_scales(tmp_path)] == [None, 1024, 1024]
    forget_after(tmp_path, recipe, 4)
    run_to_end(patient, recipe, tmp_path, 1, "zero3_fp32")
    assert loss_scales(tmp_path)[2] is None
