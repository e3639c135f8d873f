"""Early end: at the same step whether the run was interrupted or not, and only as long as patience says so."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from watch_jobs import training

from dstrain.config.schema import Schedule, Source
from dstrain.doctor.proofs.resume import compare_runs, forget_after, resumable
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def learning_nothing(case):
    """At this lr no bit of the loss changes: validated after each step, none after the first is better."""
    text = case.new_folder("valid") / "valid.txt"
    text.write_text("one plus one is two\nand that is all\n")
    recipe = resumable(case.recipe, valid=(Source(path=str(text)),))
    return replace(recipe, valid=replace(recipe.valid, every=1, patience=2), schedule=Schedule(name="WarmupLR"),
                   optim=replace(recipe.optim, lr=1e-30), log=replace(recipe.log, norms_every=0, samples=0))


def train(case, recipe, folder, world=2):
    recipe = replace(recipe, run=replace(recipe.run, dir=str(folder)))
    told = case.ranks(world).run(training, recipe, "zero1_fp32")
    assert [of_rank.error for of_rank in told] == [None] * world
    return told[0].lines


@pytest.fixture(scope="module")
def ended(case, learning_nothing):
    folder = case.new_folder("early")
    return folder, train(case, learning_nothing, folder)


def test_a_run_ends_after_as_many_worse_validations_as_patience_says(ended):
    folder, lines = ended
    run = RunFolder(folder / "run")
    scores = [line for line in read_lines(run.metrics) if "split" in line]
    assert [line["step"] for line in scores] == [1, 2, 3] and len({line["loss"] for line in scores}) == 1
    assert [path.name for path in sorted(run.checkpoints.glob("step_*"))] == [
        "step_00000001", "step_00000002", "step_00000003"]  # the best, a regular one, and where it ended
    assert (run.checkpoints / "best").read_text() == "step_00000001\n"
    assert [line for line in lines if line.startswith("ended early")] == [
        "ended early at step 3: no better validation loss for 2 validation(s); "
        f"best {scores[0]['loss']:.4f} at step 1, kept in {run.checkpoints / 'best'}"]
    assert any(line.startswith("early end") and "after 2 validation(s)" in line for line in lines)


def test_interrupted_it_ends_at_the_same_step_with_the_same_bits(case, learning_nothing, ended):
    folder, stopped = ended[0], case.new_folder("stopped") / "stopped"
    shutil.copytree(folder, stopped)
    forget_after(stopped, learning_nothing, 2)  # when one worse validation had been seen
    lines = train(case, learning_nothing, stopped)
    assert any("1 so far" in line for line in lines)
    differences, compared = compare_runs(folder, stopped, learning_nothing)
    assert differences == [] and compared == 6 + 3 + 3 * 4  # metrics with scores, ledger, files of three checkpoints


def test_called_again_it_is_finished_until_patience_is_raised_or_removed(case, learning_nothing, ended):
    folder = case.new_folder("again") / "again"
    shutil.copytree(ended[0], folder)
    again, = train(case, learning_nothing, folder)
    assert again.startswith("finished already") and "ended early at step 3" in again and "valid.patience=" in again
    raised = train(case, replace(learning_nothing, valid=replace(learning_nothing.valid, patience=3)), folder)
    assert any(line.startswith("ended early at step 4") for line in raised)
    removed = train(case, replace(learning_nothing, valid=replace(learning_nothing.valid, patience=None)), folder)
    assert not any(line.startswith("ended early") for line in removed)
    assert [line["step"] for line in read_lines(RunFolder(folder / "run").ledger)] == [1, 2, 3, 4, 5, 6]
