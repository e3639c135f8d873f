"""What is seen of a routed model: how busy its experts are, and what its further heads are worth.

Shapes: L layers with experts, E experts, X = E + 2: how often each expert was given a token, the number of tokens, the
sum of their distributions' entropies in nats.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

from dstrain.config.schema import Recipe
from dstrain.objectives.drafts import AGREED, KEPT, RIGHT
from dstrain.objectives.next_tokens import BALANCE, ROUTER_Z
from dstrain.train.picture import Picture
from dstrain.train.shown import Shown

LOAD_KEY = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
ABOUT_LOAD = ("Rows are layers, columns experts, both by number. A cell is how often the expert was given a token in "
              "the steps since the log before, over an even share: 1 is even. Red: more, blue: less; twice as much is "
              "half way to the strongest.")
ABOUT_BIAS = ("Rows are layers, columns experts, both by number. A cell is the expert's bias in nudges of "
              "objective.bias_speed ({speed:g}), less the mean of its layer (all drift together, and only differences "
              "choose), rounded. Red: favoured, as it got too few tokens; blue: held back.")


class OfLayer(NamedTuple):
    """The routing of one layer."""

    layer: int
    """the number of its block, as in parameters' names"""
    load: list[float]
    """of each expert the tokens that it was given, over an even share: 1 is even"""
    dropped: int
    """tokens that should have been given to an expert and were not: times top_k, and counted from the rows alone"""
    entropy: float
    """of the router's distribution over experts, mean over tokens, as a share of the largest: 1 is undecided"""
    nudges: list[float]
    """each expert's bias in units of objective.bias_speed, less their mean: all drift together, and only differences
    choose"""

    @property
    def largest_over_mean(self) -> float:
        return max(self.load)


def routing(recipe: Recipe, model: Any, counts: Tensor, seen_LX: Tensor) -> list[OfLayer]:
    """Layer by layer, from sums over all ranks and `counts` of the objective's terms."""
    experts, top_k, every = recipe.model.experts, recipe.model.top_k, recipe.model.every
    layers = len(seen_LX)
    due = int(counts[term_places(recipe)[ROUTER_Z]]) // layers * top_k
    found = []
    routers = [ff.router for ff in getattr(model, "expert_layers", ())]  # an own class may have none
    for number, sums in enumerate(seen_LX.tolist(), start=1):
        given, tokens, entropy = sums[:experts], sums[experts], sums[experts + 1]
        load = [count * experts / max(1.0, sum(given)) for count in given]
        found.append(OfLayer(number * every - 1, load, due - round(sum(given)),
                             entropy / max(1.0, tokens) / math.log(experts),
                             _less_mean(routers[number - 1].nudges.tolist() if routers else [0] * experts)))
    return found


def shown(recipe: Recipe, model: Any, counts: Tensor, seen_LX: Tensor) -> Shown:
    """Four numbers and a spread a layer, whatever the number of experts; each of them is in the pictures."""
    layers, speed = routing(recipe, model, counts, seen_LX), _bias_speed(model)
    scalars = {"moe/largest_over_mean": max(one.largest_over_mean for one in layers),
               "moe/dropped": float(sum(one.dropped for one in layers))}
    for one in layers:
        scalars |= {f"{_tag(one)}/largest_over_mean": one.largest_over_mean, f"{_tag(one)}/entropy": one.entropy,
                    f"{_tag(one)}/dropped": float(one.dropped), f"{_tag(one)}/largest_bias": _largest_bias(one, speed)}
    return Shown(scalars, {f"{_tag(one)}/load": one.load for one in layers},
                 {"moe/load": load_picture(layers), "moe/bias": bias_picture(layers, speed)})


def further_scores(recipe: Recipe, model: Any, counts: Tensor, seen_LX: Tensor, found: Tensor) -> dict:
    """Of a validation: `heads` by number from 1, `accepted_length`, `experts` by layer."""
    labels, heads = counts.tolist(), {}
    for head in range(recipe.model.next_tokens):
        of_head = {"accuracy": float(found[RIGHT, head]) / max(1, labels[head])}
        if head:
            of_head["acceptance"] = float(found[AGREED, head]) / max(1, labels[head])
        heads[str(head + 1)] = of_head
    places = max(1.0, float(found[KEPT, 0]))
    layers, speed = routing(recipe, model, counts, seen_LX), _bias_speed(model)
    return {"heads": heads, "accepted_length": float(found[KEPT].sum()) / places,
            "experts": {_name(one): {"largest_over_mean": one.largest_over_mean, "entropy": one.entropy,
                                     "dropped": one.dropped, "largest_bias": _largest_bias(one, speed),
                                     "load": [round(load, 4) for load in one.load]} for one in layers}}


