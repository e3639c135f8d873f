"""What the tests of experts let ranks do; functions here are looked up by name in the ranks' own processes."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from rank_jobs import build, gradient_at_updates

from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.doctor.case import Case
from dstrain.doctor.recipe_subject import fresh_trainee
from dstrain.families import family_of
from dstrain.nn.chance import row_keys
from dstrain.nn.exchange import Peers
from dstrain.objectives.loss_law import loss_law
from dstrain.runtime import engine as engine_module
from dstrain.runtime.dist import Ranks
from dstrain.train.metrics import Meter
from dstrain.train.step import train_step

Fragments = list[tuple[str, int, torch.Tensor]]
FAR = 10**9
"""nudges down, after which nobody chooses an expert any more"""


def shared_out(recipe: Recipe, peers: int, micro_rows: int | None = None, **objective: Any) -> Recipe:
    batch = recipe.batch
    return replace(recipe, engine=replace(recipe.engine, expert_parallel=peers),
                   batch=replace(batch, micro_rows=micro_rows or batch.micro_rows),
                   objective=replace(recipe.objective, **objective))


class Seen(NamedTuple):
    """What one rank saw, by step."""

    records: list[dict]
    rows: list[str]
    counts: list[list[list[int]]]
    """of each layer how many tokens each expert was given, over all ranks"""
    nudges: list[list[list[int]]]
    """of each layer, after the step"""
    gradients: list[Fragments]
    """as they came to the optimizer"""
    weights: list[Fragments]
    """after the step"""


def steps_with_experts(ranks: Ranks, recipe: Recipe, ds_config: str, steps: int, idle_from: int | None = None,
                       filler_at: int | None = None, nan_at: int | None = None) -> Seen:
    """Ragged steps. From `idle_from` on nobody chooses the last expert of the first layer; in `filler_at` the last rank
    has no rows, in `nan_at` its loss is NaN."""
    family, engine, last = family_of(recipe), build(ranks, recipe, ds_config), ranks.rank == ranks.world - 1
    objective = family.build_objective(recipe)
    meter, seen = Meter(objective, ranks), Seen([], [], [], [], [], [])
    routers = [ff.router for ff in engine.model.expert_layers]
    gradient = gradient_at_updates(engine)
    backward = engine.backward
    with closing(family.train_feed(recipe, load_tokenizer(recipe.tokenizer), ranks.rank, ranks.world, None)) as feed:
        for number, step in zip(range(1, steps + 1), feed):
            poison = torch.nan if nan_at == number and last else 1.0
            engine.backward = lambda loss, last: backward(loss * poison, last)
            if idle_from == number:
                routers[0].nudges[-1] = -FAR
            batches = [family.anatomy.ragged(batch, number) for batch in step.micro_batches]
            if filler_at == number and last:
                batches = [family.filler_batch(recipe, ranks.world) for _ in batches]
            result = train_step(engine, objective, batches, step.rows_hash, number, recipe.run.seed, ranks)
            meter.add(number, result, step.wait_s)
            seen.counts.append(result.seen[:, :-2].long().tolist())
            seen.nudges.append([router.nudges.tolist() for router in routers])
            seen.gradients.append(list(gradient.values()))
            seen.weights.append([(f.name, f.start, f.weight.clone()) for f in engine.own_fragments()])
            gradient.clear()
    records, ledger = meter.flush()
    engine.close()
    return seen._replace(records=records, rows=[line["rows"] for line in ledger])


def steps_before_a_tie(seen: Seen, reference: Seen) -> int:
    """In how many first steps all experts got as many tokens. The step after those may differ in two choices: where two
    experts tie within rounding."""
    for step, (one, other) in enumerate(zip(seen.counts, reference.counts, strict=True)):
        others = (torch.tensor(one) - torch.tensor(other)).abs().sum()
        if others:
            assert others <= 4, f"step {step + 1}: {one} instead of {other}"
            return step
    return len(seen.counts)


def float64_gradient(case: Case, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Of step 1: one process, no DeepSpeed, all rows in one batch, every expert in one place."""
    family, tokenizer = case.family, case.tokenizer()
    recipe = replace(recipe, batch=replace(recipe.batch, micro_rows=recipe.batch.rows))
    trainee, objective = fresh_trainee(recipe, family, tokenizer).double().train(), family.build_objective(recipe)
    with closing(family.train_feed(recipe, tokenizer, 0, 1, None)) as feed:
        batch = family.anatomy.ragged(next(feed).micro_batches[0], 1)
    sums = trainee(inputs=batch.inputs(), labels_BT=batch.labels_BT, keys_B=row_keys(recipe.run.seed, 1, batch.rows_B))
    loss_law(sums.nll, objective.counts(batch), objective.weights_at(1)).backward()
    return {name: parameter.grad for name, parameter in trainee.model.named_parameters()}


def trap(ranks: Ranks, recipe: Recipe, ds_config: str, kind: str) -> str:
    """What an engine says that was built with a word to DeepSpeed left out, or a share that is not this rank's."""
    honest = engine_module.expert_peers

    def peers(size: int, of: Ranks) -> Peers:
        return replace(honest(size, of), **TRAPS[kind](honest(size, of)))

    with ExitStack() as patches:
        patches.enter_context(patch.object(engine_module, "expert_peers", peers))
        if kind == "no sign":
            patches.enter_context(patch.object(engine_module, "announce_experts", lambda *_: None))
        try:
            build(ranks, recipe, ds_config).close()
        except RuntimeError as error:
            return str(error)
    return ""


def _without(*tags: str):
    def change(peers: Peers) -> dict:
        def mark(parameter: torch.nn.Parameter) -> None:
            peers.mark(parameter)
            for tag in tags:
                delattr(parameter, tag)

        return {"mark": mark}

    return change


TRAPS = {"no sign": lambda peers: {}, "reduced as any other": _without("allreduce"),
         "partitioned as any other": _without("ds_zero_placement_family", "ds_zero_partition_group_name",
                                              "ds_zero_partition_process_group"),
         "the other's share": lambda peers: {"rank": 1 - peers.rank}, "both the first": lambda peers: {"rank": 0}}
