"""The network's proportions beside the usual ones: width of the feed-forward, size of a head, depth."""

from __future__ import annotations

from typing import Any

from dstrain.doctor.warnings.figure import Figure
from dstrain.doctor.warnings.look import Look

USUAL_FF = {"gelu": 4.0, "swiglu": 8 / 3}
HEADS = (32, 128)


def figures(look: Look) -> list[Figure]:
    model = look.recipe.model
    width, ff, heads = (getattr(model, name, None) for name in ("width", "ff", "heads"))
    if not (width and ff and heads):
        return []  # a model class of the user's own may count in other things
    block = getattr(model, "block", "swiglu")
    usual, ratio, head = USUAL_FF[block], ff / width, width / heads
    return [
        *_experts(model, width, usual),
        *[Figure("feed-forward", f"{ff:,} channels{whose}, {ratio:.2g} times the width of {width:,}",
                 f"about {usual:.2g} times is usual with {block}: {round(usual * width):,}"
                 if not 0.7 * usual <= ratio <= 1.5 * usual else "") for whose in _whose(model)],
        Figure("heads", f"{heads} of {head:g} channels",
               f"{HEADS[0]} to {HEADS[1]} channels a head are usual" if not HEADS[0] <= head <= HEADS[1] else "")]


def _experts(model: Any, width: int, usual: float) -> list[Figure]:
    """What a token meets of a layer's experts is its feed-forward."""
    each, top_k = getattr(model, "expert_ff", None), getattr(model, "top_k", None)
    if not (each and top_k):
        return []
    active = each * (top_k + model.shared_experts)
    shared = f" and {model.shared_experts} shared" if model.shared_experts else ""
    return [Figure("experts", f"{top_k} of {model.experts}{shared}, of {each:,} channels each: {active:,} a token, "
                              f"{active / width:.2g} times the width of {width:,}",
                   f"about {usual:.2g} times is usual: {round(usual * width):,}, over all experts of a token"
                   if not 0.7 * usual <= active / width <= 1.5 * usual else "")]


def _whose(model: Any) -> list[str]:
    """In words, of a model with experts: what else has a feed-forward; nothing may."""
    if not hasattr(model, "every"):
        return [""]
    of = ["layers without experts"] * (model.every > 1) + ["further heads"] * (model.next_tokens > 1)
    return [f" in {' and '.join(of)}"] if of else []
