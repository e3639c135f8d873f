"""Where a run stands: patience, and checkpoints of before there was any."""

from __future__ import annotations

import math
from dataclasses import replace

from dstrain.config.load import load_recipe
from dstrain.train.state import RunState


def with_patience(patience):
    recipe = load_recipe("quickstart")
    return replace(recipe, valid=replace(recipe.valid, patience=patience))


def after(losses):
    state = RunState.begin()
    for state.step, loss in enumerate(losses, start=1):
        state.scored(loss)
    return state


def test_only_a_smaller_loss_is_better_and_nan_and_inf_never_are():
    assert after([3.0, 2.0]).without_better == 0
    assert after([3.0, 2.0, 2.0]).without_better == 1           # equal is not better
    assert after([3.0, math.nan, -math.inf, math.inf]).without_better == 3
    assert after([math.nan, math.nan]).best_step is None
    assert after([3.0, 4.0, 5.0, 2.9]).without_better == 0       # counted in a row


def test_patience_is_how_many_validations_in_a_row_are_not_better():
    state = after([3.0, 4.0, 5.0])
    assert [state.out_of_patience(with_patience(patience)) for patience in (1, 2, 3, None)] == [
        True, True, False, False]
    assert state.why_early() == ("ended early at step 3: no better validation loss for 2 validation(s); "
                                 "best 3.0000 at step 1")


def test_other_validation_data_start_the_count_anew():
    state = after([3.0, 4.0, 5.0])
    state.forget_best()
    assert (state.best_loss, state.best_step, state.without_better) == (None, None, 0)


def test_a_checkpoint_of_before_patience_loads():
    old = after([3.0, 4.0]).to_json()
    assert old.pop("without_better") == 1
    assert RunState.from_json({**old, "format": 1, "optimizer_step": 2}) == replace(after([3.0, 4.0]), without_better=0)
