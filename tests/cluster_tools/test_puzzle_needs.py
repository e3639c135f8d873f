"""A recipe of puzzles before the queue: its files are looked at, and nothing is to be fetched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dstrain.cluster.needs import Libraries, needs_of
from dstrain.config.certified_files import files_of_recipe
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe
from dstrain.train.gauges import share_tags

RECIPE = """family: arc
model: {kind: champion, preset: tiny}
data:
  train: [{path: tasks/*.json, part: train}, {embedded: puzzles, part: train}]
  valid: [{path: more/x_challenges.json}]
batch: {tokens: 4096, micro_tokens: 4096}
run: {name: puzzles, steps: 6}
"""


def never(*_):
    raise AssertionError("nothing of it is in a library's cache, and the network is asked for nothing")


NOTHING = Libraries(never, never, never, never)


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("puzzles.yaml").write_text(RECIPE)
    task = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}]}
    for name, content in (("tasks/a.json", task), ("tasks/b.json", task), ("more/x_challenges.json", {"c": task}),
                          ("more/x_solutions.json", {"c": [[[4]]]})):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(json.dumps(content))
    return lambda *overrides: load_recipe("puzzles.yaml", overrides)


def test_the_nodes_must_see_the_folders_of_the_tasks_and_nothing_else(load):
    found = needs_of(load(), False, {"HF_HUB_OFFLINE": "1"}, NOTHING)
    assert [(needed.what, str(needed.path)) for needed in found.places] == [
        ("data.train.0", "tasks"), ("data.valid.0", "more")]
    assert found.notes == ()


def test_tasks_that_are_missing_are_said(load):
    Path("more/x_challenges.json").unlink()
    with pytest.raises(UserError, match="data.valid.0.path: 'more/x_challenges.json' matches no file"):
        needs_of(load(), False, {}, NOTHING)


def test_a_saved_tokenizer_is_a_folder_that_the_nodes_must_see(load):
    Path("kept").mkdir()
    with pytest.raises(UserError, match="holds no saved tokenizer"):
        needs_of(load("tokenizer=./kept"), False, {}, NOTHING)
    Path("kept/tokenizer.json").write_text("{}")
    assert "tokenizer" in [needed.what for needed in needs_of(load("tokenizer=./kept"), False, {}, NOTHING).places]


def test_a_certificate_counts_the_files_with_their_solutions(load):
    found = files_of_recipe(load())
    assert {place: look["files"] for place, look in found.items()} == {"data.train.0": 2, "data.valid.0": 2}
    Path("more/x_solutions.json").write_text(json.dumps({"c": [[[4, 4]]]}))
    assert files_of_recipe(load())["data.valid.0"] != found["data.valid.0"]


def test_each_source_has_its_share_in_tensorboard(load):
    assert share_tags(load()) == ["data/share/0_.json", "data/share/1_puzzles"]
