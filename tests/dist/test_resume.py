"""Interrupted runs: bit-identical on the same shape, the same rows and nearly the same losses on another."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from dstrain.doctor.proofs.resume import differences_after_two_stops, forget_after, resumable, run_to_end
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("ds_config", ["zero1_fp32", "zero2_fp32", "zero3_fp32"])
def test_stopped_twice_and_continued_is_bit_identical(case, ds_config, world):
    differences, compared = differences_after_two_stops(case, world, ds_config)
    assert differences == [] and compared == 6 + 6 + 3 * 4  # metrics and ledger lines, files of three checkpoints


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_bf16", "zero2_bf16", "zero3_bf16"])
def test_stopped_twice_and_continued_is_bit_identical_in_other_engines(case, ds_config):
    differences, compared = differences_after_two_stops(case, 2, ds_config)
    assert differences == [] and compared == 24


@pytest.fixture(scope="module")
def straight(case):
    """A run on two ranks with ZeRO-2, with checkpoints at steps 2, 4 and 6."""
    folder = case.folder / "straight"
    run_to_end(case, resumable(case.recipe), folder, 2, "zero2_fp32")
    return folder


@pytest.mark.parametrize("world, ds_config", [
    (1, "zero2_fp32"), (3, "zero2_fp32"), (4, "zero3_fp32"), (2, "zero1_fp32"),
    (1, "zero3_fp32"), (2, "zero0_fp32"), (3, "zero1_fp32")])
def test_continued_on_another_shape_has_the_same_rows_and_losses(case, straight, tmp_path, world, ds_config):
    recipe = resumable(case.recipe)
    moved = tmp_path / "moved"
    shutil.copytree(straight, moved)
    forget_after(moved, recipe, 2)
    run_to_end(case, replace(recipe, batch=replace(recipe.batch, micro_rows=1)), moved, world, ds_config)
    before, after = (RunFolder(folder / "run") for folder in (straight, moved))
    assert read_lines(before.ledger) == read_lines(after.ledger)
    for one, other in zip(read_lines(before.metrics), read_lines(after.metrics), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert (other["lr"], other["tokens"]) == (one["lr"], one["tokens"])


def test_a_changed_byte_in_the_newest_checkpoint_falls_back_to_the_one_before(case, straight, tmp_path):
    recipe = resumable(case.recipe)
    damaged = tmp_path / "damaged"
    shutil.copytree(straight, damaged)
    run = RunFolder(damaged / "run")
    weights = run.checkpoints / "step_00000006" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    run_to_end(case, recipe, damaged, 2, "zero2_fp32")
    assert weights.read_bytes() == (straight / "run/checkpoints/step_00000006/model.safetensors").read_bytes()
    assert [line["step"] for line in read_lines(run.metrics)] == [1, 2, 3, 4, 5, 6]
