"""Experts from a trained dense model: every expert begins as a copy of its layer's feed-forward.

The gates of a token sum to 1, and copies give the same output, so the new model begins as the function that the dense
one is, wherever its tokens are sent. Routers and further heads begin fresh: that the experts see different tokens from
the first step on is what makes them different.

With S shared experts a token would meet that output S + 1 times. They are copies, too, and what each expert gives is
made so many times smaller: the sum stays, and with one or three shared experts to the bit.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.tokenizer_folder import load_saved
from dstrain.train.other_run import OtherRun, open_run

KEY = "model.upcycle"
SIZES = ("width", "heads", "layers", "positions")
EXPERTS, SHARED = ".ff.experts.", ".ff.shared."


def taken_over(recipe: Recipe, tokenizer: Any,
               say: Callable[[str], None] = lambda line: None) -> Callable[[str, torch.Size], Tensor | None]:
    """(name, shape) -> the dense model's weight in its place here; None where it has none."""
    if recipe.model.upcycle is None:
        return lambda name, shape: None
    dense = open_run(KEY, recipe.model.upcycle)
    refuse_what_does_not_fit(recipe, tokenizer, dense)
    say(f"begins with {dense.checkpoint}" + (f" (the best of that run is {dense.best})" if dense.best else ""))
    return lambda name, shape: weight_from(dense, name, shape, recipe.model.shared_experts)


def weight_from(dense: OtherRun, name: str, shape: torch.Size, shared: int) -> Tensor | None:
    if EXPERTS in name:
        block, kind = name.split(EXPERTS)
        weight = dense.weight_of(f"{block}.ff.{kind}.weight")
        return (weight / (shared + 1) if kind == "down" else weight).expand(*shape)
    if SHARED in name:
        block, kind = name.removesuffix(".weight").split(SHARED)
        weight = dense.weight_of(f"{block}.ff.{kind}.weight")
        if kind == "down":
            return (weight / (shared + 1)).repeat(1, shared)
        return torch.cat([half.repeat(shared, 1) for half in weight.chunk(2)])  # the gates of all, then the ups of all
    return dense.weight_of(name) if name in dense.names else None


def refuse_what_does_not_fit(recipe: Recipe, tokenizer: Any, dense: OtherRun) -> None:
    there, here, where = dense.recipe.model, recipe.model, dense.checkpoint
    if dense.recipe.family != "lm":
        raise UserError(f"{KEY}: {where} is of the family {dense.recipe.family}, but only a trained lm can be taken "
                        f"over; give one of the family lm")
    for model, whose in ((there, f"{where} has"), (here, "this recipe has")):
        if model.code is not None:
            raise UserError(f"{KEY}: {whose} a model class of its own ({model.code}), whose parameters nobody can "
                            f"assign; upcycle between the built-in ones")
    if there.block != "swiglu":
        raise UserError(f"{KEY}: {where} has model.block={there.block}, but experts are SwiGLU feed-forwards; train "
                        f"the lm with model.block=swiglu")
    needed = {name: getattr(there, name) for name in SIZES} | {"expert_ff": there.ff}
    if here.every > 1:
        needed["ff"] = there.ff  # of the layers without experts
    wrong = {name: value for name, value in needed.items() if getattr(here, name) != value}
    if wrong:
        have = ", ".join(f"model.{name}={getattr(here, name)}" for name in wrong)
        need = " ".join(f"model.{name}={value}" for name, value in wrong.items())
        raise UserError(f"{KEY}: this recipe has {have}, but {where} was trained with other sizes; set {need}")
    if here.positions == "learned" and recipe.batch.length != dense.recipe.batch.length:
        raise UserError(f"{KEY}: batch.length is {recipe.batch.length}, but {where} has learned positions for "
                        f"{dense.recipe.batch.length}; set batch.length={dense.recipe.batch.length}")
    if _vocabulary(load_saved(dense.tokenizer, None)) != _vocabulary(tokenizer):
        raise UserError(f"{KEY}: the tokenizer {recipe.tokenizer} is not the one that {where} was trained with, "
                        f"{dense.recipe.tokenizer}; set tokenizer={dense.tokenizer}")


def _vocabulary(tokenizer: Any) -> tuple:
    """All that decides which ids a text has."""
    return tokenizer.vocab_size, tokenizer.eot, *(getattr(tokenizer, what, None)
                                                  for what in ("ranks", "pattern", "specials"))
