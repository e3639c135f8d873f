"""What a check gets, and what it gives back."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

NEEDS_GPU = "needs a GPU"


@dataclass(frozen=True)
class Outcome:
    passed: bool | None
    """None: nothing can be said here, because this needs a GPU"""
    figures: dict[str, Any]
    tolerance: str
    why: str = ""
    """what failed"""


@dataclass(frozen=True)
class Here:
    """Where a check runs."""

    rehearsing: bool
    """on a CPU and in small: the check's code is tried, not its claim"""
    folder: Path
    """empty, its own, removed afterwards"""
    notes: Path
    """where figures go that should survive if the check is ended in the middle"""

    @cached_property
    def ranks(self) -> Any:
        """This process as the only rank."""
        from dstrain.runtime.dist import start_ranks
        return start_ranks()

    @property
    def device(self) -> Any:
        return self.ranks.device

    @property
    def dtype_names(self) -> tuple[str, ...]:
        return "fp32", "bf16", "fp16"

    def note(self, figures: dict[str, Any]) -> None:
        """Keep these so far."""
        write_json(self.notes, figures)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        import torch
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def judge(here: Here, checks: dict[str, bool], figures: dict[str, Any], tolerance: str,
          only_on_gpu: bool = False) -> Outcome:
    """Passed if everything of `checks` holds; else the names of what does not are why."""
    broken = [name for name, holds in checks.items() if not holds]
    passed = None if only_on_gpu and here.rehearsing and not broken else bool(checks) and not broken
    return Outcome(passed, figures, tolerance, "; ".join(broken))


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all: a kill leaves what stood there before."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")
    os.replace(draft, path)


def _plain(value: Any) -> Any:
    """NaN and infinity are no JSON: they become text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
