"""Recipes of the family `translate`: what is filled in, what is refused, and that no section is taken for lm's."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_texts import ds_file, recipe_file

from dstrain.config.engine_json import engine_json
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe, recipe_from_dict, recipe_to_dict
from dstrain.config.schema import SECTIONS, Recipe
from dstrain.config.shape import shape_of
from dstrain.config.translate import PairTokenizers, TranslateLog, TranslateObjective, TranslateValid

SMALLEST = """\
family: translate
model: {preset: tiny}
tokenizer: bpe:300
data:
  languages: [en, de]
  train: [{embedded: numbers-en-de, part: train}]
batch: {tokens: 1000, micro_tokens: 300, length: 100}
run: {name: smallest, steps: 10}
"""


def loaded(folder: Path, *overrides: str, text: str = SMALLEST) -> Recipe:
    return load_recipe(recipe_file(folder, text), overrides)


def test_sections_that_are_left_out_are_the_family_s_own(tmp_path):
    recipe = loaded(tmp_path)
    assert (recipe.objective, recipe.valid, recipe.log) == (TranslateObjective(), TranslateValid(), TranslateLog())
    assert recipe.model.encoder_layers == recipe.model.decoder_layers == 4 and recipe.model.width == 128


def test_a_recipe_read_back_from_a_checkpoint_is_the_same(tmp_path):
    for overrides in ((), ("tokenizer={source: bytes, target: bpe:300}",)):
        recipe = loaded(tmp_path, *overrides)
        assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


def test_a_vocabulary_a_side_is_a_section_and_one_for_both_is_a_word(tmp_path):
    assert loaded(tmp_path).tokenizer == "bpe:300"
    separate = loaded(tmp_path, "tokenizer={source: bytes, target: bpe:300}")
    assert separate.tokenizer == PairTokenizers(source="bytes", target="bpe:300")
    with pytest.raises(UserError, match="tokenizer.target is missing"):
        loaded(tmp_path, "tokenizer={source: bytes}")


def test_the_preset_s_sizes_give_way_to_what_is_set_beside_it(tmp_path):
    model = loaded(tmp_path, "model.encoder_layers=7", "model.preset=base").model
    assert (model.encoder_layers, model.decoder_layers, model.width, model.heads, model.ff) == (7, 6, 512, 8, 2048)


@pytest.mark.parametrize("override, said", [
    ("batch.rows=3", "unknown key 'rows' in batch"),
    ("log.prompt=x", "unknown key 'prompt' in log"),
    ("data.lanes=4", "unknown key 'lanes' in data"),
    ("objective.weights=[1.0]", "unknown key 'weights' in objective"),
    ("data.languages=[en, en]", "must name two languages"),
    ("data.languages=[en]", "must have 2 entries"),
    ("data.languages=[en, fr]", "which is in en and de"),
    ("data.train=[]", "nothing to train on"),
    ("data.train.0.embedded=null", "has neither path nor source_path"),
    ("data.train.0.path=a.tsv", "keep one of them"),
    ("data.train=[{source_path: a.en}]", "has source_path but no target_path"),
    ("data.train=[{path: a.txt}]", "neither .tsv nor .jsonl"),
    ("data.train=[{path: a.jsonl.gz, columns: [1, 0]}]", "only a .tsv file"),
    ("data.train=[{path: a.tsv, columns: [1, 1]}]", "must be two different columns"),
    ("data.train=[{path: a.tsv, split: test}]", "only a dataset of the hub"),
    ("data.train=[{hub: a/b, part: train}]", "only embedded pairs have parts"),
    ("data.train=[{hub: ' '}]", "data.train.0.hub is ' ', which names nothing"),
    ("data.train=[{source_path: a.en, target_path: ''}]", "data.train.0.target_path is '', which names nothing"),
    ("batch.micro_tokens=99", "batch.micro_tokens is 99, but one pair may have batch.length 100"),
    ("batch.micro_tokens=1001", "more than batch.tokens 1000"),
    ("model.heads=3", "does not divide model.width 128"),
    ("engine.compile=true", "another shape at almost every step"),
    ("family=lm", "unknown key"),
])
def test_a_mistake_is_one_line_that_names_it(tmp_path, override, said):
    with pytest.raises(UserError, match=".*" + said.replace("(", r"\(").replace("[", r"\[")) as refused:
        loaded(tmp_path, override)
    assert "\n" not in str(refused.value)


def test_numbers_to_validate_on_are_not_trained_on(tmp_path):
    for part in ("all", "valid"):
        with pytest.raises(UserError, match="data.train.0.part is .*holds the pairs that data.valid asks for"):
            loaded(tmp_path, "data.valid=[{embedded: numbers-en-de, part: valid}]", f"data.train.0.part={part}")


def test_a_beam_that_nothing_is_translated_with_is_refused(tmp_path):
    with pytest.raises(UserError, match="valid.beam is 4, but nothing is translated in validation"):
        loaded(tmp_path, "valid={beam: 4, translate: false}", "log.samples=0")


def test_rows_in_a_deepspeed_file_are_refused_where_the_batch_is_counted_in_tokens(tmp_path):
    settings = ds_file(tmp_path, {"train_batch_size": 8})
    with pytest.raises(UserError, match="train_batch_size is 8, but this recipe counts its batch otherwise"):
        load_recipe(recipe_file(tmp_path, SMALLEST), [], settings)


@pytest.mark.parametrize("world, accumulation", [(1, 4), (2, 2), (3, 2), (4, 1), (8, 1)])
def test_every_rank_makes_as_many_passes_as_full_batches_need(tmp_path, world, accumulation):
    recipe = loaded(tmp_path)
    shape = shape_of(recipe, world)
    assert shape.accumulation == accumulation and shape.micro_rows is None
    assert world * accumulation * shape.micro_tokens >= recipe.batch.tokens
    config = engine_json(recipe, world, "cpu")
    assert config["gradient_accumulation_steps"] == accumulation
    assert config["train_batch_size"] == world * accumulation


def test_tokens_to_train_on_become_steps(tmp_path):
    recipe = loaded(tmp_path, "run.steps=null", "run.tokens=10500")
    assert (recipe.run.steps, recipe.run.tokens) == (11, None)


def test_a_folder_gives_the_hub_s_splits_as_parallel_text(tmp_path):
    data = tmp_path / "here"
    data.mkdir()
    for name in ("train.en.gz", "train.de", "val.en", "val.de.zst"):
        (data / name).touch()
    hub = SMALLEST.replace("{embedded: numbers-en-de, part: train}", "{hub: a/b}")
    hub = hub.replace("batch:", "  valid: [{hub: a/b, split: validation}]\nbatch:")
    recipe = loaded(tmp_path, f"data.folder={data}", text=hub)
    assert [(Path(s.source_path).name, Path(s.target_path).name) for s in (*recipe.data.train, *recipe.data.valid)] == [
        ("train.en.gz", "train.de"), ("val.en", "val.de.zst")]
    (data / "val.en").unlink()
    with pytest.raises(UserError, match="holds neither a/b nor the split 'validation' as validation.en .* val.en"):
        loaded(tmp_path, f"data.folder={data}", text=hub)
    with pytest.raises(UserError, match="data.folder is .*gone', and there is no such folder"):
        loaded(tmp_path, f"data.folder={tmp_path / 'gone'}", text=hub)


def test_both_families_name_the_same_sections():
    assert SECTIONS["lm"].keys() == SECTIONS["translate"].keys()
