"""Checks of a recipe of the family `lm`: its model, data and objective."""

from __future__ import annotations

from collections.abc import Callable

from dstrain.config.errors import UserError
from dstrain.config.hints import shown
from dstrain.config.model_code import check_code
from dstrain.config.rules_model import check_sizes, divisors
from dstrain.config.schema import Recipe
from dstrain.config.source_rules import check_source

SIZES = ("width", "heads", "layers", "ff")
TERMS = 1

PlaceOf = Callable[[str], str]


def check_lm(recipe: Recipe, place_of: PlaceOf) -> None:
    check_sizes(recipe.model, SIZES, "tiny, small, medium", place_of)
    check_code(recipe.model, place_of)
    if recipe.model.code is not None and recipe.engine.compile:
        raise UserError(f"{place_of('engine.compile')}: engine.compile is on, but a class of one's own (model.code) is "
                        f"not compiled; remove it")
    check_data(recipe, place_of)
    check_objective(recipe, place_of)


def check_data(recipe: Recipe, place_of: PlaceOf) -> None:
    if not recipe.data.train:
        raise UserError(f"{place_of('data.train')}: data.train is an empty list, so there is nothing to train on; "
                        f"give a source, for example [{{embedded: python-stdlib, part: train}}]")
    for split in ("train", "valid"):
        for i, source in enumerate(getattr(recipe.data, split)):
            name = f"data.{split}.{i}"
            check_source(source, name, lambda key: place_of(f"{name}.{key}"))
    lanes, rows = recipe.data.lanes, recipe.batch.rows
    if lanes is not None and rows % lanes:
        raise UserError(f"{place_of('data.lanes')}: data.lanes is {lanes}, which does not divide batch.rows {rows}; "
                        f"choose one of {divisors(rows)}, or leave it out")


def check_objective(recipe: Recipe, place_of: PlaceOf) -> None:
    weights = recipe.objective.weights
    if len(weights) != TERMS or not weights[0] > 0:
        raise UserError(f"{place_of('objective.weights')}: objective.weights is {shown(list(weights))}, but family "
                        f"{recipe.family} has one loss term, the next token, whose weight must be above 0; write [1.0]")
