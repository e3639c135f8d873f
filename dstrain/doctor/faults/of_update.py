"""Faults of the update itself and of the trainer's own loop: right gradients, and something else made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dstrain.doctor.faults.planting import put
from dstrain.runtime import engine
from dstrain.runtime.engine import Engine
from dstrain.train import trainer

LOOSE, BEHIND = 100, 3


def ascent() -> None:
    """The sign is lost on the way: each step goes up."""
    _in_each_group(lambda group, optim: group.update(maximize=True) if group["rule"] == "adamw" else None)


def other_betas() -> None:
    """The recipe's are read, and something else's stay."""
    _in_each_group(lambda group, optim: group.update(betas=(0.5, 0.6)) if group["rule"] == "adamw" else None)


def norms_decayed() -> None:
    """One group for all parameters: norms and biases shrink, too."""
    _in_each_group(lambda group, optim: group.update(weight_decay=optim.weight_decay or 0.1)
                   if group["weight_decay"] == 0 else None)


def clip_ignored() -> None:
    """A key that nothing reads: the first bad batch goes through as it is."""
    inner = Engine.__init__

    def wrong(self: Engine, build_trainee: Any, weights: Any, recipe: Any, config: dict, ranks: Any) -> None:
        recipe = replace(recipe, optim=replace(recipe.optim, clip=LOOSE * recipe.optim.clip))
        config = {**config, "gradient_clipping": LOOSE * config["gradient_clipping"]}
        inner(self, build_trainee, weights, recipe, config, ranks)

    put(Engine, "__init__", wrong)


def step_number_behind() -> None:
    """The loop counts from where it was before: rates and dropout of three steps ago."""
    inner = trainer.train_step

    def wrong(engine: Any, objective: Any, batches: Any, rows_hash: int, number: int, *others: Any,
              spoiled: bool = False) -> Any:
        return inner(engine, objective, batches, rows_hash, max(1, number - BEHIND), *others, spoiled=spoiled)

    put(trainer, "train_step", wrong)


def first_micro_batch_repeated() -> None:
    """An iterator that is begun anew for each micro-batch of a step."""
    inner = trainer.train_step

    def wrong(engine: Any, objective: Any, batches: Any, *others: Any, spoiled: bool = False) -> Any:
        return inner(engine, objective, batches[:1] * len(batches), *others, spoiled=spoiled)

    put(trainer, "train_step", wrong)


def _in_each_group(change: Callable[[dict, Any], None]) -> None:
    inner = engine.build_optimizer

    def wrong(model: Any, named: Any, optim: Any, *others: Any) -> Any:
        optimizer = inner(model, named, optim, *others)
        for group in optimizer.param_groups:
            change(group, optim)
        return optimizer

    put(engine, "build_optimizer", wrong)
