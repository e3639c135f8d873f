"""The model families, each registered in one place: the trainer, the launchers and the doctor know none by name."""

from __future__ import annotations

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.families.arc import ARC
from dstrain.families.lm import LM
from dstrain.families.moe import MOE
from dstrain.families.translate import TRANSLATE
from dstrain.train.family import Family

FAMILIES: dict[str, Family] = {family.name: family for family in (LM, TRANSLATE, MOE, ARC)}


def family_of(recipe: Recipe) -> Family:
    if recipe.family not in FAMILIES:
        raise UserError(f"family: {recipe.family!r} is none of {', '.join(FAMILIES)}")
    return FAMILIES[recipe.family]
