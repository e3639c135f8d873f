"""The checkpoints to come, beside the room where they will stand."""

from __future__ import annotations

from pathlib import Path

from dstrain.doctor.warnings.figure import Figure
from dstrain.doctor.warnings.look import Look
from dstrain.runtime.checkpoint.disk import free_bytes, in_units

BYTES_A_PARAMETER = 12
"""fp32 weight and two fp32 moments; Muon's matrices have one moment, so with it this is at most"""


def figures(look: Look) -> list[Figure]:
    one = BYTES_A_PARAMETER * look.parameters
    kept = look.recipe.checkpoint.keep + 1 + bool(look.recipe.data.valid)  # one is being written, one is the best
    free = _free(look.run_folder)
    text = f"{in_units(one)} a checkpoint, at most {kept} at once: {in_units(kept * one)}"
    if free is None:
        return [Figure("disk", f"{text}; the file system of {look.run_folder} does not say what is free")]
    return [Figure("disk", f"{text}; {in_units(free)} are free there",
                   "too little room: a smaller checkpoint.keep, or a larger disk with run.dir=..."
                   if kept * one > free else "")]


def _free(folder: Path) -> int | None:
    place = next((place for place in (folder.absolute(), *folder.absolute().parents) if place.exists()), None)
    return None if place is None else free_bytes(place)
