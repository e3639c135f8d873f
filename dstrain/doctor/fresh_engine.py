"""The engine of a recipe at its initial weights, built on a live rank as the trainer builds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.doctor.on_ranks import on_ranks
from dstrain.families import family_of
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.train import evaluate as validation
from dstrain.train.progress import Progress
from dstrain.train.start import build_engine


@contextmanager
def fresh_engine(ranks: Ranks, recipe: Recipe, ds_config: str | None = None) -> Iterator[tuple[Engine, Any]]:
    """(engine, tokenizer); closed behind it."""
    family, recipe = family_of(recipe), on_ranks(recipe, ranks.world)
    tokenizer = family.open_tokenizer(recipe, None)
    config = engine_json(recipe, ranks.world, ranks.device.type, ds_config)
    engine = build_engine(recipe, family, config, tokenizer, None, Progress(recipe.run.steps, shown=False), ranks)
    try:
        yield engine, tokenizer
    finally:
        engine.close()


def validated(ranks: Ranks, recipe: Recipe) -> dict[str, Any]:
    """The scores of the trainer's own validation at the initial weights."""
    with fresh_engine(ranks, recipe) as (engine, tokenizer):
        return validation.evaluate(engine, engine.trainee, family_of(recipe), recipe, tokenizer, ranks)


@contextmanager
def with_each_update(act: Callable[[], None]) -> Iterator[None]:
    """Inside, `act` is called whenever an engine of this process has updated its weights."""
    inner = Engine.update

    def update(engine: Engine) -> bool:
        applied = inner(engine)
        act()
        return applied

    Engine.update = update
    try:
        yield
    finally:
        Engine.update = inner
