"""Where this runs: Python, packages, compiler, accelerator, the job's time limit."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping

import torch

from dstrain.doctor.warnings.figure import Figure
from dstrain.doctor.warnings.look import Look
from dstrain.runtime.rank_report import version_of, versions
from dstrain.train.announce import PACKAGES
from dstrain.train.progress import duration


def figures(look: Look) -> list[Figure]:
    return [_python(), _packages(look), _compiler(look), _accelerator(), *_time_limit(look, os.environ)]


def _python() -> Figure:
    old = sys.version_info < (3, 10)
    return Figure("python", platform.python_version(), "dstrain needs 3.10 or newer" if old else "")


def _packages(look: Look) -> Figure:
    there = {name: version_of(name) for name in PACKAGES}
    needed = {"torch", "deepspeed", "numpy", "tensorboard"}
    needed |= {"sacrebleu"} if getattr(look.recipe.valid, "translate", False) else set()
    missing = [name for name in PACKAGES if name in needed and there[name] is None]
    return Figure("packages", ", ".join(f"{name} {version}" for name, version in there.items() if version),
                  f"not installed: {', '.join(missing)}; run bash launch/setup.sh" if missing else "")


def _compiler(look: Look) -> Figure:
    found = shutil.which("g++") or shutil.which("clang++")
    return Figure("compiler", found or "no C++ compiler", "engine.compile needs one: install g++, or set it to false"
                  if look.recipe.engine.compile and not found else "")


def _accelerator() -> Figure:
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        return Figure("accelerator", f"{torch.cuda.device_count()} x {name}, CUDA {versions()['cuda']}")
    return Figure("accelerator", "none: CPU")


def _time_limit(look: Look, environment: Mapping[str, str]) -> list[Figure]:
    """Of the job that this runs in, and the recipe's own."""
    limits, own = [], look.recipe.run.max_minutes
    if environment.get("SLURM_JOB_END_TIME", "").isdigit():
        limits.append(("left in this job", int(environment["SLURM_JOB_END_TIME"]) - time.time()))
    limits += [("of run.max_minutes", own * 60)] if own is not None else []
    if not limits:
        return [Figure("time limit", "none known")]
    text = ", ".join(f"{duration(max(0.0, seconds))} {what}" for what, seconds in limits)
    needed = look.step_s * look.recipe.run.steps
    short = needed > min(seconds for _, seconds in limits)
    return [Figure("time limit", text, f"the run takes about {duration(needed)} here: it will save and leave; the same "
                   "command goes on, or submit with --chain" if short else "")]
