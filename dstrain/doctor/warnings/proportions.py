"""The network's proportions beside the usual ones: width of the feed-forward, size of a head, depth."""

from __future__ import annotations

from dstrain.doctor.warnings.figure import Figure
from dstrain.doctor.warnings.look import Look

USUAL_FF = {"gelu": 4.0, "swiglu": 8 / 3}
HEADS = (32, 128)


def figures(look: Look) -> list[Figure]:
    model = look.recipe.model
    width, ff, heads = (getattr(model, name, None) for name in ("width", "ff", "heads"))
    if not (width and ff and heads):
        return []  # a model class of the user's own may count in other things
    usual, ratio, head = USUAL_FF[model.block], ff / width, width / heads
    return [
        Figure("feed-forward", f"{ff:,} channels, {ratio:.2g} times the width of {width:,}",
               f"about {usual:.2g} times is usual with {model.block}: {round(usual * width):,}"
               if not 0.7 * usual <= ratio <= 1.5 * usual else ""),
        Figure("heads", f"{heads} of {head:g} channels",
               f"{HEADS[0]} to {HEADS[1]} channels a head are usual" if not HEADS[0] <= head <= HEADS[1] else "")]
