"""The doctor's case on this process's device: the same proofs that run on CPU ranks, on the one GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from frame import Here

from dstrain.config.engine_json import engine_json
from dstrain.config.load import load_recipe
from dstrain.config.schema import Recipe
from dstrain.doctor import fresh_engine, quiet_training
from dstrain.doctor.case import Case
from dstrain.families import family_of


class CaseHere(Case):
    """`ranks(1)` is this process itself."""

    def ranks(self, world: int) -> Any:
        assert world == 1, f"there is one GPU, and {world} ranks were asked for"
        return _Alone(self.here)

    @staticmethod
    def of(here: Here, **changes: Any) -> CaseHere:
        case = CaseHere(_recipe(here, **changes), here.folder)
        case.here = here
        take_settings_of_a_gpu()
        return case

    def engine_file(self, name: str, keys: dict) -> str:
        """The path of an engine file of one's own."""
        path = Path(self.folder) / f"{name}.json"
        path.write_text(json.dumps(keys))
        return str(path)


@dataclass(frozen=True)
class _Alone:
    here: Here

    def run(self, function: Callable, *args: Any) -> list:
        return [function(self.here.ranks, *args)]


def take_settings_of_a_gpu() -> None:
    """The doctor's runs ask for a CPU's settings; a rehearsal of fp16 has to pass DeepSpeed's refusal on a CPU, too."""
    from deepspeed.accelerator import get_accelerator

    def as_on_a_gpu(recipe: Recipe, world: int, device: str, ds_config: str | None = None) -> dict:
        return engine_json(recipe, world, "cuda", ds_config)

    fresh_engine.engine_json = quiet_training.engine_json = as_on_a_gpu
    if get_accelerator().device_name() == "cpu":
        type(get_accelerator()).is_fp16_supported = lambda self: True


def _recipe(here: Here, **changes: Any) -> Recipe:
    """Bytes of Python's own library, dropout on. On a GPU the `tiny` preset and 16 rows of 256; in small otherwise."""
    recipe = load_recipe("quickstart", ["model={preset: tiny, dropout: 0.1}", "optim.lr=1.0e-3", "data.lanes=8",
                                        "batch={rows: 16, micro_rows: 16, length: 256}", "data.prefetch_steps=2"])
    if here.rehearsing:
        recipe = family_of(recipe).anatomy.shrink(recipe, here.folder)
        recipe = replace(recipe, data=replace(recipe.data, lanes=8),
                         batch=replace(recipe.batch, rows=8, micro_rows=8))
    return replace(recipe, **changes)
