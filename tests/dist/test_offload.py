"""Offload to CPU memory changes where weights, gradients and moments lie, and no number.

On CPU ranks "the device" is CPU memory as well: all of the offload code runs here, but nothing crosses a bus. That it
does on a GPU is the last test's claim.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from offload_jobs import bytes_held, devices
from step_jobs import steps_of

from dstrain.config.ds_files import ds_configs_folder
from dstrain.config.offload import bytes_of_a_parameter
from dstrain.doctor.proofs.gradient import error_at
from dstrain.doctor.proofs.resume import differences_after_two_stops, forget_after, resumable, run_to_end
from dstrain.doctor.proofs.same_curve import STEPS, compare, run
from dstrain.doctor.reference import reference_step
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks
OFFLOADS = ["zero1_offload", "zero2_offload", "zero3_offload", "zero3_offload_param"]
FP32_BOUND, BF16_LOSS_BOUND = 1e-5, 5e-3


@pytest.fixture
def file_of(tmp_path):
    """The shipped engine file in another precision; at stage 3 no parameter is so small that it stays on the device."""
    def write(name: str, precision: str = "fp32") -> str:
        keys = json.loads((ds_configs_folder() / f"{name}_bf16.json").read_text())
        if keys["zero_optimization"]["stage"] == 3:
            keys["zero_optimization"].update(stage3_param_persistence_threshold=0, stage3_max_live_parameters=0)
        keys["bf16"]["enabled"] = precision == "bf16"
        path = tmp_path / f"{name}_{precision}.json"
        path.write_text(json.dumps(keys))
        return str(path)
    return write


@pytest.fixture(scope="module")
def one_rank(case):
    return run(case, 1, 8, "zero1_fp32")


@pytest.mark.parametrize("name, world, micro_rows, checkpoint_activations", [
    ("zero1_offload", 2, 4, False), ("zero2_offload", 2, 1, True), ("zero3_offload", 1, 4, False),
    ("zero3_offload_param", 3, 2, True)])
def test_rows_and_losses_are_those_of_one_rank_without_offload(
        case, one_rank, file_of, name, world, micro_rows, checkpoint_activations):
    model = replace(case.recipe.model, checkpoint_activations=checkpoint_activations)
    trace = run(replace(case, recipe=replace(case.recipe, model=model)), world, micro_rows, file_of(name))
    error, other_rows = compare(one_rank, [trace])
    assert len(trace.losses) == STEPS and other_rows == 0
    assert error <= FP32_BOUND


@pytest.mark.parametrize("name, world, micro_rows", [
    ("zero1_offload", 3, 1), ("zero2_offload", 1, 2), ("zero3_offload", 2, 4), ("zero3_offload_param", 1, 4)])
def test_in_bf16_they_stay_within_its_bound(case, one_rank, file_of, name, world, micro_rows):
    error, other_rows = compare(one_rank, [run(case, world, micro_rows, file_of(name, "bf16"))])
    assert other_rows == 0
    assert error <= BF16_LOSS_BOUND


@pytest.mark.parametrize("name", OFFLOADS)
def test_first_gradient_is_that_of_a_float64_reference(case, file_of, name):
    _, expected = reference_step(case.recipe)
    assert error_at(case, expected, 2, micro_size=2, ds_config=file_of(name)) <= FP32_BOUND


@pytest.mark.parametrize("name, precision", [(name, "bf16") for name in OFFLOADS]
                         + [("zero2_offload", "fp32"), ("zero3_offload", "fp32")])
def test_a_nan_on_one_rank_skips_the_step_on_all_and_changes_no_bit(case, file_of, name, precision):
    for seen in case.ranks(2).run(steps_of, case.recipe, file_of(name, precision), 4, 3):
        assert [step["applied"] for step in seen] == [True, True, False, True]
        assert seen[1]["held"] == seen[2]["held"] != seen[3]["held"]


@pytest.mark.parametrize("name", ["zero2_offload", "zero3_offload_param"])
def test_the_recorded_norm_is_that_without_offload(case, one_rank, file_of, name):
    trace = run(case, 2, 2, file_of(name))
    norms, expected = ([record["grad_norm"] for record in run.records] for run in (trace, one_rank))
    assert norms == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name, world, precision", [
    ("zero1_offload", 2, "fp32"), ("zero2_offload", 3, "bf16"), ("zero3_offload_param", 2, "bf16")])
def test_stopped_twice_and_continued_is_bit_identical(case, file_of, name, world, precision):
    differences, compared = differences_after_two_stops(case, world, file_of(name, precision))
    assert differences == [] and compared == 24


@pytest.mark.parametrize("before, then, world", [
    ("zero2_fp32", "zero3_offload_param", 3), ("zero3_offload_param", "zero1_fp32", 1),
    ("zero1_offload", "zero3_fp32", 2)])
def test_a_run_may_change_to_offload_and_back_on_other_ranks(case, file_of, tmp_path, before, then, world):
    before, then = (name if name.endswith("fp32") else file_of(name) for name in (before, then))
    recipe, straight, moved = resumable(case.recipe), tmp_path / "straight", tmp_path / "moved"
    run_to_end(case, recipe, straight, 2, before)
    shutil.copytree(straight, moved)
    forget_after(moved, recipe, 2)
    run_to_end(case, recipe, moved, world, then)
    one, other = (RunFolder(folder / "run") for folder in (straight, moved))
    assert read_lines(one.ledger) == read_lines(other.ledger)
    for x, y in zip(read_lines(one.metrics), read_lines(other.metrics), strict=True):
        assert y["loss"] == pytest.approx(x["loss"], rel=FP32_BOUND)


@pytest.mark.parametrize("name", ["zero2_offload", "zero3_offload", "zero3_offload_param"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_memory_that_the_first_screen_names_is_what_a_rank_takes(case, file_of, name, precision):
    for held, parameters, config in case.ranks(2).run(bytes_held, case.recipe, file_of(name, precision)):
        assert held == pytest.approx(bytes_of_a_parameter(config) * parameters / 2, rel=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: on a CPU nothing can be seen to move")
@pytest.mark.parametrize("name", OFFLOADS)
def test_on_a_gpu_masters_and_moments_stand_in_cpu_memory(case, name):
    where = devices(case.recipe, f"{name}_bf16")
    assert where["master"] == where["moment"] == {"cpu"}
    assert where["weight"] == ({"cpu"} if name.endswith("param") else {"cuda"})
