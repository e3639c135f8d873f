"""A smallest recipe for the tests of this folder, and files of recipes and of DeepSpeed settings."""

from __future__ import annotations

import json
from pathlib import Path

SMALLEST = """\
# smallest
family: lm
model: {preset: tiny}
data:
  train: [{embedded: python-stdlib, part: train}]
batch: {rows: 12, micro_rows: 4, length: 8}
run: {name: smallest, steps: 10}
"""


def recipe_file(folder: Path, text: str = SMALLEST, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def ds_file(folder: Path, settings: dict, name: str = "mine.json") -> str:
    path = folder / name
    path.write_text(json.dumps({"zero_optimization": {"stage": 1}, **settings}), encoding="utf-8")
    return str(path)
