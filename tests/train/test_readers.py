"""Commands that read a run while its training moves on beside them, and removes what they were about to read."""

from __future__ import annotations

import shutil
from functools import partial

import pytest
from bad_places import before_call
from forked_commands import command

READERS = {"eval": ["eval", "runs/small"], "generate": ["generate", "runs/small", "--max-new-tokens", "2"],
           "export": ["export", "runs/small", "--to", "hf", "--out", "model"]}
MOMENTS = {"before it is verified": "dstrain.commands.use:refuse_damaged",
           "while it is read": "dstrain.data.tokenizers.tokenizer:load_saved"}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("reader", READERS)
def test_a_checkpoint_removed_under_a_reader_is_left_for_another(place, reader, moment):
    older, newest = sorted((place / "runs/small/checkpoints").glob("step_*"))
    done = command(place, *READERS[reader],
                   before=partial(before_call, MOMENTS[moment], 1, partial(shutil.rmtree, newest), 0))
    assert done.codes == [0] and not newest.exists(), done.errors
    assert reader == "generate" or older.name in done.out


def test_a_checkpoint_asked_for_by_its_step_has_no_successor(place):
    newest = sorted((place / "runs/small/checkpoints").glob("step_*"))[-1]
    done = command(place, *READERS["eval"], "--checkpoint", "6",
                   before=partial(before_call, MOMENTS["while it is read"], 1, partial(shutil.rmtree, newest), 0))
    assert done.codes == [2] and "--checkpoint 6: not in" in done.errors and done.errors.count("\n") == 1


def test_a_replay_goes_back_to_the_checkpoint_before_the_one_removed_under_it(place):
    older, newest = sorted((place / "runs/small/checkpoints").glob("step_*"))
    done = command(place, "train", "small.yaml", "run.steps=8", "schedule.name=WarmupLR")
    assert done.codes == [0] and not older.exists(), done.errors
    loading = "dstrain.runtime.checkpoint.loading:load"
    done = command(place, "replay", "runs/small", "--step", "8",
                   before=partial(before_call, loading, 1, partial(shutil.rmtree, newest), 0))
    assert done.codes == [0] and "as in the ledger" in done.out and not newest.exists(), done.errors
