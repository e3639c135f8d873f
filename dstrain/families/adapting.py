"""Adapters beside the weights of a trained run: what a new run takes over from it, and what cannot be taken over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dstrain.config.errors import UserError
from dstrain.config.model_code import as_saved, text_of
from dstrain.config.rules_arc import SIZES
from dstrain.config.schema import Recipe
from dstrain.nn.adapters import adapt, initial_adapter, is_adapter
from dstrain.train.other_run import OtherRun, open_run

KEY = "model.adapt"


def base_weights(recipe: Recipe, tokenizer: Any,
                 say: Callable[[str], None] = lambda line: None) -> Callable[[str, torch.Size], Tensor | None]:
    """(name, shape) -> the trained weight that stays as it is; None of an adapter."""
    if recipe.model.adapt is None:
        return lambda name, shape: None
    base = open_run(KEY, recipe.model.adapt)
    refuse_what_does_not_fit(recipe, base)
    say(f"adapters stand beside {base.checkpoint}" + (f" (the best of that run is {base.best})" if base.best else ""))

    def weight(name: str, shape: torch.Size) -> Tensor | None:
        if is_adapter(name):
            return None
        found = base.weight_of(name) if name in base.names else None
        if found is None or found.shape != shape:  # an own class, whose sizes no recipe tells
            there = "absent" if found is None else "x".join(map(str, found.shape))
            raise UserError(f"{KEY}: parameter {name} is {there} in {base.checkpoint}, but {'x'.join(map(str, shape))} "
                            f"in this model; give a run of the same model")
        return found

    return weight


def with_adapters(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The model itself, with adapters where the recipe has them: then these alone are trained."""
    if recipe.model.adapter_rank:
        adapt(model, recipe.model.adapter_rank)
    return model


def initial_weight(model: nn.Module, name: str, shape: torch.Size, seed: int) -> Tensor:
    """Of a fresh run; a model class knows nothing of the adapters in it."""
    return initial_adapter(name, shape, seed) if is_adapter(name) else model.initial(name, shape, seed)


def refuse_what_does_not_fit(recipe: Recipe, base: OtherRun) -> None:
    there, here, where = base.recipe.model, recipe.model, base.checkpoint
    if base.recipe.family != recipe.family:
        raise UserError(f"{KEY}: {where} is of the family {base.recipe.family}, but adapters of the family "
                        f"{recipe.family} stand beside a model of that family; give a trained {recipe.family} run")
    if there.kind != here.kind:
        raise UserError(f"{KEY}: this recipe has model.kind={here.kind}, but {where} is a {there.kind}; set "
                        f"model.kind={there.kind}")
    if there.adapter_rank:
        raise UserError(f"{KEY}: {where} is made of adapters itself, beside {there.adapt}; give a run that was trained "
                        f"whole")
    kept = as_saved(base.recipe, where).model.code
    if (kept and text_of(kept)) != (here.code and text_of(here.code)):
        raise UserError(f"{KEY}: this recipe has {_class(here)}, but {where} was trained with {_class(there)}; set "
                        f"model.code={there.code or 'null'}")
    wrong = {name: getattr(there, name) for name in (*SIZES[here.kind], "block")
             if getattr(there, name) != getattr(here, name)}
    if wrong:
        have = ", ".join(f"model.{name}={getattr(here, name)}" for name in wrong)
        need = " ".join(f"model.{name}={value}" for name, value in wrong.items())
        raise UserError(f"{KEY}: this recipe has {have}, but {where} was trained with other sizes; set {need}")


def _class(model: Any) -> str:
    return "the built-in model" if model.code is None else f"the class {model.code}"
