"""What the tests of optimizers let ranks do; functions here are looked up by name in the ranks' own processes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rank_jobs import build, gradient_at_updates
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe, Schedule
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.doctor.case import Case
from dstrain.doctor.proofs.resume import run_training
from dstrain.families import family_of
from dstrain.runtime.checkpoint.loading import load
from dstrain.runtime.checkpoint.saving import write
from dstrain.runtime.checkpoint.snapshot import take
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.train.step import train_step

Fragments = list[tuple[str, int, torch.Tensor]]


def with_muon(case: Case) -> Case:
    """The case with Muon, at a learning rate of its own."""
    recipe = replace(case.recipe, optim=replace(case.recipe.optim, name="muon", muon_lr=5e-3),
                     schedule=Schedule(warmup_steps=2, floor=0.1))
    return replace(case, recipe=recipe)


class Seen(NamedTuple):
    """What one rank held, by step."""

    gradients: list[Fragments]
    """as they came to the optimizer"""
    weights: list[Fragments]
    moments: list[dict[str, Fragments]]
    """by kind"""
    parts: list[tuple[int, ...]]
    """of each of Muon's matrices how many elements each rank holds"""


def watched_steps(ranks: Ranks, recipe: Recipe, ds_config: str, steps: int, nan_at: int | None = None) -> Seen:
    """`steps` ragged steps; `nan_at` poisons that one on the last rank."""
    family, engine = family_of(recipe), build(ranks, recipe, ds_config)
    objective = family.build_objective(recipe)
    seen = Seen([], [], [], [matrix.sizes for matrix in getattr(engine.optimizer, "_matrices", [])])
    gradient = gradient_at_updates(engine)
    backward = engine.backward
    with closing(family.train_feed(recipe, load_tokenizer(recipe.tokenizer), ranks.rank, ranks.world, None)) as feed:
        for number, step in zip(range(1, steps + 1), feed):
            poison = torch.nan if nan_at == number and ranks.rank == ranks.world - 1 else 1.0
            engine.backward = lambda loss, last: backward(loss * poison, last)
            batches = [family.anatomy.ragged(batch, number) for batch in step.micro_batches]
            train_step(engine, objective, batches, step.rows_hash, number, recipe.run.seed, ranks)
            own = list(engine.own_fragments())
            seen.gradients.append(list(gradient.values()))
            seen.weights.append([(f.name, f.start, f.weight.clone()) for f in own])
            seen.moments.append({kind: [(f.name, f.start, f.moments[kind].clone()) for f in own if kind in f.moments]
                                 for kind in engine.moment_shapes()})
            gradient.clear()
    engine.close()
    return seen


def lrs_of_training(ranks: Ranks, recipe: Recipe, ds_config: str) -> list[dict[str, set[float]]]:
    """For each step of the trainer's run the lrs of every group (by rule and weight decay), from a hook that sees all
    optimizers at the moment of their updates."""
    of_steps: list[dict[str, set[float]]] = []
    update = Engine.update

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            if any(parameter.grad is not None for parameter in group["params"]):
                of_steps[-1].setdefault(f"{group['rule']} {group['weight_decay']:g}", set()).add(float(group["lr"]))

    def counted(engine: Engine) -> bool:
        of_steps.append({})
        return update(engine)

    handle = register_optimizer_step_pre_hook(look)
    Engine.update = counted
    try:
        run_training(ranks, recipe, ds_config)
    finally:
        handle.remove()
        Engine.update = update
    return of_steps


def restore(ranks: Ranks, recipe: Recipe, ds_config: str, folder: Path, again: Path) -> int | str:
    """A checkpoint into a fresh engine, which saves it at once in `again`; the update count that was restored, or why
    it was refused."""
    engine = build(ranks, recipe, ds_config)
    try:
        loaded = load(folder)
        with torch.device("meta"):
            loaded.check_fits(family_of(recipe).build_trainee(recipe, load_tokenizer(recipe.tokenizer)), recipe.optim)
        loaded.restore(engine)
        state = {key: value for key, value in loaded.state.items() if key not in ("optimizer_step", "loss_scale")}
        write(again, take(engine, state, {}, None), lambda where: None, ranks)
        return engine.optimizer_step()
    except UserError as mistake:
        return str(mistake)
    finally:
        engine.close()


def fused_kernels(ranks: Ranks, recipe: Recipe, ds_config: str) -> tuple[set[str], int]:
    """Names of the optimizer kernels that one step of training runs, and how many tensors they update."""
    from torch.utils._python_dispatch import TorchDispatchMode

    kernels: set[str] = set()
    updated = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), named=None):
            nonlocal updated
            name = operation.overloadpacket.__name__
            if "adam" in name or name in ("addcdiv_", "_foreach_addcdiv_"):
                kernels.add(name)
                updated += len(arguments[0])
            return operation(*arguments, **(named or {}))

    engine, family = build(ranks, recipe, ds_config), family_of(recipe)
    with closing(family.train_feed(recipe, load_tokenizer(recipe.tokenizer), ranks.rank, ranks.world, None)) as feed:
        step = next(feed)
        with Watch():
            train_step(engine, family.build_objective(recipe), step.micro_batches, step.rows_hash, 1, 1, ranks)
    engine.close()
    return kernels, updated
