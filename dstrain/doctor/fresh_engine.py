"""The engine of a recipe at its initial weights, built on a live rank as the trainer builds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.families import family_of
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.train.progress import Progress
from dstrain.train.start import build_engine


@contextmanager
def fresh_engine(ranks: Ranks, recipe: Recipe) -> Iterator[tuple[Engine, Any]]:
    """(engine, tokenizer); closed behind it."""
    family = family_of(recipe)
    tokenizer = family.open_tokenizer(recipe, None)
    config = engine_json(recipe, ranks.world, ranks.device.type)
    engine = build_engine(recipe, family, config, tokenizer, None, Progress(recipe.run.steps, shown=False), ranks)
    try:
        yield engine, tokenizer
    finally:
        engine.close()
