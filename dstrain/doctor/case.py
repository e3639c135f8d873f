"""The patient: the user's recipe in small, with its own model classes, data, tokenizer and engine file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.data.tokenizer import load_tokenizer
from dstrain.families import family_of
from dstrain.runtime.rank_group import RankGroup
from dstrain.train.family import Family

WORLDS = (1, 2)
"""numbers of ranks that the doctor tries"""


@dataclass
class Case:
    """A shrunk recipe and the ranks to run it on; close it when done."""

    recipe: Recipe
    ds_config: str | None = None
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="dstrain-doctor-")))
    groups: dict[int, RankGroup] = field(default_factory=dict)

    @staticmethod
    def of(recipe: Recipe, ds_config: str | None = None) -> "Case":
        """Dropout is switched on, so that the chance law is proven with the rest."""
        small = family_of(recipe).shrink(recipe)
        if small.model.dropout == 0.0:
            small = replace(small, model=replace(small.model, dropout=0.1))
        return Case(small, ds_config)

    @property
    def family(self) -> Family:
        return family_of(self.recipe)

    def tokenizer(self) -> Any:
        return load_tokenizer(self.recipe.tokenizer)

    def ranks(self, world: int) -> RankGroup:
        """`world` live ranks, started at the first call."""
        if world not in self.groups or not self.groups[world].alive:
            self.groups[world] = RankGroup(world)
        return self.groups[world]

    def config(self, recipe: Recipe, world: int) -> dict:
        return engine_json(recipe, world, "cpu", self.ds_config)

    def close(self) -> None:
        import shutil
        for group in self.groups.values():
            group.close()
        shutil.rmtree(self.folder, ignore_errors=True)
