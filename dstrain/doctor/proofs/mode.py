"""Evaluating, generating and sampling happen in evaluation mode, and leave every module in the mode that it was in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dstrain.config.schema import Recipe
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding
from dstrain.doctor.fresh_engine import fresh_engine
from dstrain.families import family_of
from dstrain.runtime.dist import Ranks
from dstrain.train import evaluate as validation

CLAIM = "validating, generating and sampling leave every module's mode as it was, an exception included"
CALLS_BEFORE_IT_BREAKS = 5


class Broken(Exception):
    """What is raised in the midst of a forward pass."""


def prove(case: Case) -> Finding:
    """Each way is gone twice: to its end, and into an exception. One part of the model is in evaluation mode before."""
    faults, ways, modules = case.ranks(1).run(faults_found, case.on_few_documents("mode"))[0]
    return Finding(not faults, f"{len(faults)} faults on {ways} ways through {modules} modules"
                   + "".join(f"; {fault}" for fault in faults[:3]),
                   "none: a mode that stays switches dropout off for the rest of the run, or on in a validation",
                   "model.eval() without the way back, or not in a `finally`" if faults else "",
                   "use dstrain.nn.mode.in_eval, which keeps every module's own mode" if faults else "")


def faults_found(ranks: Ranks, recipe: Recipe) -> tuple[list[str], int, int]:
    """(faults in words, ways tried, modules)."""
    family = family_of(recipe)
    recipe = replace(recipe, log=replace(recipe.log, samples=2))
    with fresh_engine(ranks, recipe) as (engine, tokenizer):
        model, own = engine.model, (tokenizer, recipe)
        ways: dict[str, Callable[[], Any]] = {
            "validating": lambda: validation.evaluate(engine, engine.trainee, family, recipe, tokenizer, ranks)}
        writes = hasattr(model, "extend")  # a user's own class may not
        if writes and family.sample(model, *own):
            ways["sampling"] = lambda: family.sample(model, *own)
        if writes and family.pictures is not None:
            ways["drawing"] = lambda: family.pictures(model, *own)
        if writes and family.generated_scores is not None:
            ways["generating for scores"] = lambda: family.generated_scores(
                model, *own, ranks, engine.holds_whole_model, lambda: False)
        modules = dict(engine.trainee.named_modules())
        faults = [fault for name, way in ways.items() for breaks in (False, True)
                  for fault in _faults_of(name, way, modules, breaks)]
        return faults, 2 * len(ways), len(modules)


def _faults_of(name: str, way: Callable[[], Any], modules: dict[str, nn.Module], breaks: bool) -> Iterator[str]:
    for module in modules.values():
        module.training = True
    frozen = list(modules.values())[-1]
    frozen.training = False  # as a part that a user keeps in evaluation mode
    before = {path: module.training for path, module in modules.items()}
    in_training: set[str] = set()
    calls, raised = 0, False

    def look(path: str, module: nn.Module) -> None:
        nonlocal calls
        calls += 1
        if module.training:
            in_training.add(path)
        if breaks and calls == CALLS_BEFORE_IT_BREAKS:
            raise Broken

    with _looked_at(modules, look):
        try:
            way()
        except Broken:
            raised = True
    ending = f"{name}, broken off by an exception," if breaks else name
    changed = [path or "the trainee" for path, module in modules.items() if module.training != before[path]]
    if not calls or breaks != raised:
        yield f"{ending} never ran a module of the model"
    if changed:
        yield f"{ending} leaves {len(changed)} modules in another mode ({changed[0]})"
    if in_training:
        yield f"{ending} runs {len(in_training)} modules in training mode ({min(in_training) or 'the trainee'})"


@contextmanager
def _looked_at(modules: dict[str, nn.Module], look: Callable[[str, nn.Module], None]) -> Iterator[None]:
    """Inside, `look` hears of each call of a module."""
    handles = [module.register_forward_pre_hook(lambda module, _, path=path: look(path, module))
               for path, module in modules.items()]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
