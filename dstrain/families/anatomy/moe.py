"""The anatomy of `moe`: rows as of `lm`, and several heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dstrain.config.schema import Recipe
from dstrain.families.anatomy.lm import LM_ANATOMY
from dstrain.families.own_class import shrunk

SMALL = {"preset": None, "width": 32, "heads": 2, "layers": 2, "ff": 64, "experts": 4, "top_k": 2, "expert_ff": 16,
         "every": 1}


def _shrunk(recipe: Recipe, folder: Path) -> Recipe:
    return replace(LM_ANATOMY.shrink(replace(recipe, model=shrunk(recipe.model, SMALL)), folder))


MOE_ANATOMY = replace(LM_ANATOMY, shrink=_shrunk)
