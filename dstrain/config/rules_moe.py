"""Checks of a recipe of the family `moe`: its model, data and objective."""

from __future__ import annotations

from collections.abc import Callable

from dstrain.config.errors import UserError
from dstrain.config.hints import shown
from dstrain.config.model_code import check_code
from dstrain.config.moe import HEAD_WEIGHTS, MoeObjective
from dstrain.config.rules_lm import check_data
from dstrain.config.rules_model import check_sizes, divisors
from dstrain.config.schema import Recipe

SIZES = ("width", "heads", "layers", "ff", "experts", "expert_ff")

PlaceOf = Callable[[str], str]


def check_moe(recipe: Recipe, place_of: PlaceOf) -> None:
    check_sizes(recipe.model, SIZES, "tiny, small, medium", place_of)
    check_code(recipe.model, place_of)
    if recipe.engine.compile:
        raise UserError(f"{place_of('engine.compile')}: engine.compile is on, but how many tokens an expert gets "
                        f"differs from batch to batch, and each number would be compiled anew; remove it")
    _check_experts(recipe, place_of)
    _check_heads(recipe, place_of)
    check_data(recipe, place_of)


def _check_experts(recipe: Recipe, place_of: PlaceOf) -> None:
    model, parallel = recipe.model, recipe.engine.expert_parallel
    if model.layers is not None and model.every > model.layers:
        raise UserError(f"{place_of('model.every')}: model.every is {model.every}, but there are only {model.layers} "
                        f"layers, so none would have experts; choose at most {model.layers}, or family lm")
    if model.upcycle is not None and model.top_k == 1:
        raise UserError(f"{place_of('model.top_k')}: model.top_k is 1, so an expert's output is weighted by its "
                        f"probability, and a copy of a feed-forward (model.upcycle) is another function; choose 2 or "
                        f"more")
    if model.experts is None:
        return
    if model.top_k > model.experts:
        raise UserError(f"{place_of('model.top_k')}: model.top_k is {model.top_k}, more than the {model.experts} "
                        f"experts there are (model.experts); choose fewer")
    if model.experts % parallel:
        raise UserError(f"{place_of('engine.expert_parallel')}: engine.expert_parallel is {parallel}, which does not "
                        f"divide model.experts {model.experts}; choose one of {divisors(model.experts)}")


def _check_heads(recipe: Recipe, place_of: PlaceOf) -> None:
    objective, heads = recipe.objective, recipe.model.next_tokens
    if objective.weights is None and heads > len(HEAD_WEIGHTS):
        raise UserError(f"{place_of('model.next_tokens')}: model.next_tokens is {heads}, and only "
                        f"{len(HEAD_WEIGHTS)} heads have weights by default; write objective.weights, {heads} numbers")
    for name in ("weights", "begins", "final_weights"):
        values = getattr(objective, name)
        if values is not None and len(values) != heads:
            raise UserError(f"{place_of(f'objective.{name}')}: objective.{name} is {shown(list(values))}, but there "
                            f"are {heads} heads (model.next_tokens); write {heads} numbers")
    for name in ("weights", "final_weights"):
        values = getattr(objective, name)
        if values is not None and (not values[0] > 0 or min(values) < 0):
            raise UserError(f"{place_of(f'objective.{name}')}: objective.{name} is {shown(list(values))}, but the "
                            f"first, the next token's, must be above 0, and none below; [1, 0.5, 0.3, 0.2] is usual")
    defaults = MoeObjective()
    for name, there, balance in (("bias_speed", objective.has_bias, "bias"),
                                 ("balance_weight", objective.has_balance_term, "loss")):
        value = getattr(objective, name)
        if not there and value != getattr(defaults, name):
            raise UserError(f"{place_of(f'objective.{name}')}: objective.{name} is {value}, but objective.balance is "
                            f"{objective.balance}, which has none; remove it, or set objective.balance={balance}")
    begins = objective.begins
    if begins is not None and (begins[0] != 1 or list(begins) != sorted(begins)):
        raise UserError(f"{place_of('objective.begins')}: objective.begins is {shown(list(begins))}, but must begin "
                        f"with 1 and never fall: heads come in one after the other; [1, 500, 1000, 1500] is an example")
    if recipe.run.steps is not None and begins is not None and begins[-1] > recipe.run.steps:
        raise UserError(f"{place_of('objective.begins')}: objective.begins has a head come in at step {begins[-1]}, "
                        f"but the run ends with step {recipe.run.steps}; let it begin earlier")