def in_words(recipe: Recipe, scores: dict) -> list[str]:
    """`further_scores`, and each head's loss, as two tables."""
    terms = list(scores["terms"].values())
    others = {term: value for term, value in scores["terms"].items() if term in term_places(recipe)}
    lines = [f"  {term:<16} {value:.6g}" for term, value in others.items()]
    lines += ["", "  head  loss      accuracy  acceptance"]
    for head, of_head in scores["heads"].items():
        acceptance = f"{of_head['acceptance']:.4f}" if "acceptance" in of_head else "-"
        lines.append(f"  t+{head:<4}{terms[int(head) - 1]:<10.4f}{of_head['accuracy']:<10.4f}{acceptance}")
    lines += ["  accuracy: how often a head's best token is the text's; acceptance: how often it is the one that the",
              "  first head says there, later: as a draft it would be kept if those before it are"]
    if recipe.model.further == "sequential" and recipe.model.next_tokens > 1:
        lines += ["  sequential heads are told the true tokens before the one that they predict: their figures do not",
                  "  compare with those of parallel heads, which are told none"]
    lines += [f"  accepted length {scores['accepted_length']:.3f}: tokens that a pass of speculative decoding yields,",
              "  as far as texts that it generates are like this one; heads that agree on what is wrong count, too",
              "",
              "  layer     load: largest  smallest  entropy  dropped  largest bias"]
    for name, of_layer in scores["experts"].items():
        lines.append(f"  {name:<16}{of_layer['largest_over_mean']:>7.3f}{min(of_layer['load']):>10.3f}"
                     f"{of_layer['entropy']:>9.3f}{of_layer['dropped']:>9}{of_layer['largest_bias']:>14.4f}")
    lines += ["  load: tokens of an expert over an even share, 1 is even; entropy: of the router's probabilities, as a",
              "  share of the largest, 1 is undecided; largest bias: off its layer's mean (only differences choose)",
              "", "  load of each expert"]
    for name, of_layer in scores["experts"].items():
        loads = [f"{load:5.2f}" for load in of_layer["load"]]
        parts = [" ".join(loads[start:start + 16]) for start in range(0, len(loads), 16)]
        lines += [f"  {name if not number else '':<10}{part}" for number, part in enumerate(parts)]
    return lines


def load_picture(layers: list[OfLayer]) -> Picture:
    return Picture([[_shade_of_load(load) for load in one.load] for one in layers],
                   [[f"{load:.1f}" if load < 99.5 else f"{load:.0f}" for load in one.load] for one in layers],
                   [str(one.layer) for one in layers], _numbers(layers),
                   [(_shade_of_load(load), f"{load:g}") for load in LOAD_KEY], ABOUT_LOAD)


def bias_picture(layers: list[OfLayer], speed: float) -> Picture:
    """In nudges: a bias is so many times `speed`."""
    most = max(1, *(abs(nudge) for one in layers for nudge in one.nudges))
    return Picture([[nudge / most for nudge in one.nudges] for one in layers],
                   [[str(round(nudge)) for nudge in one.nudges] for one in layers], [str(one.layer) for one in layers],
                   _numbers(layers), [(share / 2, f"{round(share * most / 2)}") for share in range(-2, 3)],
                   ABOUT_BIAS.format(speed=speed))


def term_places(recipe: Recipe) -> dict[str, int]:
    """Where the terms stand that are no head's: behind the heads', the balance and then the z-term."""
    return {BALANCE: recipe.model.next_tokens, ROUTER_Z: recipe.model.next_tokens + 1}


def _shade_of_load(load: float) -> float:
    return max(-1.0, min(1.0, math.log2(load) / 2)) if load > 0 else -1.0


def _bias_speed(model: Any) -> float:
    """Of an own class without such layers no bias is known."""
    return next((ff.router.bias_speed for ff in getattr(model, "expert_layers", ())), 0.0)


def _less_mean(nudges: list[int]) -> list[float]:
    mean = sum(nudges) / len(nudges)
    return [nudge - mean for nudge in nudges]


def _largest_bias(one: OfLayer, speed: float) -> float:
    return max(map(abs, one.nudges)) * speed


def _numbers(layers: list[OfLayer]) -> list[str]:
    return [str(expert) for expert in range(len(layers[0].load))]


def _name(one: OfLayer) -> str:
    return f"layer_{one.layer:02d}"


def _tag(one: OfLayer) -> str:
    return f"moe/{_name(one)}"
