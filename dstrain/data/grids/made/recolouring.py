"""Made puzzles recolour: every colour becomes another one, as the demonstrations show; the background stays."""

from __future__ import annotations

import numpy as np

from dstrain.data.grids.made.chance import Chance
from dstrain.data.grids.made.rule import Rule, palette, shapes, speckled
from dstrain.data.grids.task import COLOURS


def recolour(chance: Chance) -> Rule:
    """One to three colours. Other rules are those that leave one of them as it is: so each must be seen to change."""
    colours = palette(chance, 1, 3)
    becomes = colours
    while any(old == new for old, new in zip(colours, becomes, strict=True)):
        becomes = chance.some_of(range(1, COLOURS), len(colours))
    table = np.arange(COLOURS, dtype=np.uint8)
    table[colours] = becomes
    others = []
    for colour in colours:
        other = table.copy()
        other[colour] = colour
        others.append(other.__getitem__)
    shape = shapes(chance)
    return Rule(lambda: speckled(chance, shape(), colours, len(colours)), table.__getitem__, tuple(others))
