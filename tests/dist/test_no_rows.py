"""When one rank cannot read its rows in mid-run, all ranks end with its reason: none is left waiting."""

from __future__ import annotations

from dataclasses import replace

import pytest
from watch_jobs import training

from dstrain.doctor.proofs.resume import compare_runs, resumable, run_to_end

pytestmark = pytest.mark.ranks
REASON = "corpus.txt, line 77: no text"


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_fp32", "zero2_bf16", "zero3_fp32"])
def test_a_mistake_in_one_ranks_data_ends_all_ranks_and_is_said_once(case, ds_config):
    first, last = case.ranks(2).run(training, in_new_folder(case), ds_config, "bad rows", 4)
    assert last.error == ("UserError", REASON)  # the rank that found it says it
    assert first.error == ("SaidElsewhere", f"reading the rows of step 4 failed on rank 1: UserError: {REASON}")


def test_a_reader_that_breaks_ends_all_ranks_with_its_name(case):
    first, last = case.ranks(2).run(training, in_new_folder(case), "zero1_fp32", "broken feed", 5)
    assert last.error == ("ZeroDivisionError", REASON)
    assert first.error == ("FailedElsewhere",
                           f"reading the rows of step 5 failed on rank 1: ZeroDivisionError: {REASON}")


def test_alone_it_ends_with_its_own_error(case):
    told, = case.ranks(1).run(training, in_new_folder(case), "zero1_fp32", "bad rows", 2)
    assert told.error == ("UserError", REASON)


def test_the_run_goes_on_from_the_checkpoint_before_as_if_nothing_had_been(case):
    recipe = in_new_folder(case)
    case.ranks(2).run(training, recipe, "zero1_fp32", "bad rows", 4)
    straight = case.new_folder("straight")
    for folder in (recipe.run.dir, straight):
        run_to_end(case, resumable(case.recipe), folder, 2, "zero1_fp32")
    differences, compared = compare_runs(straight.parent / recipe.run.dir, straight, recipe)
    assert differences == [] and compared == 24


def in_new_folder(case):
    recipe = resumable(case.recipe)
    return replace(recipe, run=replace(recipe.run, dir=str(case.new_folder("no-rows"))))
