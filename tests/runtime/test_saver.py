"""Saving beside the training, on two ranks: of the moment, the same bytes, and never a hang where a writer fails."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from saver_jobs import closes, trains

from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.doctor.proofs.resume import resumable
from dstrain.runtime.checkpoint.folder import committed, newest_good
from dstrain.runtime.checkpoint.manifest import verify
from dstrain.runtime.dist import lone_rank


@pytest.fixture(scope="module")
def case():
    small = Case.of(load_recipe("quickstart"))
    yield small
    small.close()


def train(case, folder, ds_config, background=True, steps=6, every=2, fault=None, rank=0, raises=None, at_step=0):
    recipe = resumable(case.recipe)
    recipe = replace(recipe, run=replace(recipe.run, dir=str(folder), steps=steps),
                     checkpoint=replace(recipe.checkpoint, every=every, background=background))
    return case.ranks(2).run(trains, recipe, ds_config, fault, rank, raises, at_step, timeout_s=100)


def checkpoints(folder):
    return committed(folder / "run/checkpoints")


def files_of(checkpoint):
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_fp32", "zero2_bf16", "zero3_fp32"])
def test_what_a_slow_writer_saves_beside_the_training_is_what_saving_in_its_place_saves(case, ds_config):
    beside, waited = case.new_folder("beside"), case.new_folder("waited")
    told = train(case, beside, ds_config, fault="slow")
    plain = train(case, waited, ds_config, background=False)
    assert [rank["error"] for rank in told + plain] == [None] * 4
    assert 3 in told[0]["beside_a_writer"] and plain[0]["beside_a_writer"] == []  # trained on while it was written
    assert [line.rpartition("_")[2] for line in told[0]["saved"]] == ["00000002", "00000004", "00000006"]
    assert told[1]["saved"] == [] and all(rank["writers_left"] == 0 for rank in told)
    assert [path.name for path in checkpoints(beside)] == ["step_00000002", "step_00000004", "step_00000006"]
    for one, other in zip(checkpoints(beside), checkpoints(waited), strict=True):
        ours, theirs = files_of(one), files_of(other)
        for name in ("recipe.yaml", "manifest.json", "manifest.sha256"):  # these name run.dir and checkpoint.background
            ours.pop(name), theirs.pop(name)
        assert ours == theirs and len(ours) == 5, one.name


@pytest.mark.parametrize("rank", [0, 1])
def test_a_writer_that_fails_on_one_rank_ends_all_at_the_next_step_and_one_says_why(case, rank):
    folder = case.new_folder("full")
    told = train(case, folder, "zero1_fp32", steps=9, every=3, fault="full", rank=rank)
    kinds = [one["error"][0] for one in told]
    assert kinds[rank] == "Trouble" and kinds[1 - rank] == "TroubleElsewhere", told
    message = told[rank]["error"][1]
    assert "step_00000006: No space left on device" in message and "make room" in message and "\n" not in message
    assert told[0]["steps"] == told[1]["steps"] and told[0]["steps"][-1] in (7, 8)  # before the next save
    assert all(one["writers_left"] == 0 for one in told)
    assert [path.name for path in checkpoints(folder)] == ["step_00000003"]
    assert not list((folder / "run/checkpoints").glob(".*"))
    again = train(case, folder, "zero1_fp32", steps=9, every=3)
    assert [one["error"] for one in again] == [None, None] and again[0]["steps"] == [4, 5, 6, 7, 8, 9]
    assert all(verify(path) is None for path in checkpoints(folder))


def test_a_snapshot_that_fails_on_one_rank_ends_all_there(case):
    folder = case.new_folder("no-copy")
    told = train(case, folder, "zero3_fp32", fault="no copy", rank=1)
    assert told[1]["error"] == ("RuntimeError", "out of memory while copying")
    assert told[0]["error"][0] == "FailedElsewhere" and "failed on rank 1" in told[0]["error"][1]
    assert told[0]["steps"] == told[1]["steps"] == [1, 2, 3, 4]
    assert newest_good(folder / "run/checkpoints", lone_rank(), print).name == "step_00000002"


def test_an_error_in_the_training_lets_a_save_under_way_end(case):
    folder = case.new_folder("error")
    told = train(case, folder, "zero1_fp32", fault="slow", rank=0, raises=ValueError, at_step=3)
    assert [one["error"][0] for one in told] == ["ValueError"] * 2 and told[0]["saves"] == [2]
    assert told[0]["saved"] and all(one["writers_left"] == 0 for one in told)
    assert verify(checkpoints(folder)[0]) is None


def test_an_interrupt_does_not_wait_for_the_writer_and_leaves_nothing_of_it(case):
    folder = case.new_folder("interrupt")
    interrupted = case.ranks(2).run(closes, case.recipe, "zero2_fp32", folder, KeyboardInterrupt, timeout_s=60)
    assert all(one["writers_left"] == 0 and one["failed"] for one in interrupted)
    assert interrupted[0]["saved"] == [] and list(folder.iterdir()) == []
    shutil.rmtree(folder)
    waited = case.ranks(2).run(closes, case.recipe, "zero2_fp32", folder, ValueError, timeout_s=60)
    assert all(one["closed_s"] > 1.0 and one["writers_left"] == 0 and not one["failed"] for one in waited)
    assert len(waited[0]["saved"]) == 1 and verify(folder / "step_00000002") is None and waited[0]["last_save_s"] > 1.0
    assert max(one["closed_s"] for one in interrupted) < 0.5 * min(one["closed_s"] for one in waited)
