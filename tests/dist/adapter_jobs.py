"""What tests of adapters let ranks do: a model of which adapters alone are trained, stepped, saved and loaded."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rank_jobs import gradient_at_updates

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.families import family_of
from dstrain.nn.adapters import UP, adapt, initial_adapter, is_adapter
from dstrain.nn.chance import row_keys
from dstrain.nn.init import initial_weight
from dstrain.objectives.loss_law import loss_law
from dstrain.runtime.checkpoint.loading import load
from dstrain.runtime.checkpoint.restored import check_restored
from dstrain.runtime.checkpoint.saving import write
from dstrain.runtime.checkpoint.snapshot import take
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.runtime.norms import Measured
from dstrain.train.family import Family
from dstrain.train.step import train_step

RANK = 3
"""of the adapters: no multiple of the numbers of ranks, so that parts are ragged"""


class Seen(NamedTuple):
    nll: list[float]
    weights: list[list[tuple[str, int, torch.Tensor]]]
    """of this rank before the first step, and after the last"""
    moments: list[tuple[str, int, torch.Tensor]]
    gradients: list[list[tuple[str, int, torch.Tensor]]]
    """of each step"""
    norms: dict
    """of the first step"""
    said: str
    """of what was loaded"""
    optimizer: str


def adapted_family(recipe: Recipe, rank: int = RANK) -> Family:
    """The recipe's own family, with adapters, of which none begins at zero: its gradient would be, in part."""
    family = family_of(recipe)

    def build_trainee(recipe: Recipe, tokenizer: Any) -> torch.nn.Module:
        trainee = family.build_trainee(recipe, tokenizer)
        adapt(trainee.model, rank)
        return trainee

    return replace(family, build_trainee=build_trainee, initial_weight=first_weight)


def first_weight(model: torch.nn.Module, name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    if name.endswith(UP):
        return initial_weight(name, shape, 0.02, seed)
    return initial_adapter(name, shape, seed) if is_adapter(name) else model.initial(name, shape, seed)


def adapter_steps(ranks: Ranks, recipe: Recipe, ds_config: str, first: int, last: int, folder: Path | None = None,
                  save_at: int | None = None) -> Seen:
    """Steps `first` to `last`: of a new engine, or from where `folder` was saved at step `first` - 1."""
    family, config = adapted_family(recipe), engine_json(recipe, ranks.world, "cpu", ds_config)
    loaded = load(folder / "checkpoints" / f"step_{first - 1:08d}") if first > 1 else None
    tokenizer, objective = load_tokenizer(recipe.tokenizer), family.build_objective(recipe)
    if loaded is not None:
        with torch.device("meta"):
            loaded.check_fits(family.build_trainee(recipe, tokenizer), recipe.optim)
    engine = Engine(lambda: family.build_trainee(recipe, tokenizer),
                    lambda trainee: loaded.weight_of if loaded is not None else lambda name, shape: (
                        family.initial_weight(trainee.model, name, shape, recipe.run.seed)), recipe, config, ranks)
    said = ""
    if loaded is not None:
        loaded.restore(engine)
        said = check_restored(loaded, engine, recipe)
    gradient, weights, gradients, nll, norms = gradient_at_updates(engine), [_held(engine)], [], [], {}
    place = None
    with closing(family.train_feed(recipe, tokenizer, ranks.rank, ranks.world, place)) as feed:
        for step in feed:
            if step.number < first:
                continue
            if step.number > last:
                break
            gradient.clear()
            with Measured(engine) as measured:
                result = train_step(engine, objective, step.micro_batches, step.rows_hash, step.number,
                                    recipe.run.seed, ranks)
            norms = norms or measured.read()
            nll.append(float(ranks.sum(result.nll)))
            gradients.append(list(gradient.values()))
            if step.number == save_at:
                _save(engine, folder, step.number, ranks)
    weights.append(_held(engine))
    moments = [(f"{key} of {f.name}", f.start, moment.clone()) for f in engine.own_fragments()
               for key, moment in f.moments.items()]
    optimizer = engine.optimizer_summary()
    engine.close()
    return Seen(nll, weights, moments, gradients, norms, said, optimizer)


def _held(engine: Engine) -> list[tuple[str, int, torch.Tensor]]:
    return [(f.name, f.start, f.weight.detach().clone()) for f in engine.own_fragments()]


def _save(engine: Engine, folder: Path, step: int, ranks: Ranks) -> None:
    def write_recipe(making: Path) -> None:
        (making / "recipe.yaml").write_text("")

    write(folder / "checkpoints", take(engine, {"step": step}, {}, None), write_recipe, ranks, say=lambda line: None)


def gradient_without_engine(recipe: Recipe) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Of the first step, in float64 and plain torch: by name; and the names of what is frozen."""
    family, tokenizer = adapted_family(recipe), load_tokenizer(recipe.tokenizer)
    trainee = family.build_trainee(recipe, tokenizer)
    with torch.no_grad():
        for name, parameter in trainee.model.named_parameters():
            parameter.copy_(first_weight(trainee.model, name, parameter.shape, recipe.run.seed))
    trainee, objective = trainee.double().train(), family.build_objective(recipe)
    with closing(family.train_feed(recipe, tokenizer, 0, 1, None)) as feed:
        batches = next(feed).micro_batches
    counts = torch.stack([objective.counts(batch) for batch in batches]).sum(dim=0)
    for batch in batches:
        sums = trainee(inputs=batch.inputs(), labels_BT=batch.labels_BT,
                       keys_B=row_keys(recipe.run.seed, 1, batch.rows_B))
        loss_law(sums.nll, counts, objective.weights).backward()
    named = dict(trainee.model.named_parameters())
    return ({name: parameter.grad for name, parameter in named.items() if parameter.requires_grad},
            [name for name, parameter in named.items() if not parameter.requires_grad])


def refused(ranks: Ranks, recipe: Recipe, what: str) -> str:
    """What is said of a model with something that no checkpoint carries."""
    family, tokenizer = adapted_family(recipe), load_tokenizer(recipe.tokenizer)

    def build() -> torch.nn.Module:
        trainee = family.build_trainee(recipe, tokenizer)
        if what == "buffer":
            trainee.model.register_buffer("mean", torch.zeros(3))
        else:
            trainee.requires_grad_(False)
        return trainee

    try:
        Engine(build, lambda trainee: lambda name, shape: torch.zeros(shape), recipe,
               engine_json(recipe, ranks.world, "cpu", "zero1_fp32"), ranks)
    except ValueError as error:
        return str(error)
    return "nothing"
