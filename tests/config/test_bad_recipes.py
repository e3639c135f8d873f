"""Every bad recipe and override is one line with the place, the value, the reason and the remedy."""

from __future__ import annotations

import pytest
from recipe_texts import SMALLEST, recipe_file

from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe, load_saved_recipe, recipe_from_dict


def message_of(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < 400, text
    return text


IN_THE_FILE = {
    "unknown key, one is near": ("lenght: 8", "length: 8", ["line 6", "'lenght'", "batch", "'length'?"]),
    "unknown key, none is near": ("qqqqq: 8", "length: 8", ["line 6", "'qqqqq'", "length, micro_rows, rows"]),
    "unknown section": ("modle: {preset: tiny}", "model: {preset: tiny}", ["line 3", "'modle'", "'model'?"]),
    "text for a number": ("rows: many", "rows: 12", ["line 6", "batch.rows", "'many'", "whole number"]),
    "boolean for a number": ("rows: true", "rows: 12", ["line 6", "batch.rows", "True", "whole number"]),
    "fraction for a whole number": ("rows: 1.5", "rows: 12", ["line 6", "1.5", "whole number"]),
    "leading zero": ("rows: 012", "rows: 12", ["line 6", "'012'", "leading zeros"]),
    "minutes and seconds": ("rows: 1:30", "rows: 12", ["line 6", "'1:30'", "whole number"]),
    "number for text": ("name: 12", "name: smallest", ["line 7", "run.name", "12", "quotes"]),
    "nothing for text": ("name:", "name: smallest", ["line 7", "run.name", "empty (null)"]),
    "list for text": ("name: [a]", "name: smallest", ["line 7", "run.name", "a list of 1", "text"]),
    "section for text": ("name: {a: 1}", "name: smallest", ["line 7", "run.name", "section"]),
    "text for a section": ("model: tiny", "model: {preset: tiny}", ["line 3", "model", "'tiny'", "section"]),
    "section for a list": ("train: {path: x.txt}", "train: [{embedded: python-stdlib, part: train}]",
                           ["line 5", "data.train", "list", "[{...}, ...]"]),
    "too small": ("rows: 0", "rows: 12", ["line 6", "batch.rows", "0", "at least 1", "larger"]),
    "huge": ("rows: 1e999", "rows: 12", ["line 6", "'1e999'", "whole number"]),
    "a dangling underscore": ("rows: 1_", "rows: 12", ["line 6", "batch.rows", "'1_'", "whole number"]),
    "two underscores": ("rows: 1__0", "rows: 12", ["line 6", "batch.rows", "'1__0'", "whole number"]),
    "a dangling underscore before e": ("rows: 1_e5", "rows: 12", ["line 6", "batch.rows", "'1_e5'", "whole number"]),
    "two underscores before e": ("rows: 1__0e5", "rows: 12", ["line 6", "batch.rows", "'1__0e5'", "whole number"]),
    "two underscores and a dot": ("rows: 1__0.5", "rows: 12", ["line 6", "'1__0.5'", "not a number"]),
    "tagged as a boolean": ("rows: !!bool maybe", "rows: 12", ["line 6", "'maybe'", "true or false"]),
    "tagged as a number": ("rows: !!float abc", "rows: 12", ["line 6", "'abc'", "not a number"]),
    "nested too deeply to be read": ("rows: " + "[" * 900 + "]" * 900, "rows: 12", ["mine.yaml", "nested", "levels"]),
    "nested more deeply than recipes are": ("rows: " + "[" * 101 + "]" * 101, "rows: 12",
                                            ["line 6", "nested", "100 levels"]),
    "a chain of aliases": ("\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 2000))]),
                           "family: lm", ["line 2", "nested", "100 levels"]),
    "aliases of aliases": ("\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]"
                                                      for i in range(1, 10))]),
                           "family: lm", ["mine.yaml, line", "100000 values", "aliases"]),
    "more rows than anyone has": ("rows: 1e30", "rows: 12", ["line 6", "batch.rows", "at most 1048576", "smaller"]),
    "more micro rows": ("micro_rows: 1048577", "micro_rows: 4", ["line 6", "batch.micro_rows", "at most 1048576"]),
    "longer rows": ("length: 1e30", "length: 8", ["line 6", "batch.length", "at most 1048576"]),
    "more steps": ("steps: 1e30", "steps: 10", ["line 7", "run.steps", "at most 9007199254740992"]),
    "more tokens": ("tokens: 1e30", "steps: 10", ["line 7", "run.tokens", "at most 9007199254740992"]),
    "no such choice": ("preset: tinny", "preset: tiny", ["line 3", "'tinny'", "tiny, small, medium", "'tiny'?"]),
    "no such family": ("family: xx", "family: lm", ["line 2", "family", "'xx'", "lm"]),
    "missing key": ("rows: 12, micro_rows: 4", "rows: 12, micro_rows: 4, length: 8",
                    ["line 6", "batch.length", "missing", "`length:`"]),
    "missing section": ("# nothing", "batch: {rows: 12, micro_rows: 4, length: 8}", ["mine.yaml", "batch", "missing"]),
    "key twice": ("rows: 12, rows: 13", "rows: 12", ["line 6", "'rows'", "twice", "keep one"]),
    "section twice": ("family: lm\nfamily: lm", "family: lm", ["line 3", "'family'", "twice", "line 2"]),
    "broken YAML": ("rows: [12", "rows: 12", ["line 6", "valid YAML"]),
    "a tab": ("\tfamily: lm", "family: lm", ["line 2", "valid YAML"]),
    "two documents": ("family: lm\n---", "family: lm", ["line 3", "valid YAML"]),
    "a list as a key": ("? [a]\n: lm", "family: lm", ["line 2", "a key must be a word"]),
    "an alias inside itself": ("train: &a [*a]", "train: [{embedded: python-stdlib, part: train}]",
                               ["line 5", "alias"]),
    "no source": ("train: []", "train: [{embedded: python-stdlib, part: train}]",
                  ["line 5", "data.train", "empty list"]),
    "neither path nor embedded": ("train: [{weight: 1}]", "train: [{embedded: python-stdlib, part: train}]",
                                  ["line 5", "data.train.0", "neither", "set one"]),
    "both path and embedded": ("embedded: python-stdlib, path: x.txt", "embedded: python-stdlib, part: train",
                               ["line 5", "'x.txt'", "'python-stdlib'", "keep one"]),
    "part of a file": ("path: x.txt", "embedded: python-stdlib",
                       ["line 5", "data.train.0.part", "'train'", "embedded"]),
    "an ending that nobody reads": ("path: x.csv", "embedded: python-stdlib, part: train",
                                    ["line 5", "'x.csv'", ".txt", ".gz", ".jsonl"]),
    "broken pattern": ("path: x.txt, starts: '('", "embedded: python-stdlib, part: train",
                       ["line 5", "data.train.0.starts", "'('", "regular expression"]),
    "starts and documents": ("path: x.txt, starts: a, documents: lines", "embedded: python-stdlib, part: train",
                             ["line 5", "starts", "documents", "keep one"]),
    "documents of jsonl": ("path: x.jsonl, documents: lines", "embedded: python-stdlib, part: train",
                           ["line 5", "documents", "'lines'", ".txt"]),
    "field of txt": ("path: x.txt, text_field: body", "embedded: python-stdlib, part: train",
                     ["line 5", "text_field", "'body'", ".jsonl"]),
    "weight of nothing": ("part: train, weight: 0", "part: train", ["line 5", "data.train.0.weight", "above 0"]),
    "neither steps nor tokens": ("name: smallest", "name: smallest, steps: 10", ["line 7", "neither", "run.steps"]),
    "both steps and tokens": ("steps: 10, tokens: 100", "steps: 10", ["line 7", "10", "100", "keep one"]),
    "a name that is no folder": ("name: a/b", "name: smallest", ["line 7", "'a/b'", "folder", "letters"]),
    "a name that goes up": ("name: ..", "name: smallest", ["line 7", "'..'", "folder"]),
    "no sizes": ("model: {width: 8, heads: 2}", "model: {preset: tiny}", ["line 3", "layers, ff", "model.preset"]),
}


