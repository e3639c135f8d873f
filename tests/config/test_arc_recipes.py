"""Recipes of the family `arc`: what is filled in, what is refused, and that no section is another family's."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_texts import recipe_file

from dstrain.config.arc import ArcLog, ArcModel, ArcValid, PuzzleBatch
from dstrain.config.engine_json import engine_json
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe, recipe_from_dict, recipe_to_dict
from dstrain.config.presets import ARC_PRESETS
from dstrain.config.schema import SECTIONS, Recipe
from dstrain.config.shape import shape_of

SMALLEST = """\
family: arc
model: {preset: tiny}
data:
  train: [{embedded: puzzles, part: train}]
batch: {tokens: 2000, micro_tokens: 600, length: 500}
run: {name: smallest, steps: 10}
"""


def loaded(folder: Path, *overrides: str, text: str = SMALLEST) -> Recipe:
    return load_recipe(recipe_file(folder, text), overrides)


def test_sections_that_are_left_out_are_the_family_s_own(tmp_path):
    recipe = loaded(tmp_path)
    assert (recipe.valid, recipe.log, recipe.tokenizer) == (ArcValid(), ArcLog(), "grid")
    assert isinstance(recipe.batch, PuzzleBatch) and recipe.objective.weights == (1.0,)
    assert recipe.model.kind == "champion" and recipe.model.width == 96 and recipe.model.layers is None


def test_a_recipe_read_back_from_a_checkpoint_is_the_same(tmp_path):
    for overrides in ((), ("model.kind=decoder", "model.preset=base"), ("data.colours=none", "tokenizer=grid")):
        recipe = loaded(tmp_path, *overrides)
        assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


@pytest.mark.parametrize("kind", ARC_PRESETS)
@pytest.mark.parametrize("preset", ["tiny", "small", "base", "large"])
def test_each_kind_has_its_own_presets_and_what_is_set_beside_them_wins(tmp_path, kind, preset):
    recipe = loaded(tmp_path, f"model.kind={kind}", f"model.preset={preset}", "model.ff=64")
    expected = ArcModel(kind=kind, preset=preset, **{**ARC_PRESETS[kind][preset], "ff": 64})
    assert recipe.model == expected


def test_the_champion_s_base_preset_is_what_its_text_says(tmp_path):
    model = loaded(tmp_path, "model.preset=base").model
    assert (model.width, model.heads, model.encoder_layers, model.decoder_layers, model.ff) == (160, 4, 1, 3, 640)


def test_files_lie_in_the_data_s_folder(tmp_path):
    recipe = loaded(tmp_path, "data={train: [{path: training/*.json, part: train}], folder: /arc}")
    assert recipe.data.train[0].path == "/arc/training/*.json" and recipe.data.folder is None


@pytest.mark.parametrize("world, accumulation, micro_tokens", [(1, 4, 600), (2, 2, 600), (8, 1, 250)])
def test_a_step_is_divided_by_its_positions(tmp_path, world, accumulation, micro_tokens):
    shape = shape_of(loaded(tmp_path), world)
    assert (shape.accumulation, shape.micro_tokens) == (accumulation, micro_tokens)
    assert engine_json(loaded(tmp_path), world, "cpu")["train_micro_batch_size_per_gpu"] >= 1


@pytest.mark.parametrize("overrides, said", [
    (["model.layers=3"], "model.layers is 3, but a champion has encoder_layers and decoder_layers"),
    (["model.kind=decoder", "model.encoder_layers=3"], "model.encoder_layers is 3, but a decoder has layers"),
    (["model.kind=dekoder"], "dekoder"),
    (["model.width=48", "model.preset=null"], "model has no preset and no"),
    (["model.width=48"], "model.width is 48, but a champion looks at other grids with eight heads"),
    (["model.heads=16", "model.width=96"], "so each head has 6 of model.width 96"),
    (["tokenizer=bytes"], "tokenizer is 'bytes', but grids have ids of their own"),
    (["engine.compile=true"], "engine.compile is on, but batches of puzzles"),
    (["engine.expert_parallel=2"], "family arc has no experts"),
    (["data.train=[]"], "data.train is an empty list"),
    (["data.train=[{}]"], "data.train.0 has neither path nor embedded"),
    (["data.train=[{path: a.json, embedded: puzzles}]"], "keep one of them"),
    (["data.train=[{path: tasks}]"], "which does not end in .json"),
    (["data.train=[{path: a.json}]", "data.valid=[{path: a.json, part: valid}]"], "write part: train"),
    (["data.train=[{embedded: puzzles}]", "data.valid=[{embedded: puzzles, part: valid}]"], "write part: train"),
    (["batch.micro_tokens=3000"], "more than batch.tokens 2000"),
    (["batch.length=700"], "but one puzzle may have batch.length 700 positions"),
    (["objective.weights=[1, 2]"], "family arc has one loss term"),
    (["data.languages=[en, de]"], "unknown key 'languages' in data"),
    (["valid.beam=2"], "unknown key 'beam' in valid"),
    (["data.colours=some"], "data.colours"), (["data.demonstrations=0"], "data.demonstrations"),
])
def test_what_makes_no_sense_is_refused_in_a_line_that_says_so(tmp_path, overrides, said):
    with pytest.raises(UserError) as refused:
        loaded(tmp_path, *overrides)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_sections_of_the_family_share_no_field_that_would_mean_nothing():
    assert SECTIONS["arc"]["tokenizer"] is str and "lanes" not in SECTIONS["arc"]["data"].__dataclass_fields__
