"""Where a run stands: the numbers that a checkpoint carries beside weights and moments."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from dstrain.config.errors import UserError
from dstrain.config.load import recipe_to_dict
from dstrain.config.model_code import SAVED, text_of
from dstrain.config.schema import Recipe
from dstrain.runtime.checkpoint import disk


@dataclass
class RunState:
    """Changes with every step."""

    step: int = 0
    """optimizer steps done, skipped ones included"""
    tokens: int = 0
    """targets scored so far (of the first term), as of the last log"""
    place: dict | None = None
    """where the data goes on after the last trained batch: this rank's own, all ranks' after a save"""
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_loss: float | None = None
    """smallest validation loss so far"""
    best_step: int | None = None
    without_better: int = 0
    """validations in a row without a smaller loss than the best"""
    owes_validation: bool = False
    """the validation that is due after this step has not been made yet: the run was asked to leave before its end"""

    @staticmethod
    def begin() -> "RunState":
        return RunState()

    @staticmethod
    def from_json(state: dict, where: Path | str = "state.json") -> "RunState":
        """A checkpoint of an older dstrain lacks the newer numbers: they start where a run does."""
        values = {name: state[name] for name in RunState.__dataclass_fields__ if name in state}
        for name, value in values.items():
            if not _is_of_kind(value, RunState.__dataclass_fields__[name].type):
                raise UserError(f"{where}: {name} is {value!r:.60}, but must be "
                                f"{RunState.__dataclass_fields__[name].type}; restore the file, or move this "
                                "checkpoint away to go on from an older one")
        return RunState(**values)

    def to_json(self) -> dict:
        return asdict(self)

    def forget_best(self) -> None:
        """For a change of what validation measures: losses from before are no yardstick."""
        self.best_loss = self.best_step = None
        self.without_better = 0

    def trained(self, step: int, place: dict, applied: bool) -> None:
        """A skipped step consumes its batch and its place in the lr curve, too."""
        assert step == self.step + 1, f"step {step} after step {self.step}"
        self.step, self.place = step, place
        self.skipped += not applied
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + 1

    def scored(self, loss: float) -> bool:
        """Note a validation loss; True if it is the best so far. NaN and Inf never are."""
        if not math.isfinite(loss) or (self.best_loss is not None and loss >= self.best_loss):
            self.without_better += 1
            return False
        self.best_loss, self.best_step, self.without_better = loss, self.step, 0
        return True

    def validates_now(self, recipe: Recipe) -> bool:
        """Whether a validation is due after this step."""
        return bool(recipe.data.valid) and (self.step == recipe.run.steps or self.step % recipe.valid.every == 0)

    def out_of_patience(self, recipe: Recipe) -> bool:
        """Whether the run ends early; a larger valid.patience, or none, lets it go on."""
        return recipe.valid.patience is not None and self.without_better >= recipe.valid.patience

    def why_early(self) -> str:
        best = "none was finite" if self.best_loss is None else f"best {self.best_loss:.4f} at step {self.best_step}"
        return (f"ended early at step {self.step}: no better validation loss for {self.without_better} "
                f"validation(s); {best}")


KINDS = {"int": (int,), "float": (int, float), "dict": (dict,), "bool": (bool,), "None": (type(None),)}


def _is_of_kind(value: Any, kinds: str) -> bool:
    """`kinds` as it is written behind a field; numbers count from 0, and True is no number."""
    allowed = [kind for name in kinds.split(" | ") for kind in KINDS[name]]
    return type(value) in allowed and not (type(value) is int and value < 0)


def write_side_files(folder: Path, recipe: Recipe, tokenizer: Any) -> None:
    """What a checkpoint needs beside its state, to build model and tokenizer again on another machine."""
    disk.write_file(folder / "recipe.yaml", recipe_text(recipe).encode())
    if recipe.model.code is not None:
        disk.write_file(folder / SAVED, text_of(recipe.model.code))
    disk.make_folder(folder / "tokenizer")
    tokenizer.save(folder / "tokenizer")


def recipe_text(recipe: Recipe) -> str:
    return yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False, default_flow_style=None, width=120)