@pytest.mark.parametrize("bad, good, parts", IN_THE_FILE.values(), ids=IN_THE_FILE.keys())
def test_a_fault_in_the_file_is_named_with_its_line(bad, good, parts, tmp_path):
    assert good in SMALLEST
    path = recipe_file(tmp_path, SMALLEST.replace(good, bad))
    text = message_of(load_recipe, path)
    assert path in text
    for part in parts:
        assert part in text


ON_THE_COMMAND_LINE = {
    "no equals sign": ("optim.lr", ["'='", "section.key=value"]),
    "no key": ("=3", ["section.key=value"]),
    "unknown key": ("optim.learning_rate=1", ["'learning_rate'", "optim", "known here: betas"]),
    "unknown section": ("optimizer.lr=1", ["'optimizer'", "'optim'?"]),
    "a key inside a value": ("family.name=lm", ["family", "'lm'", "not a section"]),
    "no such entry": ("data.train.1.path=x.txt", ["'1'", "data.train", "has 1"]),
    "no number of an entry": ("data.train.first.path=x.txt", ["'first'", "data.train"]),
    "text for a number": ("optim.lr=fast", ["optim.lr", "'fast'", "6.0e-4"]),
    "nothing": ("optim.lr=", ["optim.lr", "empty (null)", "number"]),
    "not finite": ("optim.lr=.nan", ["optim.lr", "nan", "finite"]),
    "infinite": ("optim.lr=1e999", ["optim.lr", "'1e999'", "finite"]),
    "zero": ("optim.lr=0", ["optim.lr", "0", "above 0"]),
    "not below": ("model.dropout=1", ["model.dropout", "1.0", "below 1"]),
    "too large": ("schedule.floor=1.5", ["schedule.floor", "1.5", "at most 1"]),
    "text for a boolean": ("engine.compile=maybe", ["engine.compile", "'maybe'", "true or false"]),
    "number for a boolean": ("engine.compile=1", ["engine.compile", "1", "true or false"]),
    "three betas": ("optim.betas=[0.9, 0.95, 0.99]", ["optim.betas", "a list of 3", "must have 2 entries"]),
    "a beta of 1": ("optim.betas=[0.9, 1.0]", ["optim.betas.1", "1.0", "below 1"]),
    "two weights": ("objective.weights=[1.0, 0.5]", ["objective.weights", "[1.0, 0.5]", "one loss term"]),
    "a weight of 0": ("objective.weights=[0]", ["objective.weights", "[0.0]", "above 0"]),
    "heads": ("model.heads=5", ["model.heads", "5", "256", "1, 2, 4, 8"]),
    "odd heads": ("model={preset: tiny, width: 12, heads: 4}", ["model.heads", "3", "rotary", "even"]),
    "odd width": ("model={preset: tiny, width: 5, heads: 1, positions: sinusoidal}", ["model.width", "5", "even"]),
    "lanes": ("data.lanes=5", ["data.lanes", "5", "batch.rows 12", "1, 2, 3, 4, 6, 12"]),
    "too many lanes": ("data.lanes=1e30", ["data.lanes", "at most 1048576"]),
    "blanks and no text": ("log.prompt=  ", ["log.prompt", "empty (null)", "text"]),
    "warmup": ("schedule.warmup_steps=11", ["schedule.warmup_steps", "11", "10 steps"]),
    "floor of a schedule that never falls": ("schedule={name: WarmupLR, floor: 0.1}", ["schedule.floor", "WarmupLR"]),
    "broken YAML": ("data.train=[{path: x.txt", ["valid YAML", "brackets"]),
    "unquoted colon": ("log.prompt=a: b", ["log.prompt", "text", "quotes"]),
    "no such engine": ("engine.config=zero2_bf61", ["'zero2_bf61'", "'zero2_bf16'?", ".json"]),
    "no such engine file": ("engine.config=no/where.json", ["'no/where.json'", "no file"]),
    "engine with an ending": ("engine.config=zero2_bf16.json", ["'zero2_bf16.json'", "'zero2_bf16'", "without"]),
    "a whole section gone": ("batch=", ["batch.rows", "missing"]),
}


