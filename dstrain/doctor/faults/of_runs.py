"""Faults of what a run leaves behind and goes on from: state that no checkpoint carries, or that nobody looks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dstrain.data.lanes import Stream
from dstrain.doctor.faults.planting import put
from dstrain.runtime.engine import Engine
from dstrain.train import keep, start, trainer
from dstrain.train.state import RunState, write_side_files


def place_of_the_prefetched() -> None:
    """The place of the newest batch that was made ready, not of the last one that was trained on."""
    inner, newest = RunState.trained, {}

    def wrong(self: RunState, step: int, place: dict, applied: bool) -> None:
        inner(self, step, place, applied)
        self.place = {**newest.get("place", place), "step": place["step"]}
        newest["place"] = place

    put(RunState, "trained", wrong)


def place_lost_on_one_rank() -> None:
    """Where a run on one rank stands is only looked up with several: its lanes begin anew, at the step that is due."""
    _opened_from(lambda place, ranks: place if ranks.world > 1 or place is None else _begun_anew(place))


def epoch_not_saved() -> None:
    """All of a place but the number of its epoch: after the first one a resumed run repeats rows of the first."""
    inner = Stream.state
    put(Stream, "state", lambda self: {**inner(self), "epoch": 0})


def moments_not_restored() -> None:
    """Weights go on, the optimizer begins anew: a bump in the curve behind each resume."""
    inner = Engine.fragments
    put(Engine, "fragments", lambda self: (fragment._replace(moments={}) for fragment in inner(self)))
    _nobody_compares()


def update_count_not_restored() -> None:
    """The moments are there, but are corrected as in the first steps."""
    put(Engine, "set_optimizer_step", lambda self, step: None)
    _nobody_compares()


def recipe_not_in_checkpoint() -> None:
    """It stands in the run folder, beside the checkpoints: one that is copied away has none."""
    _side_files(lambda folder: (folder / "recipe.yaml").unlink())


def recipe_where_nobody_looks() -> None:
    """It is saved, under a name that nothing reads."""
    _side_files(lambda folder: (folder / "recipe.yaml").rename(folder / "training_args.yaml"))


def tokenizer_of_another_run() -> None:
    """The checkpoint keeps the name of a tokenizer, and gets whatever has that name where it is used."""
    def wrong(folder: Path) -> None:
        for path in (folder / "tokenizer").rglob("*"):
            if path.is_file():
                path.unlink()

    _side_files(wrong)


def _begun_anew(place: dict) -> dict:
    lanes = {lane: [dict.fromkeys(state, 0) for state in states] for lane, states in place["lanes"].items()}
    return {**place, "lanes": lanes}


def _opened_from(changed: Callable[[Any, Any], Any]) -> None:
    """The feed begins at another place than the run's own."""
    inner = trainer.open_feed

    def wrong(recipe: Any, family: Any, tokenizer: Any, state: RunState, ranks: Any) -> Any:
        return inner(recipe, family, tokenizer, replace(state, place=changed(state.place, ranks)), ranks)

    put(trainer, "open_feed", wrong)


def _side_files(change: Any) -> None:
    def wrong(folder: Path, recipe: Any, tokenizer: Any) -> None:
        write_side_files(folder, recipe, tokenizer)
        change(folder)

    put(keep, "write_side_files", wrong)


def _nobody_compares() -> None:
    """The trainer itself would refuse to go on with what was loaded wrongly: the proof must find it without that."""
    put(start, "check_restored", lambda *_: "not compared")
