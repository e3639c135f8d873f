"""A checkpoint read back into a model and an engine of any shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from dstrain.config.errors import UserError
from dstrain.runtime.checkpoint.manifest import BEFORE_MUON, WEIGHTS_FILE, moment_file
from dstrain.runtime.checkpoint.tensor_file import BadTensorFile, TensorFile
from dstrain.runtime.engine import Engine


def load(folder: Path) -> Loaded:
    """Open a checkpoint folder that `verify` found good."""
    try:
        state = json.loads((folder / "state.json").read_text())
        manifest = json.loads((folder / "manifest.json").read_text())
        return Loaded(folder, state, TensorFile(folder / WEIGHTS_FILE),
                      {key: TensorFile(folder / moment_file(key)) for key in manifest.get("moments", BEFORE_MUON)})
    except (BadTensorFile, OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be loaded: {error}") from None


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that was verified: its state, and its weights and moments by name."""

    folder: Path
    state: dict
    weights: TensorFile
    moments: dict[str, TensorFile]

    def weight_of(self, name: str, shape: torch.Size) -> torch.Tensor:
        have = self.weights.shapes.get(name)
        if have != tuple(shape):
            raise UserError(f"{self.folder}: parameter {name} is {_shown(have)} there and {_shown(tuple(shape))} "
                            "in this model; continue with the recipe that made it, or start a new run (run.name=...)")
        return self.weights.tensor(name)

    def restore(self, engine: Engine) -> None:
        """Bring fp32 masters, moments and the update count back, bit for bit. Weights were given at build time."""
        extra = self.weights.shapes.keys() - engine.shapes().keys()
        if extra:
            raise UserError(f"{self.folder}: holds parameters that this model lacks: {', '.join(sorted(extra))}")
        self._refuse_another_optimizer(engine)
        for fragment in engine.fragments():
            part = slice(fragment.start, fragment.start + fragment.weight.numel())
            fragment.weight.copy_(self.weights.tensor(fragment.name).reshape(-1)[part])
            for key, moment in fragment.moments.items():
                moment.copy_(self.moments[key].tensor(fragment.name).reshape(-1)[part])
        engine.set_optimizer_step(self.state["optimizer_step"])
        engine.set_loss_scale(self.state["loss_scale"])

    def _refuse_another_optimizer(self, engine: Engine) -> None:
        held, needed = ({key: set(shapes) for key, shapes in moments.items()} for moments in (
            {key: file.shapes for key, file in self.moments.items()}, engine.moment_shapes()))
        if held != needed:
            raise UserError(f"{self.folder}: holds the optimizer's {_counted(held)}, but the recipe's optim.name needs "
                            f"{_counted(needed)}; set optim.name back to what made it, or start a new run "
                            "(run.name=...)")


def _counted(moments: dict[str, set]) -> str:
    return ", ".join(f"{key} of {len(names)} parameters" for key, names in moments.items())


def _shown(shape: tuple | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "a scalar"
