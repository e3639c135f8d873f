"""One checkpoint form, without shape and without pickle: weights and moments by parameter name, plus plain JSON.

    checkpoints/step_00001000/   model.safetensors       fp32 master weights
                                 optimizer-*.safetensors each kind of moment, of the parameters that have it
                                 state.json              step, place in the data, counters
                                 recipe.yaml, tokenizer/ what is needed to build the model again
                                 manifest.json           size and SHA-256 of every file
    checkpoints/latest, best     the name of such a folder

It is written under a temporary name by all ranks, each its own ranges, and published by one rename. It loads into any
ZeRO stage and any number of ranks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import torch

from dstrain.config.errors import UserError
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.runtime.tensor_file import BadTensorFile, TensorFile, create, write_ranges

FORMAT = 1
BEFORE_MUON = ("exp_avg", "exp_avg_sq")
"""the moments of a checkpoint whose manifest does not name them"""
WEIGHTS_FILE = "model.safetensors"


def save(folder: Path, engine: Engine, state: dict, write_side_files: Callable[[Path], None], ranks: Ranks) -> Path:
    """Publish folder/step_NNNNNNNN.

    `state` is plain JSON with "step"; the first rank adds files by `write_side_files`.
    """
    final = folder / _name(state["step"])
    making = folder / f".making_{final.name}"
    state = {"format": FORMAT, **state, "optimizer_step": engine.optimizer_step(), "loss_scale": engine.loss_scale()}
    moments = engine.moment_shapes()

    def begin() -> None:
        for left_behind in folder.glob(".making_*"):  # of a save that was killed
            shutil.rmtree(left_behind)
        making.mkdir(parents=True)
        create(making / WEIGHTS_FILE, engine.shapes())
        for key, shapes in moments.items():
            create(making / _moment_file(key), shapes)
        write_side_files(making)
        _write_synced(making / "state.json", json.dumps(state, indent=1))

    def write_own() -> None:
        own = list(engine.own_fragments())
        write_ranges(making / WEIGHTS_FILE, ((f.name, f.start, f.weight) for f in own))
        for key in moments:
            write_ranges(making / _moment_file(key),
                         ((f.name, f.start, f.moments[key]) for f in own if key in f.moments))

    def publish() -> None:
        manifest = {"format": FORMAT, "moments": list(moments), "files": _hashes(making)}
        _write_synced(making / "manifest.json", json.dumps(manifest, indent=1))
        _sync_folder(making)
        replaced = folder / f".making_instead_of_{final.name}"
        if final.exists():  # a damaged one that was passed over, or the same once more
            final.rename(replaced)
        making.rename(final)
        _sync_folder(folder)
        shutil.rmtree(replaced, ignore_errors=True)
        point(folder, "latest", final.name)

    for act, by_all in ((begin, False), (write_own, True), (publish, False)):
        with ranks.together(f"saving {final}"), _with_remedy():
            if by_all or ranks.first:
                act()
    return final


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


def load(folder: Path) -> Loaded:
    """Open a checkpoint folder that `verify` found good."""
    try:
        state = json.loads((folder / "state.json").read_text())
        manifest = json.loads((folder / "manifest.json").read_text())
        return Loaded(folder, state, TensorFile(folder / WEIGHTS_FILE),
                      {key: TensorFile(folder / _moment_file(key)) for key in manifest.get("moments", BEFORE_MUON)})
    except (BadTensorFile, OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be loaded: {error}") from None


def go_on_from(found: Path, best_step: int | None, say: Callable[[str], None]) -> None:
    """Bring the folder to where the run goes on: later checkpoints, all damaged, aside; pointers as at that step."""
    folder = found.parent
    for later in committed(folder):
        if later.name > found.name:
            aside = folder / f"damaged_{later.name}"
            shutil.rmtree(aside, ignore_errors=True)
            later.rename(aside)
            say(f"moved {later} to {aside.name}: remove it when you have looked at it")
    point(folder, "latest", found.name)
    best = None if best_step is None else folder / _name(best_step)
    if best is not None and best.is_dir():
        point(folder, "best", best.name)
    else:
        (folder / "best").unlink(missing_ok=True)


def newest_good(folder: Path, ranks: Ranks, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are what its manifest says; the first rank looks, all get its answer."""
    found = None
    if ranks.first:
        for candidate in reversed(committed(folder)):
            fault = verify(candidate)
            if fault is None:
                found = candidate
                break
            say(f"checkpoint {candidate} is damaged and passed over: {fault}")
    return ranks.share(found)


def committed(folder: Path) -> list[Path]:
    """All published checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_" + "[0-9]" * 8) if path.is_dir()) if folder.is_dir() else []


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in one line; None if nothing is."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            return f"it has format {manifest['format']}, this dstrain reads format {FORMAT}"
        promised = manifest["files"]
        for name, entry in promised.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
            if _sha256(path) != entry["sha256"]:
                return f"{name} has other contents than when it was written (SHA-256)"
        moments = map(_moment_file, manifest.get("moments", BEFORE_MUON))
        unlisted = {WEIGHTS_FILE, *moments, "state.json", "recipe.yaml"} - promised.keys()
        if unlisted:
            return f"manifest.json does not list {', '.join(sorted(unlisted))}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"manifest.json cannot be read ({error})"
    return None


def point(folder: Path, pointer: str, name: str) -> None:
    """Let folder/pointer name a checkpoint, in one step: a reader sees the old name or the new one."""
    _write_synced(folder / f".{pointer}", name + "\n")
    os.replace(folder / f".{pointer}", folder / pointer)
    _sync_folder(folder)


def pointed(folder: Path, pointer: str) -> Path | None:
    """The checkpoint that folder/pointer names, if it is there."""
    path = folder / pointer
    name = path.read_text().strip() if path.is_file() else ""
    return folder / name if name and (folder / name).is_dir() else None


def prune(folder: Path, keep: int, say: Callable[[str], None]) -> None:
    """Remove all but the newest `keep` and the best."""
    best = pointed(folder, "best")
    for old in committed(folder)[:-keep]:
        if old != best:
            try:
                shutil.rmtree(old)
            except OSError as error:  # no reason to end the run; the next save tries again
                say(f"{old} could not be removed: {error}")


@contextlib.contextmanager
def _with_remedy() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {error.filename or 'the checkpoint'}: {error.strerror}; "
                        "make room or choose another run.dir, then run the same command again: "
                        "it goes on from the last committed checkpoint") from error


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _moment_file(key: str) -> str:
    return f"optimizer-{key}.safetensors"


def _hashes(folder: Path) -> dict[str, dict]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_synced(path: Path, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _counted(moments: dict[str, set]) -> str:
    return ", ".join(f"{key} of {len(names)} parameters" for key, names in moments.items())


def _shown(shape: tuple | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "a scalar"
