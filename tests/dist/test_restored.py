"""What was loaded is compared with the checkpoint, bit by bit: every way of loading it wrongly is named."""

from __future__ import annotations

import re

import pytest
from restored_jobs import restored_with_harm

from dstrain.doctor.proofs.resume import resumable, run_to_end

pytestmark = pytest.mark.ranks

FAULTS = {
    "a moment is skipped": "exp_avg_sq of [a-z_.0-9]+: element [0-9]+ on rank 1 is 0.0 instead of",
    "an offset is shifted": "exp_avg of blocks.1.ff.up.weight: element [0-9]+ on rank 1 is .* instead of",
    "a zero has another sign": "exp_avg of [a-z_.0-9]+: element [0-9]+ on rank 1 is -0.0 instead of 0.0",
    "the module's weights are stale": "the module's own blocks.0.ff.down.weight: element [0-9]+ on rank 1",
    "a master is changed": "weights of [a-z_.0-9]+: element [0-9]+ on rank 1",
    "the count is forgotten": "the optimizer counts 0 updates instead of 4",
    "another lr is used": "step 5 would use lr",
}


@pytest.fixture(scope="module")
def saved(case):
    """A checkpoint at step 4 of a run on one rank, and its recipe."""
    recipe, folder = resumable(case.recipe), case.folder / "restored"
    run_to_end(case, recipe, folder, 1, "zero1_fp32")
    return recipe, folder / "run/checkpoints/step_00000004"


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_fp32", "zero2_bf16", "zero3_fp32", "zero3_bf16"])
def test_what_was_restored_rightly_is_said_in_a_line_with_the_lr_to_come(case, saved, ds_config):
    for kind, said in case.ranks(2).run(restored_with_harm, saved[0], ds_config, saved[1], "none"):
        assert kind == "well"
        assert said == "verified: 25,376 weights and 2 moments of each, as saved at step 4; step 5 uses lr 0.000695"


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero1_fp32", "zero2_bf16", "zero3_bf16"])
@pytest.mark.parametrize("harm", FAULTS)
def test_every_way_to_restore_wrongly_is_named_on_all_ranks(case, saved, ds_config, harm):
    first, last = case.ranks(2).run(restored_with_harm, saved[0], ds_config, saved[1], harm)
    assert (first[0], last[0]) == ("TroubleElsewhere", "Trouble"), (first, last)
    assert re.search(FAULTS[harm], last[1]) and re.search(FAULTS[harm], first[1]), last[1]