@pytest.mark.parametrize("override, parts", ON_THE_COMMAND_LINE.values(), ids=ON_THE_COMMAND_LINE.keys())
def test_a_fault_on_the_command_line_is_named_as_one(override, parts, tmp_path):
    text = message_of(load_recipe, recipe_file(tmp_path), [override])
    for part in ["on the command line", override[:20], *parts]:
        assert part in text


def test_a_misspelt_recipe_name_names_the_near_one():
    assert "'quickstart'?" in message_of(load_recipe, "quikstart")


def test_a_name_near_nothing_lists_what_there_is():
    text = message_of(load_recipe, "zzz")
    assert "quickstart" in text and "wikitext2-tiny" in text and ".yaml" in text


def test_a_missing_file_names_the_near_one_in_its_folder(tmp_path):
    recipe_file(tmp_path, name="english.yaml")
    assert "'english.yaml'?" in message_of(load_recipe, str(tmp_path / "englihs.yaml"))


def test_a_packaged_name_with_an_ending_is_explained():
    assert "'quickstart', without the ending" in message_of(load_recipe, "quickstart.yaml")


@pytest.mark.parametrize("text, parts", [("", ["empty"]), ("# only this\n", ["empty"]), ("null\n", ["empty"]),
                                         ("- a\n- b\n", ["mapping"]), ("just text\n", ["mapping", "just text"])])
def test_a_file_that_is_no_recipe_is_said_to_be_none(text, parts, tmp_path):
    message = message_of(load_recipe, recipe_file(tmp_path, text))
    assert all(part in message for part in ["mine.yaml", *parts])


def test_a_file_that_is_not_text_is_said_to_be_none(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"family: \xff\xfe")
    assert "UTF-8" in message_of(load_recipe, str(path))
    path.write_bytes(b"family: \x01")
    assert "not valid YAML" in message_of(load_recipe, str(path))


def test_a_saved_recipe_that_is_gone_is_a_users_error(tmp_path):
    assert "cannot be read" in message_of(load_saved_recipe, tmp_path / "gone.yaml")


def test_a_dict_without_a_file_names_the_key():
    assert "batch.rows" in message_of(recipe_from_dict, {
        "family": "lm", "model": {"preset": "tiny"}, "data": {"train": [{"path": "x.txt"}]},
        "batch": {"rows": "x", "micro_rows": 1, "length": 8}, "run": {"name": "a", "steps": 1}})


def test_a_long_value_is_cut(tmp_path):
    assert len(message_of(load_recipe, recipe_file(tmp_path), ["optim.lr=" + "x" * 5000])) < 300


def test_a_value_with_a_line_break_stays_on_one_line(tmp_path):
    message_of(load_recipe, recipe_file(tmp_path), ['optim.lr="a\\nb"'])
    message_of(load_recipe, recipe_file(tmp_path), ["run.name='a\n\n  b'"])
