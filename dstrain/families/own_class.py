"""A user's own model class in the place of a family's: loaded from its file, and held to what training calls."""

from __future__ import annotations

import inspect
import sys
import traceback
import types
from dataclasses import replace
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from dstrain.config.errors import UserError
from dstrain.config.hints import nearest, one_line
from dstrain.config.model_code import file_and_class, text_of
from dstrain.config.schema import Recipe
from dstrain.nn.chance import name_sites
from dstrain.nn.transformer import Transformer

NEEDED = {"output_weight": "the matrix [vocabulary, channels] that makes logits of hidden states",
          "initial": "the weights to start from", "no_decay": "which parameters are never decayed"}
REST = "subclass dstrain.nn.transformer.Transformer, which has it, or write it"


def model_of(recipe: Recipe, built_in: type[nn.Module], *sizes: Any) -> nn.Module:
    """The family's model, or the recipe's own class called in the same way."""
    code = recipe.model.code
    if code is None:
        return built_in(recipe.model, *sizes)
    own, name = own_class(code), file_and_class(code)[1]
    _check_takes(own, name, built_in, (recipe.model, *sizes))
    model = own(recipe.model, *sizes)
    _check_has_all(model, name, recipe)
    name_sites(model)
    _check_hidden_states(model, name, getattr(recipe.model, "next_tokens", 0))
    return model


def why_no_text(model: nn.Module, *methods: str) -> str | None:
    """What an own class lacks to write texts; None where it can."""
    lacks = [method for method in methods if not hasattr(model, method)]
    return f"{type(model).__name__} has no {' and '.join(lacks)}, and writes no text" if lacks else None


def shrunk(model: Any, small: dict[str, Any]) -> Any:
    """A model's settings in small: an own class says itself what that is, or stays as it is."""
    if model.code is None:
        return replace(model, **small)
    own, name = own_class(model.code), file_and_class(model.code)[1]
    if not hasattr(own, "shrink"):
        return model
    found = own.shrink(model)
    if type(found) is not type(model):
        raise UserError(f"model.code: {name}.shrink returns {type(found).__name__}, but must return settings like "
                        f"those that it gets; write dataclasses.replace(settings, width=32, ...)")
    return found


@lru_cache(maxsize=16)
def own_class(code: str) -> type[nn.Module]:
    file, name = file_and_class(code)
    module = types.ModuleType(f"model_code_of_{file.stem}")
    module.__file__ = str(file)
    text = text_of(code)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    try:
        exec(compile(text, str(file), "exec"), module.__dict__)
    except Exception as error:  # whatever a user's file does
        within = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = getattr(error, "lineno", None) or (within or ["?"])[-1]
        raise UserError(f"model.code: {file} cannot be loaded: {type(error).__name__} in line {line}: "
                        f"{one_line(str(error))}; correct it") from error
    found = getattr(module, name, None)
    classes = [key for key, value in vars(module).items()
               if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__]
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        hint = nearest(name, classes) if classes else "it has no class that is a torch.nn.Module"
        raise UserError(f"model.code: {file} has no model class {name!r}; {hint}")
    return found


def _check_takes(own: type, name: str, built_in: type, arguments: tuple) -> None:
    called_with = ", ".join(list(inspect.signature(built_in.__init__).parameters)[1:])
    try:
        inspect.signature(own).bind(*arguments)
    except TypeError as error:
        raise UserError(f"model.code: {name} is called as {built_in.__name__} is, with ({called_with}), but: {error}; "
                        f"give its __init__ these arguments") from None
    taken = inspect.signature(own.forward).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken.values()):
        raise UserError(f"model.code: {name}.forward has **{[*taken][-1]}, which swallows whatever nothing reads; name "
                        f"each argument")
    wanted = [key for key in inspect.signature(built_in.forward).parameters if key != "self"]
    missing = [key for key in wanted if key not in taken]
    more = [key for key, parameter in taken.items() if key not in ("self", *wanted)
            and parameter.default is inspect.Parameter.empty]
    if missing or more:
        what = f"does not take {', '.join(missing)}" if missing else f"wants {', '.join(more)}, which nobody gives"
        raise UserError(f"model.code: {name}.forward {what}; it is called by keyword with {', '.join(wanted)}")


def _check_has_all(model: nn.Module, name: str, recipe: Recipe) -> None:
    of_muon = {"hidden_matrices": "which matrices Muon updates"} if recipe.optim.name == "muon" else {}
    for attribute, what in (NEEDED | of_muon).items():
        if not hasattr(model, attribute):
            raise UserError(f"model.code: {name} has no {attribute}: {what}; "
                            f"{'write it, or set optim.name=adamw' if attribute in of_muon else REST}")
    if isinstance(model, Transformer) and type(model).initial is Transformer.initial and (
            type(model).initial_std is Transformer.initial_std):
        raise UserError(f"model.code: {name} has no initial_std(module_name, shape): how large its matrices begin; "
                        f"write it, for example `return 0.02`")


def _check_hidden_states(model: nn.Module, name: str, of_heads: int) -> None:
    """At the first forward pass, once: before it nobody knows what comes out. `of_heads`: how many prediction heads, 0
    where the family has one alone."""
    def look(model: nn.Module, inputs: tuple, given: dict[str, Tensor], output: Any) -> None:
        hook.remove()
        heads = output.heads if of_heads and hasattr(output, "heads") else output
        if not isinstance(heads, tuple) or len(heads) != (of_heads or 1) or not isinstance(heads[0], Tensor):
            wanted = (f"dstrain.models.moe_lm.MoeHidden(heads, routed) with {of_heads} heads" if of_heads else
                      "dstrain.nn.transformer.Hidden(hidden_BTD)")
            raise UserError(f"model.code: {name}.forward returns {type(output).__name__}; return {wanted}")
        hidden, weight = heads[0], model.output_weight
        wanted = (*given["ids_BT"].shape, getattr(weight, "ds_shape", weight.shape)[1])
        if tuple(hidden.shape) != wanted:
            raise UserError(f"model.code: {name}.forward returns hidden states of shape {tuple(hidden.shape)}, but "
                            f"{wanted} are wanted: rows and tokens of ids_BT, channels of output_weight")

    hook = model.register_forward_hook(look, with_kwargs=True)
