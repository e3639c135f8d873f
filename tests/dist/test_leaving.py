"""Asked to leave at any moment, on one rank alone: all leave at the same step, and what follows is the same run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from leaving_jobs import leaving

from dstrain.config.schema import Source
from dstrain.doctor.proofs.resume import compare_runs, resumable
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def recipe(case):
    """Six steps; saved after steps 4 and 6, validated after 3 and 6: 11 micro-batches each."""
    text = case.new_folder("valid") / "valid.txt"
    text.write_text("".join(f"{n} plus one is {n + 1}\n" for n in range(40)))
    recipe = resumable(case.recipe, valid=(Source(path=str(text)),))
    return replace(recipe, valid=replace(recipe.valid, every=3), checkpoint=replace(recipe.checkpoint, every=4),
                   log=replace(recipe.log, every=2, norms_every=0, samples=0))


@pytest.fixture(scope="module")
def straight(case, recipe):
    folder = case.new_folder("straight")
    assert run(case, recipe, folder, "", 0) == [None, None]
    return folder


def run(case, recipe, folder, phase, times, asked_rank=1, at_once=False):
    recipe = replace(recipe, run=replace(recipe.run, dir=str(folder)))
    return case.ranks(2).run(leaving, recipe, "zero1_fp32", asked_rank, phase, times, at_once)


@pytest.mark.parametrize("phase, times, left_at, owes", [
    ("step", 1, 2, False),         # as the first step begins, which has told its wishes already
    ("step", 7, 3, True),          # in step 2: step 3 is the last, and its validation is owed
    ("validation", 5, 3, True),    # in the validation after step 3: it is made up for
    ("saving", 2, 5, False),       # while the save after step 4 begins
    ("validation", 16, 6, True),   # in the validation after the last step
])
def test_all_ranks_leave_at_the_same_step_and_the_run_is_the_one_never_stopped(
        case, recipe, straight, phase, times, left_at, owes):
    folder = case.new_folder("left")
    told = run(case, recipe, folder, phase, times)
    assert told[0] == told[1] and told[0] is not None
    assert f"left at step {left_at} of 6, on SIGTERM" in told[0]
    state = json.loads((folder / f"run/checkpoints/step_{left_at:08d}/state.json").read_text())
    assert (state["step"], state["owes_validation"]) == (left_at, owes)
    assert run(case, recipe, folder, "", 0) == [None, None]
    same_end(straight, folder, recipe)


def test_asked_again_in_every_call_it_still_arrives_and_is_the_same_run(case, recipe, straight):
    folder = case.new_folder("hopping")
    told = [run(case, recipe, folder, "step", 1, asked_rank=n % 2)[0] for n in range(5)]
    where = [words and words.split(",")[0] for words in told]
    assert where == [*(f"left at step {n} of 6" for n in (2, 3, 5, 6)), None]
    same_end(straight, folder, recipe)


def test_a_request_between_the_parts_of_the_start_up_ends_all_ranks_with_nothing_written(case, recipe):
    folder = case.new_folder("early")
    told = run(case, recipe, folder, "", 0, at_once=True)
    assert told[0] == told[1] and "before the first step" in told[0]
    assert not (folder / "run/metrics.jsonl").exists()


def same_end(straight, folder, recipe) -> None:
    """Records, and every file of the last checkpoint; the checkpoint on leaving is there in addition."""
    a, b = RunFolder(straight / "run"), RunFolder(folder / "run")
    differences, compared = compare_runs(straight, folder, recipe)
    assert differences == [] and compared > 6 + 2 + 6
    assert len(read_lines(a.metrics)) == 6 + 2 == len(read_lines(b.metrics))
    for name in ("latest", "best"):
        assert (a.checkpoints / name).read_text() == (b.checkpoints / name).read_text()
