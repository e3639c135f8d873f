"""The trainer prints its steps; in a proof nobody wants to read them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.doctor.on_ranks import on_ranks
from dstrain.runtime.dist import Ranks
from dstrain.train.family import Family
from dstrain.train.state import RunState
from dstrain.train.trainer import train


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """What is printed inside goes nowhere."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def train_quietly(ranks: Ranks, recipe: Recipe, family: Family, ds_config: str | None = None) -> RunState:
    """The trainer itself, as `dstrain train` calls it."""
    recipe = on_ranks(recipe, ranks.world)
    config = engine_json(recipe, ranks.world, ranks.device.type, ds_config)
    with quietly():
        return train(recipe, family, config, ranks)
