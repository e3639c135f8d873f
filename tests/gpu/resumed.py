"""The trainer, stopped twice and continued, against the run that was not: as the doctor proves it, on this device."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from case_here import CaseHere
from frame import Here, Outcome, judge

from dstrain.doctor.finding import largest, relative
from dstrain.doctor.proofs.resume import compare_runs, forget_after, resumable, run_to_end
from dstrain.train.run_folder import RunFolder, read_lines

LOSSES = {"ordinary": 1e-4, "deterministic": 0.0}
"""relative; ordinary algorithms may add in another order from run to run"""
ENGINES = ("zero1_bf16", "zero3_bf16", "zero2_fp32")


def show(here: Here, algorithms: str) -> Outcome:
    if algorithms == "deterministic":
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # before CUDA starts
        import torch
        torch.use_deterministic_algorithms(True)
    case = CaseHere.of(here)
    figures, holds = {}, {}
    for name in ENGINES[:1] if here.rehearsing else ENGINES:
        folder = case.new_folder("resume")
        different, compared, off = _stopped_twice(case, folder, name)
        figures[name] = {"different": len(different), "compared": compared, "first": different[:3], "losses": off}
        here.note(figures)
        holds[f"{name}: nothing was compared"] = compared > 0
        holds[f"{name}: losses {off:.1e}"] = off <= LOSSES[algorithms]
        if algorithms == "deterministic":
            holds[f"{name}: {len(different)} of {compared} records and files differ, first {different[:1]}"] = (
                not different)
    return judge(here, holds, figures, "records and checkpoint files: none differs, to the bit"
                 if algorithms == "deterministic" else
                 f"losses within {LOSSES[algorithms]:.0e} relative; how many bits differ is said, not judged")


def _stopped_twice(case: CaseHere, folder: Path, ds_config: str) -> tuple[list[str], int, float]:
    """(what differs, how much was compared, largest relative difference of a loss)."""
    recipe = resumable(case.recipe)
    straight, stopped = folder / "straight", folder / "stopped"
    run_to_end(case, recipe, straight, 1, ds_config)
    shutil.copytree(straight, stopped)
    for lost_after in (2, 4):
        forget_after(stopped, recipe, lost_after)
        run_to_end(case, recipe, stopped, 1, ds_config)
    different, compared = compare_runs(straight, stopped, recipe)
    a, b = ([record["loss"] for record in read_lines(RunFolder(run / recipe.run.name).metrics) if "loss" in record]
            for run in (straight, stopped))
    return different, compared, largest(relative(x, y) for x, y in zip(a, b, strict=True))
