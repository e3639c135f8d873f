"""What a run has at hand from its first step to its last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dstrain.config.schema import Recipe
from dstrain.guard.bell import Bell
from dstrain.runtime.checkpoint.saver import Saver
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.train.family import Family, Objective
from dstrain.train.progress import Progress
from dstrain.train.run_folder import RunFolder
from dstrain.train.sinks import NoSinks, Sinks
from dstrain.train.state import RunState


@dataclass(frozen=True)
class Run:
    """Set up by train(); only `state` changes, with every step."""

    recipe: Recipe
    family: Family
    objective: Objective
    tokenizer: Any
    engine: Engine
    config: dict
    """DeepSpeed's settings, resolved"""
    folder: RunFolder
    sinks: Sinks | NoSinks
    state: RunState
    progress: Progress
    ranks: Ranks
    saver: Saver
    bell: Bell
    """rings when the run is asked to leave"""
