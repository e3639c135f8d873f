"""What tests of this folder let ranks do; functions here are looked up by name in the ranks' own processes."""

from __future__ import annotations

from contextlib import closing

import torch

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.families import family_of
from dstrain.nn.chance import row_keys
from dstrain.objectives.loss_law import loss_law
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine, own_name
from dstrain.runtime.fragments import gradient_fragments


def short_run_with_counts(ranks: Ranks, recipe: Recipe) -> list[int]:
    """Scored targets of each micro-batch of the first step, cut as short_run cuts them."""
    family = family_of(recipe)
    with closing(family.train_feed(recipe, load_tokenizer(recipe.tokenizer), ranks.rank, ranks.world, None)) as feed:
        return [int((family.anatomy.ragged(batch, 1).labels_BT != -100).sum()) for batch in next(feed).micro_batches]


def build(ranks: Ranks, recipe: Recipe, ds_config: str, **settings) -> Engine:
    """An engine at its initial weights; `settings` go past dstrain's checks to DeepSpeed."""
    family, tokenizer = family_of(recipe), load_tokenizer(recipe.tokenizer)
    return Engine(lambda: family.build_trainee(recipe, tokenizer),
                  lambda trainee: lambda name, shape: family.initial_weight(
                      trainee.model, name, shape, recipe.run.seed),
                  recipe, {**engine_json(recipe, ranks.world, "cpu", ds_config), **settings}, ranks)


def gradient_at_updates(engine: Engine) -> dict[tuple[str, int], tuple[str, int, torch.Tensor]]:
    """Filled with this rank's parts of the gradient, under the model's names, as updates begin; to be cleared."""
    gradient: dict[tuple[str, int], tuple[str, int, torch.Tensor]] = {}

    def look(*_) -> None:
        for name, start, values in gradient_fragments(engine.deepspeed, engine.stage):
            gradient.setdefault((name, start), (own_name(name), start, values.flatten().clone()))

    engine.optimizer.register_step_pre_hook(look)
    return gradient


def live_elements_at_stage_3(ranks: Ranks, recipe: Recipe, ds_config: str) -> tuple[int, int, int]:
    """(elements of the model, most that this rank held at once after building, most during a step)."""
    engine = build(ranks, recipe, ds_config)
    parameters = list(engine.trainee.parameters())
    total = sum(parameter.ds_numel for parameter in parameters)
    peak = built = _live(parameters)

    def look(*_) -> None:
        nonlocal peak
        peak = max(peak, _live(parameters))

    for module in engine.trainee.modules():
        module.register_forward_pre_hook(look)
        module.register_forward_hook(look)
        module.register_full_backward_pre_hook(look)
        module.register_full_backward_hook(look)
    family = family_of(recipe)
    with closing(family.train_feed(recipe, load_tokenizer(recipe.tokenizer), ranks.rank, ranks.world, None)) as feed:
        batch = next(feed).micro_batches[0]
    sums = engine(inputs=batch.inputs(), labels_BT=batch.labels_BT, keys_B=row_keys(1, 1, batch.rows_B))
    engine.backward(loss_law(sums.nll, family.build_objective(recipe).counts(batch), (1.0,)), last=True)
    engine.update()
    engine.close()
    return total, built, peak


def _live(parameters) -> int:
    """Elements of whole parameters that stand in this rank's memory, its own partitions aside."""
    return sum(parameter.data.numel() for parameter in parameters)


def device_waits(ranks: Ranks, recipe: Recipe, ds_config: str) -> int:
    """How often one optimizer step reads a number from the device, which on a GPU means waiting for it."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from dstrain.train.step import train_step

    class Waits(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, operation, types, arguments=(), named=None):
            self.count += operation.overloadpacket.__name__ == "_local_scalar_dense"
            return operation(*arguments, **(named or {}))

    engine, family = build(ranks, recipe, ds_config), family_of(recipe)
    objective = family.build_objective(recipe)
    with closing(family.train_feed(recipe, load_tokenizer(recipe.tokenizer), ranks.rank, ranks.world, None)) as feed:
        for number in range(1, 5):  # in the first ones DeepSpeed still records what it will do
            step = next(feed)
            with Waits() as waits:
                train_step(engine, objective, step.micro_batches, step.rows_hash, number, 1, ranks)
    engine.close()
    return waits.count


def loss_scale_round_trip(ranks: Ranks, recipe: Recipe, ds_config: str) -> tuple[dict | None, dict | None]:
    """fp16's scale before and after it was put into another engine; the CPU's refusal of fp16 is set aside."""
    from deepspeed.accelerator import get_accelerator

    family, tokenizer = family_of(recipe), load_tokenizer(recipe.tokenizer)
    config = engine_json(recipe, ranks.world, "cuda", ds_config)
    accelerator = type(get_accelerator())
    refusal, accelerator.is_fp16_supported = accelerator.is_fp16_supported, lambda self: True
    try:
        engines = [Engine(lambda: family.build_trainee(recipe, tokenizer),
                          lambda trainee: lambda name, shape: family.initial_weight(trainee.model, name, shape, 1),
                          recipe, config, ranks) for _ in range(2)]
    finally:
        accelerator.is_fp16_supported = refusal
    scaler = engines[0].deepspeed.optimizer.loss_scaler
    scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter = 4096.0, 17, 11
    saved = engines[0].loss_scale()
    engines[1].set_loss_scale(saved)
    return saved, engines[1].loss_scale()


def reordered_partitions(ranks: Ranks, recipe: Recipe) -> None:
    family, tokenizer = family_of(recipe), load_tokenizer(recipe.tokenizer)
    config = engine_json(recipe, ranks.world, "cpu", "zero2_fp32")
    config["zero_optimization"]["round_robin_gradients"] = True
    Engine(lambda: family.build_trainee(recipe, tokenizer),
           lambda trainee: lambda name, shape: family.initial_weight(trainee.model, name, shape, 1),
           recipe, config, ranks)
