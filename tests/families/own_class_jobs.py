"""Trains with a model class of one's own on live ranks, each call as if in a process of its own."""

from __future__ import annotations

import contextlib
import io
import os

from dstrain.config.engine_json import engine_json
from dstrain.config.load import load_recipe
from dstrain.config.model_code import text_of
from dstrain.families import family_of
from dstrain.families.own_class import own_class
from dstrain.runtime.dist import Ranks
from dstrain.train.trainer import train


def train_in(ranks: Ranks, folder: str, overrides: list[str], ds_config: str = "zero1_fp32") -> str:
    """What the training says."""
    text_of.cache_clear(), own_class.cache_clear()
    before = os.getcwd()
    os.chdir(folder)
    said = io.StringIO()
    try:
        recipe = load_recipe("small.yaml", overrides)
        with contextlib.redirect_stdout(said):
            train(recipe, family_of(recipe), engine_json(recipe, ranks.world, "cpu", ds_config), ranks)
    finally:
        os.chdir(before)
    return said.getvalue()
