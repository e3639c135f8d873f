"""What a rank holds after every step, and the gradient it made of its micro-batches: jobs for ranks."""

from __future__ import annotations

import hashlib
from contextlib import closing, contextmanager
from typing import Iterator

import torch
from rank_jobs import build

from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.families import family_of
from dstrain.nn.chance import row_keys
from dstrain.objectives.loss_law import loss_law
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine, own_name
from dstrain.runtime.fragments import gradient_fragments
from dstrain.train.step import train_step


def steps_of(ranks: Ranks, recipe: Recipe, ds_config: str, steps: int, nan_at: int | None = None) -> list[dict]:
    """After every step: was it applied, its lrs and rows, the loss scale, and a hash of all that this rank holds."""
    engine, family = build(ranks, recipe, ds_config), family_of(recipe)
    objective, seen = family.build_objective(recipe), []
    with closing(family.train_feed(recipe, load_tokenizer(recipe.tokenizer), ranks.rank, ranks.world, None)) as feed:
        for number, step in zip(range(1, steps + 1), feed):
            with _nan_loss(engine, nan_at == number and ranks.rank == ranks.world - 1):
                result = train_step(engine, objective, step.micro_batches, step.rows_hash, number, recipe.run.seed,
                                    ranks)
            seen.append({"applied": result.applied, "lrs": result.lrs, "rows": result.totals.tolist(),
                         "nll": float(ranks.sum(result.nll)), "scale": engine.loss_scale(), "held": _held(engine)})
    engine.close()
    return seen


@contextmanager
def _nan_loss(engine: Engine, on: bool) -> Iterator[None]:
    backward = engine.backward
    engine.backward = (lambda loss, last: backward(loss * torch.nan, last)) if on else backward
    yield
    engine.backward = backward


def _held(engine: Engine) -> str:
    """fp32 masters, moments, and the weights that the forward pass computes with."""
    digest = hashlib.sha256()
    for fragment in engine.own_fragments():
        for tensor in (fragment.weight, *fragment.moments.values()):
            digest.update(tensor.detach().contiguous().numpy().tobytes())
    for parameter in engine.trainee.parameters():
        digest.update(getattr(parameter, "ds_tensor", parameter).detach().float().numpy().tobytes())
    return digest.hexdigest()


def summed_gradient_error(ranks: Ranks, recipe: Recipe, ds_config: str, settings: dict) -> float:
    """How far the gradient that the optimizer gets is from the float64 sum of the very gradients of all micro-batches.

    It is relative to the sum's norm: what adding up and travelling cost, without what the 16-bit passes cost.
    """
    family, tokenizer = family_of(recipe), load_tokenizer(recipe.tokenizer)
    objective = family.build_objective(recipe)
    with closing(family.train_feed(recipe, tokenizer, ranks.rank, ranks.world, None)) as feed:
        batches = next(feed).micro_batches
    counts = ranks.sum(torch.stack([objective.counts(batch) for batch in batches]).sum(dim=0))

    def losses(forward):
        for batch in batches:
            sums = forward(inputs=batch.inputs(), labels_BT=batch.labels_BT, keys_B=row_keys(1, 1, batch.rows_B))
            yield loss_law(sums.nll, counts, objective.weights)

    engine = build(ranks, recipe, ds_config, **settings)
    scale = (engine.loss_scale() or {"cur_scale": 1.0})["cur_scale"]
    expected = _float64_sum(ranks, family, recipe, tokenizer, engine.dtype, scale, losses)
    got = {}

    def look(*_) -> None:
        for name, start, values in gradient_fragments(engine.deepspeed, engine.stage):
            got.setdefault((own_name(name), start), values.double().clone())

    engine.optimizer.register_step_pre_hook(look)
    for number, loss in enumerate(losses(engine), start=1):
        engine.backward(loss, last=number == len(batches))
    assert engine.update()
    engine.close()
    squares = torch.zeros(2, dtype=torch.float64)
    for (name, start), values in got.items():
        of_sum = expected[name].view(-1)[start:start + values.numel()]
        squares += torch.stack([(values - of_sum).square().sum(), of_sum.square().sum()])
    error, whole = ranks.sum(squares)
    return float((error / whole).sqrt())


def _float64_sum(ranks: Ranks, family, recipe: Recipe, tokenizer, dtype: torch.dtype, scale: float,
                 losses) -> dict:
    """Over all micro-batches of all ranks, each gradient taken alone in plain PyTorch."""
    trainee = family.build_trainee(recipe, tokenizer)
    with torch.no_grad():
        for name, parameter in trainee.model.named_parameters():
            parameter.copy_(family.initial_weight(trainee.model, name, parameter.shape, recipe.run.seed))
    trainee = trainee.to(dtype).train()
    total = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in trainee.model.named_parameters()}
    for loss in losses(trainee):
        trainee.zero_grad()
        (loss * ranks.world * scale).backward()
        for name, parameter in trainee.model.named_parameters():
            total[name] += parameter.grad.double() / (ranks.world * scale)
    return {name: ranks.sum(gradient) for name, gradient in total.items()}
