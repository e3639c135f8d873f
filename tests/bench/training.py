"""dstrain's own step as a contender: train_step through DeepSpeed, metrics read as rarely as the trainer does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from packed import AnyVocabulary
from torch import nn
from torch.nn import functional

from dstrain.config.engine_json import engine_json
from dstrain.config.load import load_recipe
from dstrain.config.schema import Recipe
from dstrain.data.collate import Batch
from dstrain.families import family_of
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine, fill_weights
from dstrain.train.metrics import Meter
from dstrain.train.step import train_step


PLAIN_LINEAR = functional.linear


class DstrainLoop:
    """One engine, one step at a time.

    Building an engine at ZeRO-3 puts DeepSpeed's own function in place of torch.nn.functional.linear, for the whole
    process and for good. Here it stands there only while that engine steps: the others keep torch's.
    """

    def __init__(self, recipe: Recipe, ds_config: str, vocab_size: int, ranks: Ranks):
        self.recipe, self.ranks = recipe, ranks
        family = family_of(recipe)
        self.objective = family.build_objective(recipe)
        self.engine = Engine(
            lambda: family.build_trainee(recipe, AnyVocabulary(vocab_size)),
            lambda trainee: lambda name, shape: family.initial_weight(trainee.model, name, shape, recipe.run.seed),
            recipe, engine_json(recipe, ranks.world, ranks.device.type, ds_config), ranks)
        self.linear, functional.linear = functional.linear, PLAIN_LINEAR
        self.meter = Meter(self.objective, ranks)
        self.steps, self.records = 0, []

    def step(self, number: int, batches: Sequence[Batch]) -> None:
        functional.linear = self.linear
        try:
            result = train_step(self.engine, self.objective, batches, 0, number, self.recipe.run.seed, self.ranks)
        finally:
            functional.linear = PLAIN_LINEAR
        self.meter.add(number, result, 0.0)
        self.steps += 1
        if self.steps % self.recipe.log.every == 0:
            self.flush()

    def flush(self) -> list[float]:
        self.records += self.meter.flush()[0]
        return [record["loss"] for record in self.records]

    def close(self) -> None:
        self.engine.close()


def bench_recipe(preset: str, rows: int, micro_rows: int, length: int, overrides: Sequence[str] = ()) -> Recipe:
    """A preset at a constant learning rate, so that the bare loop needs no schedule; dropout as the preset has it."""
    return load_recipe("quickstart", [
        f"model={{preset: {preset}}}", f"batch={{rows: {rows}, micro_rows: {micro_rows}, length: {length}}}",
        "schedule={name: WarmupLR, warmup_steps: 0}", "optim.lr=3.0e-4", *overrides])


def trainee_builder(recipe: Recipe, vocab_size: int, device: torch.device) -> Callable[[], nn.Module]:
    """Makes the same trainee, at the same initial weights, as an engine of this recipe holds."""
    family = family_of(recipe)

    def build() -> nn.Module:
        trainee = family.build_trainee(recipe, AnyVocabulary(vocab_size))
        fill_weights(trainee, lambda name, shape: family.initial_weight(trainee.model, name, shape, recipe.run.seed))
        return trainee.to(device).train()

    return build

