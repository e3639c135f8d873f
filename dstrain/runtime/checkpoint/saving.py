"""A checkpoint written by all ranks, each its own ranges, under a temporary name, and published by one rename.

First `take`: a copy of this moment in the CPU's memory. Then `write`, which needs nothing of the engine and may run
beside the training, in another thread.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, NamedTuple

import torch

from dstrain.runtime.checkpoint import disk
from dstrain.runtime.checkpoint.folder import MAKING, SET_ASIDE, clear_unfinished, point, step_name
from dstrain.runtime.checkpoint.manifest import (
    FORMAT, GUARD, MANIFEST, PIECE_BYTES, WEIGHTS_FILE, files_entry, guard_of, hashes, moment_file, pieces_of)
from dstrain.runtime.checkpoint.tensor_file import create, size_of, write_ranges
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine


class Part(NamedTuple):
    """Elements start .. of the flattened tensor `name` in a tensor file."""

    file: str
    name: str
    start: int
    values: torch.Tensor


@dataclass(frozen=True)
class Snapshot:
    """What this rank writes of a checkpoint: its parts of all tensors, and what the first rank writes for all."""

    step: int
    state: dict
    shapes: dict[str, dict[str, tuple[int, ...]]]
    """of every tensor file its tensors, whole"""
    moments: list[str]
    parts: list[Part]
    about: dict
    """for the manifest: recipe, shape, versions"""


class Buffers:
    """Memory for one snapshot, kept for the next: pinned where the device is a GPU."""

    def __init__(self, device: torch.device):
        self._pinned = device.type == "cuda"
        self._kept: dict[tuple, torch.Tensor] = {}

    def copy(self, key: tuple, values: torch.Tensor) -> torch.Tensor:
        """Of one tensor, as fp32; on a GPU it has arrived only after `arrived`."""
        kept = self._kept.get(key)
        if kept is None or kept.numel() != values.numel():
            kept = self._kept[key] = torch.empty(values.numel(), dtype=torch.float32, pin_memory=self._pinned)
        kept.copy_(values.detach().view(-1), non_blocking=self._pinned)
        return kept

    def arrived(self) -> None:
        if self._pinned:
            torch.cuda.synchronize()


def take(engine: Engine, state: dict, about: dict, buffers: Buffers) -> Snapshot:
    """Copy what this rank holds. All ranks call it together; the engine may train on when it returns."""
    moments = engine.moment_shapes()
    shapes = {WEIGHTS_FILE: engine.shapes()} | {moment_file(key): of_key for key, of_key in moments.items()}
    parts = []
    for fragment in engine.own_fragments():
        tensors = {WEIGHTS_FILE: fragment.weight} | {moment_file(key): m for key, m in fragment.moments.items()}
        parts += [Part(file, fragment.name, fragment.start, buffers.copy((file, fragment.name), values))
                  for file, values in tensors.items()]
    state = {"format": FORMAT, **state, "optimizer_step": engine.optimizer_step(), "loss_scale": engine.loss_scale()}
    buffers.arrived()
    return Snapshot(state["step"], state, shapes, list(moments), parts, about)


def write(folder: Path, snapshot: Snapshot, write_side_files: Callable[[Path], None], ranks: Ranks) -> Path:
    """Publish folder/step_NNNNNNNN. All ranks call it together; the first adds files by `write_side_files`."""
    final = folder / step_name(snapshot.step)
    making = folder / f"{MAKING}{final.name}"
    what, needs = f"save {final}", sum(map(size_of, snapshot.shapes.values()))
    with ranks.together(what), disk.in_words(what, folder, needs):
        if ranks.first:
            _begin(folder, making, needs, snapshot, write_side_files)
    with ranks.together(what), disk.in_words(what, folder, needs):
        for file in snapshot.shapes:
            write_ranges(making / file, ((part.name, part.start, part.values) for part in snapshot.parts
                                         if part.file == file))
    with ranks.together(what), disk.in_words(what, folder):
        pieces = pieces_of(making)
        own = pieces[ranks.rank::ranks.world]
        hashed = dict(zip(own, hashes(making, own), strict=True))
    hashed = {piece: digest for of_rank in ranks.gather(hashed) for piece, digest in of_rank.items()}
    with ranks.together(what), disk.in_words(what, folder):
        if ranks.first:
            _publish(making, final, snapshot, {piece: hashed[piece] for piece in pieces})
    return final


def _begin(folder: Path, making: Path, needs: int, snapshot: Snapshot,
           write_side_files: Callable[[Path], None]) -> None:
    disk.make_folder(folder)
    clear_unfinished(folder)
    disk.need(needs, folder, f"save step {snapshot.step}")
    disk.make_folder(making)
    for file, shapes in snapshot.shapes.items():
        create(making / file, shapes)
    write_side_files(making)
    disk.write_file(making / "state.json", json.dumps(snapshot.state, indent=1).encode())


def _publish(making: Path, final: Path, snapshot: Snapshot, hashed: dict) -> None:
    """Everything is on the disk before the one rename, and the rename before anybody is told."""
    disk.sync_tree(making)  # side files too, whoever wrote them
    text = json.dumps({"format": FORMAT, "step": snapshot.step, "moments": snapshot.moments, "piece_bytes": PIECE_BYTES,
                       **snapshot.about, "files": files_entry(hashed)}, indent=1).encode()
    disk.write_file(making / MANIFEST, text)
    disk.write_file(making / GUARD, guard_of(text))
    disk.sync_folder(making)
    aside = final.with_name(SET_ASIDE + final.name)
    if final.exists():  # the same step once more: kept until its successor stands, whenever we are killed
        disk.rename(final, aside)
    disk.rename(making, final)
    disk.sync_folder(final.parent)
    point(final.parent, "latest", final.name)
    if aside.exists():
        disk.remove_tree(aside)
