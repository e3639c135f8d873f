"""A recipe for as many ranks as a proof has: experts that ranks share out are shared by as many as divide these."""

from __future__ import annotations

from dataclasses import replace
from math import gcd

from dstrain.config.schema import Recipe


def on_ranks(recipe: Recipe, world: int) -> Recipe:
    peers = gcd(recipe.engine.expert_parallel, world)
    return replace(recipe, engine=replace(recipe.engine, expert_parallel=peers))
