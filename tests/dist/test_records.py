"""metrics.jsonl and TensorBoard have more numbers a step where there are any: fp16's loss scale, Muon's own lr."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fp16_ranks import Fp16Case, fp16_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from watch_jobs import measured_steps, training

from dstrain.config.schema import Schedule
from dstrain.doctor.proofs.resume import resumable
from dstrain.runtime.norms import Norms
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks
ALWAYS = {"step", "loss", "terms", "lr", "grad_norm", "tokens", "tokens_per_s", "data_wait", "skipped"}


def trained(case, recipe, ds_config):
    """Records, and TensorBoard's values by tag."""
    folder = case.new_folder("records")
    told = case.ranks(2).run(training, replace(recipe, run=replace(recipe.run, dir=str(folder))), ds_config)
    assert [of_rank.error for of_rank in told] == [None, None]
    board = EventAccumulator(str(RunFolder(folder / "run").tensorboard))
    board.Reload()
    return read_lines(RunFolder(folder / "run").metrics), {
        tag: [event.value for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_fp16_records_the_scale_that_each_step_used(case, tmp_path):
    half = Fp16Case(case.recipe, case.folder, case.groups, overflow_at=(3,))
    records, board = trained(half, resumable(case.recipe), fp16_file(tmp_path, 2, hysteresis=1))
    assert set(records[0]) == ALWAYS | {"loss_scale"}
    assert [record["loss_scale"] for record in records] == [1024, 1024, 1024, 512, 512, 512]
    assert [record["skipped"] for record in records] == [False, False, True, False, False, False]
    assert board["train/loss_scale"] == [1024, 1024, 1024, 512, 512, 512]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_fp16_norms_are_of_the_gradient_without_its_scale(case, tmp_path, stage):
    half = Fp16Case(case.recipe, case.folder, case.groups)
    recipe = replace(case.recipe, optim=replace(case.recipe.optim, clip=0.5))
    for norms, recorded in half.ranks(2).run(measured_steps, recipe, fp16_file(tmp_path, stage), 2)[0]:
        assert recorded < 100  # of 1,024 times that there is nothing left
        assert Norms.together(list(norms.values())).gradient == pytest.approx(min(recorded, 0.5), rel=1e-3)


def test_muon_records_its_own_lr_beside_adamws(case):
    recipe = replace(resumable(case.recipe), schedule=Schedule(name="WarmupLR", warmup_steps=4),
                     optim=replace(case.recipe.optim, name="muon", lr=1e-3, muon_lr=8e-3))
    records, board = trained(case, recipe, "zero1_fp32")
    assert set(records[0]) == ALWAYS | {"lr_muon"}
    assert [record["lr_muon"] for record in records] == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, 8e-3, 8e-3])
    assert [record["lr"] for record in records] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])
    assert board["train/lr_muon"] == pytest.approx([record["lr_muon"] for record in records])
