"""A few real training steps on real ranks, by the production path, with everything recorded that proofs compare."""

from __future__ import annotations

import itertools
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch

from dstrain.config.schema import Recipe
from dstrain.doctor.fresh_engine import fresh_engine
from dstrain.families import family_of
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine, counters, own_name
from dstrain.runtime.fragments import gradient_fragments
from dstrain.train.metrics import Meter
from dstrain.train.step import train_step


@dataclass(frozen=True)
class Trace:
    """What one rank saw; records and ledger are the same on all ranks."""

    records: list[dict]
    ledger: list[dict]
    lrs_by_rule: dict[str, list[float]]
    """of "adamw" and "muon": read from the optimizer's groups at the moment of their update"""
    gradient: list[tuple[str, int, torch.Tensor]]
    """this rank's fragments of the first step's gradient: name, start, values"""
    weights: list[tuple[str, int, torch.Tensor]]
    """this rank's fragments of the final fp32 weights"""
    moments: dict[str, list[tuple[str, int, torch.Tensor]]] = field(default_factory=dict)
    """the same of the optimizer's moments, by kind; where they were asked for"""
    gradients: list[list[tuple[str, int, torch.Tensor]]] = field(default_factory=list)
    """the same of each step's gradient"""
    start: list[tuple[str, int, torch.Tensor]] = field(default_factory=list)
    """the same of the fp32 weights before the first step"""
    counters: list[dict[str, torch.Tensor]] = field(default_factory=list)
    """what this rank's model had counted before the first step and after each, by name; where it was asked for"""

    @property
    def lrs_used(self) -> list[float]:
        return self.lrs_by_rule["adamw"]

    @property
    def losses(self) -> list[float]:
        return [record["loss"] for record in self.records]

    @property
    def rows(self) -> list[str]:
        return [line["rows"] for line in self.ledger]


def short_run(ranks: Ranks, recipe: Recipe, ds_config: str | None, steps: int, ragged: bool = True,
              nan_at: int | None = None, closely: bool = False, repeats: bool = False) -> Trace:
    """`steps` steps of the recipe.

    `ragged` cuts rows to very different lengths; `nan_at` poisons that step on one rank; `closely` records the moments,
    each step's gradient, the first weights and what the model counts, too; `repeats` takes the first step's rows in
    all steps.
    """
    family = family_of(recipe)
    objective = family.build_objective(recipe)
    meter = Meter(objective, ranks)
    with fresh_engine(ranks, recipe, ds_config) as (engine, tokenizer):
        observer, start = _Observer(engine, steps if closely else 1), _weights(engine) if closely else []
        counted = [_counters(engine)] if closely else []
        with closing(family.train_feed(recipe, tokenizer, ranks.rank, ranks.world, None)) as feed:
            for number, step in zip(range(1, steps + 1), itertools.repeat(next(feed)) if repeats else feed):
                cut_as = 1 if repeats else number
                batches = [family.anatomy.ragged(batch, cut_as) if ragged else batch for batch in step.micro_batches]
                with _poisoned(engine, nan_at == number and ranks.rank == ranks.world - 1):
                    result = train_step(engine, objective, batches, step.rows_hash, number, recipe.run.seed, ranks)
                meter.add(number, result, step.wait_s)
                observer.next_step()
                counted += [_counters(engine)] if closely else []
        records, ledger = meter.flush()
        weights = _weights(engine)
        moments = _moments(engine) if closely else {}
    gradients = [list(gradient.values()) for gradient in observer.gradients]
    return Trace(records, ledger, observer.lrs_by_rule, gradients[0], weights, moments, gradients if closely else [],
                 start, counted)


def _weights(engine: Engine) -> list[tuple[str, int, torch.Tensor]]:
    return [(f.name, f.start, f.weight.clone().cpu()) for f in engine.own_fragments()]


def _counters(engine: Engine) -> dict[str, torch.Tensor]:
    return {own_name(name): counter.clone().cpu() for name, counter in counters(engine.trainee)}


def _moments(engine: Engine) -> dict[str, list[tuple[str, int, torch.Tensor]]]:
    found: dict[str, list[tuple[str, int, torch.Tensor]]] = {}
    for fragment in engine.own_fragments():
        for kind, moment in fragment.moments.items():
            found.setdefault(kind, []).append((fragment.name, fragment.start, moment.clone().cpu()))
    return found


def whole(fragments_of_ranks: list[list[tuple[str, int, torch.Tensor]]],
          shapes: dict[str, tuple]) -> dict[str, torch.Tensor]:
    """Parameters put together again from all ranks' fragments."""
    full = {name: torch.full(shape, torch.nan, dtype=torch.float64).view(-1) for name, shape in shapes.items()}
    for fragments in fragments_of_ranks:
        for name, start, values in fragments:
            full[name][start:start + values.numel()] = values.double()
    return {name: values.view(shapes[name]) for name, values in full.items()}


class _Observer:
    """Looks into the optimizer just before it updates: at the lr that it will use, and in the first steps the gradient.

    DeepSpeed calls the optimizer once for each of its groups, each time with that group's gradient alone.
    """

    def __init__(self, engine: Engine, looks: int):
        self.engine, self.step = engine, 1
        self.lrs_by_rule: dict[str, list[float]] = {group["rule"]: [] for group in engine.optimizer.param_groups}
        self.gradients: list[dict[tuple[str, int], tuple[str, int, torch.Tensor]]] = [{} for _ in range(looks)]
        engine.optimizer.register_step_pre_hook(lambda *_: self._look())

    def next_step(self) -> None:
        self.step += 1

    def _look(self) -> None:
        for group in self.engine.optimizer.param_groups:
            lrs = self.lrs_by_rule[group["rule"]]
            if len(lrs) < self.step and any(parameter.grad is not None for parameter in group["params"]):
                lrs.append(float(group["lr"]))
        if self.step <= len(self.gradients):
            gradient = self.gradients[self.step - 1]
            for name, start, values in gradient_fragments(self.engine.deepspeed, self.engine.stage):
                gradient.setdefault((name, start), (own_name(name), start, values.clone().cpu()))


class _poisoned:
    """Multiplies the losses of one step by NaN on this rank, as a broken sample or a failing device would."""

    def __init__(self, engine: Engine, on: bool):
        self.engine, self.on = engine, on

    def __enter__(self) -> None:
        self.backward = self.engine.backward
        if self.on:
            self.engine.backward = lambda loss, last: self.backward(loss * torch.nan, last)

    def __exit__(self, *exception: Any) -> None:
        self.engine.backward = self.backward
