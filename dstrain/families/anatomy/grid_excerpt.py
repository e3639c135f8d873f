"""A few tasks of each source as a small file in ARC's form: on them whole epochs can be counted."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

from dstrain.config.schema import Recipe
from dstrain.data.grids.sources import open_puzzles
from dstrain.data.grids.task import Example, Task

LOOKED_AT = 2000
"""tasks of a source, among which the smallest are found"""


def on_few_tasks(recipe: Recipe, folder: Path, count: int) -> Recipe:
    """The recipe on the smallest tasks of each source: small models have short rows. Each example is kept as it is."""
    made: dict[str, tuple] = {}
    for split in ("train", "valid"):
        sources = []
        for corpus, source in zip(open_puzzles(recipe.data, split), getattr(recipe.data, split), strict=True):
            path = folder / f"{split}-{corpus.number}.json"
            smallest = sorted(islice(corpus.tasks(), LOOKED_AT), key=_size)[:count]
            path.write_text(json.dumps({task.name: _as_json(task) for task in smallest}), encoding="utf-8")
            sources.append(replace(source, path=str(path), embedded=None, part="all"))
        made[split] = tuple(sources)
    return replace(recipe, data=replace(recipe.data, folder=None, **made))


def _size(task: Task) -> int:
    return max(grid.size for example in task.examples for grid in example if grid is not None)


def _as_json(task: Task) -> dict[str, list]:
    return {"train": [_example(example) for example in task.demonstrations],
            "test": [_example(example) for example in task.queries]}


def _example(example: Example) -> dict[str, list]:
    return {name: grid.tolist() for name, grid in zip(("input", "output"), example) if grid is not None}
