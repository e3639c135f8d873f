"""A checkpoint read back into a model and an engine of any shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from dstrain.config.errors import UserError
from dstrain.config.schema import MOST_STEPS, Optim
from dstrain.runtime.checkpoint.manifest import (
    BEFORE_MUON, MANIFEST, WEIGHTS_FILE, Damaged, moment_file, read_manifest)
from dstrain.runtime.checkpoint.tensor_file import BadTensorFile, TensorFile
from dstrain.runtime.engine import Engine, counters, own_name
from dstrain.runtime.fragments import MOMENTS
from dstrain.runtime.optimizer import hidden_matrices

MOST_STATE_BYTES = 256 << 20


def load(folder: Path) -> Loaded:
    """Open a checkpoint folder that `verify` found good."""
    try:
        manifest = read_manifest(folder)
        shape = manifest.get("shape", {})
        if not isinstance(shape, dict):
            raise Damaged(f"manifest.json: shape is {str(shape)[:60]!r}, but must be an object")
        return Loaded(folder, _read_state(folder / "state.json"), shape, TensorFile(folder / WEIGHTS_FILE),
                      {key: TensorFile(folder / moment_file(key)) for key in manifest.get("moments", BEFORE_MUON)})
    except (BadTensorFile, Damaged, OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be loaded: {error}") from None


def _read_state(path: Path) -> dict:
    """What loading itself needs of it is there, and of the right kind; the rest belongs to those who wrote it."""
    if path.stat().st_size > MOST_STATE_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, which no state has")
    try:
        state = json.loads(path.read_bytes())
        steps, scale = (state["step"], state["optimizer_step"]), state["loss_scale"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read ({type(error).__name__}: {str(error)[:100]})") from None
    if not all(type(step) is int and 0 <= step <= MOST_STEPS for step in steps):
        raise ValueError(f"{path.name}: step {steps[0]!r:.60} with optimizer_step {steps[1]!r:.60} cannot be")
    if scale is not None and not (isinstance(scale, dict) and all(type(value) in (int, float)
                                                                 for value in scale.values())):
        raise ValueError(f"{path.name}: loss_scale is {scale!r:.60}, but must be null or an object of numbers")
    return state


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that was verified: its state, and its weights and moments by name."""

    folder: Path
    state: dict
    shape: dict
    """ranks, zero_stage, precision, micro_rows and accumulation of the run that wrote it; empty where not known"""
    weights: TensorFile
    moments: dict[str, TensorFile]

    def weight_of(self, name: str, shape: torch.Size) -> torch.Tensor:
        self._refuse_another_shape(name, tuple(shape))
        return self.weights.tensor(name)

    def check_fits(self, trainee: torch.nn.Module, optim: Optim) -> None:
        """Refuses another model or optimizer; `trainee` may stand on the meta device, so no engine is needed."""
        shapes = {own_name(name): tuple(parameter.shape) for name, parameter in trainee.named_parameters()}
        counted = {own_name(name): tuple(counter.shape) for name, counter in counters(trainee)}
        for name, shape in (shapes | counted).items():
            self._refuse_another_shape(name, shape)
        extra = self.weights.shapes.keys() - shapes.keys() - counted.keys()
        if extra:
            raise UserError(f"{self.folder}: holds parameters that this model lacks: {', '.join(sorted(extra))}; "
                            "continue with the recipe that made it, or start a new run (run.name=...)")
        hidden = hidden_matrices(trainee.model, optim)
        frozen = {own_name(name) for name, parameter in trainee.named_parameters() if not parameter.requires_grad}
        needed: dict[str, dict[str, tuple]] = {}
        for name, shape in shapes.items():
            if name in frozen:
                continue
            for key in MOMENTS["muon" if name in hidden else "adamw"]:
                needed.setdefault(key, {})[name] = shape
        held = {key: file.shapes for key, file in self.moments.items()}
        if {key: len(names) for key, names in held.items()} != {key: len(names) for key, names in needed.items()}:
            raise UserError(f"{self.folder / MANIFEST}: names the optimizer's {_counted(held)}, but optim.name="
                            f"{optim.name} needs {_counted(needed)}; set optim.name back to what made it, or start a "
                            "new run (run.name=...)")
        for key, name in ((key, name) for key in needed for name in sorted(held[key].keys() | needed[key].keys())):
            have, need = held[key].get(name), needed[key].get(name)
            if have != need:
                raise UserError(f"{self.moments[key].path}: {name[:100]!r} is {_shown(have)} there, but must be "
                                f"{_shown(need)}; continue with the recipe that made it, or start a new run "
                                "(run.name=...)")

    def restore(self, engine: Engine) -> None:
        """Bring fp32 masters, moments and the update count back, bit for bit. Weights were given at build time."""
        for fragment in engine.fragments():
            part = slice(fragment.start, fragment.start + fragment.weight.numel())
            fragment.weight.copy_(self.weights.tensor(fragment.name).reshape(-1)[part])
            for key, moment in fragment.moments.items():
                moment.copy_(self.moments[key].tensor(fragment.name).reshape(-1)[part])
        engine.set_optimizer_step(self.state["optimizer_step"])
        engine.set_loss_scale(self.state["loss_scale"])

    def _refuse_another_shape(self, name: str, shape: tuple[int, ...]) -> None:
        have = self.weights.shapes.get(name)
        if have != shape:
            raise UserError(f"{self.folder}: parameter {name} is {_shown(have)} there and {_shown(shape)} "
                            "in this model; continue with the recipe that made it, or start a new run (run.name=...)")


def _counted(moments: dict[str, dict[str, tuple]]) -> str:
    return ", ".join(f"{key} of {len(names)} parameters" for key, names in moments.items())


def _shown(shape: tuple | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "a scalar"
