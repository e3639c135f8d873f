"""What a good recipe becomes: overrides, derived numbers, and a recipe that survives being written down."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from recipe_texts import SMALLEST, recipe_file

from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe, load_saved_recipe, recipe_from_dict, recipe_names, recipe_to_dict


def test_a_preset_fills_the_sizes_and_what_is_set_beside_it_wins(tmp_path):
    model = load_recipe(recipe_file(tmp_path), ["model.preset=small", "model.layers=2"]).model
    assert (model.width, model.heads, model.layers, model.ff) == (512, 8, 2, 2048)


@pytest.mark.parametrize("preset, sizes", [("tiny", (256, 4, 4, 1024)), ("small", (512, 8, 6, 2048)),
                                           ("medium", (768, 12, 12, 3072))])
def test_the_presets_are_those_of_the_design(tmp_path, preset, sizes):
    model = load_recipe(recipe_file(tmp_path), [f"model.preset={preset}"]).model
    assert (model.width, model.heads, model.layers, model.ff) == sizes


@pytest.mark.parametrize("rows, lanes", [(1, 1), (12, 12), (64, 64), (65, 13), (128, 64), (96, 48), (67, 1)])
def test_lanes_are_the_largest_divisor_of_rows_up_to_64(tmp_path, rows, lanes):
    assert load_recipe(recipe_file(tmp_path), [f"batch.rows={rows}"]).data.lanes == lanes


@pytest.mark.parametrize("tokens, steps", [(96, 1), (97, 2), (960, 10), (961, 11)])
def test_tokens_become_steps_rounded_up(tmp_path, tokens, steps):
    run = load_recipe(recipe_file(tmp_path), [f"run.tokens={tokens}", "run.steps=null"]).run  # 12 x 8 = 96 a step
    assert (run.steps, run.tokens) == (steps, None)


@pytest.mark.parametrize("text, lr", [("6e-4", 0.0006), ("6.0e-4", 0.0006), ("1", 1.0), (".5", 0.5), ("'1e-3'", 0.001)])
def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path, text, lr):
    value = load_recipe(recipe_file(tmp_path), [f"optim.lr={text}"]).optim.lr
    assert value == lr and type(value) is float


def test_whole_numbers_may_be_written_with_an_exponent(tmp_path):
    steps = load_recipe(recipe_file(tmp_path), ["run.steps=1e3"]).run.steps
    assert steps == 1000 and type(steps) is int


def test_overrides_reach_into_lists_and_replace_them(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path), ["data.train.0.part=all", "data.valid=[{path: x.txt, weight: 2}]",
                                                 "optim.betas=[0.8, 0.9]"])
    assert recipe.data.train[0].part == "all"
    assert (recipe.data.valid[0].path, recipe.data.valid[0].weight) == ("x.txt", 2.0)
    assert recipe.optim.betas == (0.8, 0.9)


def test_the_later_of_two_overrides_holds(tmp_path):
    assert load_recipe(recipe_file(tmp_path), ["run.seed=2", "run.seed=3"]).run.seed == 3


def test_a_value_may_contain_an_equals_sign(tmp_path):
    source = load_recipe(recipe_file(tmp_path), ["data.train=[{path: a.txt, starts: '^ = [^=]'}]"]).data.train[0]
    assert source.starts == "^ = [^=]"


@pytest.mark.parametrize("text, prompt", [
    ("def ", "def "), (" def", " def"), ("a #b", "a #b"), ("a\n  b", "a\n  b"),  # plain: as it was typed
    ("'def '", "def "), ('"a\\tb" ', "a\tb"), ("!!str 12 ", "12")])  # quoted or tagged: as YAML
def test_plain_text_on_the_command_line_keeps_its_blanks(text, prompt, tmp_path):
    assert load_recipe(recipe_file(tmp_path), [f"log.prompt={text}"]).log.prompt == prompt


def test_the_text_of_a_list_entry_keeps_its_blanks_too(tmp_path):
    overrides = ["data.train=[{path: x.txt}]", "data.train.0.starts=^Chapter "]
    assert load_recipe(recipe_file(tmp_path), overrides).data.train[0].starts == "^Chapter "


def test_a_choice_and_an_absent_text_are_read_as_yaml(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path), ["schedule.name= WarmupLR ", "data.train.0.starts=null"])
    assert recipe.schedule.name == "WarmupLR" and recipe.data.train[0].starts is None


@pytest.mark.parametrize("text, steps", [("1_000", 1000), ("1_0e2", 1000), ("1_0.0", 10)])
def test_single_underscores_part_digits(text, steps, tmp_path):
    assert load_recipe(recipe_file(tmp_path), [f"run.steps={text}"]).run.steps == steps


def test_an_empty_section_means_its_defaults(tmp_path):
    assert load_recipe(recipe_file(tmp_path, SMALLEST + "optim:\n")).optim.lr == 6.0e-4


@pytest.mark.parametrize("name", [name for name, _ in recipe_names()])
def test_every_packaged_recipe_survives_being_written_down(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    saved = recipe_file(tmp_path, yaml.safe_dump(recipe_to_dict(recipe)))
    assert load_recipe(saved) == recipe
    assert load_saved_recipe(saved) == recipe


def test_a_saved_recipe_needs_no_deepspeed_file(tmp_path):
    saved = recipe_file(tmp_path, SMALLEST + "engine: {config: gone.json}\n")
    assert load_saved_recipe(saved).engine.config == "gone.json"


def test_every_packaged_recipe_has_a_description():
    names = recipe_names()
    assert {"quickstart", "wikitext2-tiny"} <= {name for name, _ in names}
    assert all(len(text) > 20 and not text.startswith("#") for _, text in names)


def test_loading_a_recipe_imports_neither_torch_nor_deepspeed():
    code = ("import sys; from dstrain.config.load import load_recipe;"
            "from dstrain.config.engine_json import engine_json;"
            "engine_json(load_recipe('quickstart'), 2, 'cpu');"
            "print(sorted({'torch', 'deepspeed', 'numpy'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_is_where_relative_paths_start(tmp_path):
    sources = "data.train=[{path: a.txt}, {path: /b.txt}]"
    data = load_recipe(recipe_file(tmp_path), [sources, "data.folder=/texts"]).data
    assert [source.path for source in data.train] == ["/texts/a.txt", "/b.txt"] and data.folder is None


def test_a_hub_dataset_is_taken_from_its_own_folder_or_else_from_the_folder_itself(tmp_path):
    sources = "data.train=[{hub: some/texts, config: plain, revision: v1}]"
    source, = load_recipe(recipe_file(tmp_path), [sources, f"data.folder={tmp_path}"]).data.train
    assert (source.hub, source.config, source.revision) == (str(tmp_path), None, None)
    (tmp_path / "some" / "texts").mkdir(parents=True)
    source, = load_recipe(recipe_file(tmp_path), [sources, f"data.folder={tmp_path}"]).data.train
    assert (source.hub, source.config, source.revision) == (str(tmp_path / "some" / "texts"), "plain", None)


def test_a_folder_that_is_not_there_is_a_mistake_where_a_hub_dataset_needs_it(tmp_path):
    with pytest.raises(UserError, match="data.folder is '/no/such'.*no such folder.*leave it out"):
        load_recipe(recipe_file(tmp_path), ["data.train=[{hub: some/texts}]", "data.folder=/no/such"])


def test_a_warmup_stable_decay_falls_in_the_last_fifth_by_default(tmp_path):
    asked = ["schedule.name=WarmupStableDecayLR", "run.steps=11"]
    assert load_recipe(recipe_file(tmp_path), asked).schedule.decay_steps == 3
    assert load_recipe(recipe_file(tmp_path), [*asked, "schedule.warmup_steps=10"]).schedule.decay_steps == 1
    assert load_recipe(recipe_file(tmp_path), [*asked, "schedule.decay_steps=5"]).schedule.decay_steps == 5
