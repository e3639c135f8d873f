"""What a run reads is there before the queue: text, shards, tokenizer files, datasets of the hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from small_run import lay_out

from dstrain.cluster.needs import Libraries, is_offline, needs_of
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe
from dstrain.data.tokenizers.tiktoken_files import cache_folder, missing_files

HUB = "data.train=[{hub: some/texts}]"


def hub_with(*names):
    def cache(name, revision, place):
        return Path("/cache") / name if name in names else None
    return cache


def libraries(network=True, hub=(), calls=None):
    def reaches():
        if calls is not None:
            calls.append("asked")
        return network
    return Libraries(hub_with(*hub), missing_files, cache_folder, reaches)


def where(found):
    return [(needed.what, needed.path, needed.is_cache) for needed in found.places]


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    return lambda *overrides: load_recipe("small.yaml", overrides)


def test_text_that_is_there_is_named_with_its_folder(load, tmp_path):
    found = needs_of(load(), False, {}, libraries(network=False))
    assert {needed.path.resolve() for needed in found.places} == {tmp_path.resolve()} and not found.notes


def test_text_that_is_missing_is_said(load):
    Path("valid.txt").unlink()
    with pytest.raises(UserError, match="data.valid.0.path: 'valid.txt' matches no file"):
        needs_of(load(), False, {}, libraries())


def test_a_tokenizer_that_is_not_cached_needs_a_network(load):
    assert "need a way out" in needs_of(load("tokenizer=gpt2"), False, {}, libraries(network=True)).notes[0]
    with pytest.raises(UserError, match="tokenizer gpt2: .*no network is reached from here.*TIKTOKEN_CACHE_DIR"):
        needs_of(load("tokenizer=gpt2"), False, {}, libraries(network=False))
    with pytest.raises(UserError, match="tokenizer gpt2: .*offline mode is on.*encoder.json saved as [0-9a-f]{40}"):
        needs_of(load("tokenizer=gpt2"), False, {"HF_HUB_OFFLINE": "1"}, libraries(network=True))


def test_a_tokenizer_in_the_cache_is_a_path_that_nodes_must_see(load, tmp_path):
    for place in missing_files("gpt2").values():
        place.parent.mkdir(exist_ok=True)
        place.write_text("x")
    found = needs_of(load("tokenizer=gpt2"), False, {}, libraries(network=False))
    assert ("tokenizer gpt2", tmp_path / "tiktoken", True) in where(found)


def test_a_run_with_a_checkpoint_has_its_tokenizer_there(load):
    assert not needs_of(load("tokenizer=gpt2"), True, {"HF_HUB_OFFLINE": "1"}, libraries(network=False)).notes


def test_a_tokenizer_folder_must_hold_one(load, tmp_path):
    with pytest.raises(UserError, match="holds no saved tokenizer"):
        needs_of(load("tokenizer=./tok"), False, {}, libraries())
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "tokenizer.json").write_text("{}")
    assert needs_of(load("tokenizer=./tok"), False, {}, libraries()).places[-1].path == Path("tok")


def test_an_unknown_tokenizer_is_refused_with_the_nearest(load):
    with pytest.raises(UserError, match="'gtp2' is unknown; did you mean 'gpt2'"):
        needs_of(load("tokenizer=gtp2"), False, {}, libraries())


def test_a_dataset_of_the_hub_is_cached_or_fetched_or_refused(load):
    found = needs_of(load(HUB), False, {}, libraries(hub=["some/texts"]))
    assert ("data.train.0, some/texts,", Path("/cache/some/texts"), True) in where(found)
    assert "hf download some/texts" in needs_of(load(HUB), False, {}, libraries(network=True)).notes[0]
    for environment, network in (({}, False), ({"HF_DATASETS_OFFLINE": "yes"}, True)):
        with pytest.raises(UserError, match="data.train.0.hub: some/texts is not whole"):
            needs_of(load(HUB), False, environment, libraries(network=network))


def test_the_network_is_asked_once_and_only_where_something_is_missing(load):
    calls = []
    needs_of(load(), False, {}, libraries(calls=calls))
    assert not calls
    needs_of(load("data.train=[{hub: a/b}, {hub: c/d}]", "tokenizer=gpt2"), False, {}, libraries(calls=calls))
    assert calls == ["asked"]


def test_a_folder_of_files_may_stand_for_a_dataset(load, tmp_path):
    (tmp_path / "texts").mkdir()
    found = needs_of(load("data.train=[{hub: texts}]"), False, {"HF_HUB_OFFLINE": "1"}, libraries(network=False))
    assert ("data.train.0", Path("texts"), False) in where(found)
    with pytest.raises(UserError, match="neither a folder .* nor the name of a dataset"):
        needs_of(load("data.train=[{hub: nowhere}]"), False, {}, libraries())


@pytest.mark.parametrize("value, offline", [("1", True), ("true", True), ("0", False), ("", False)])
def test_offline_mode_is_read_as_the_hubs_library_reads_it(value, offline):
    assert is_offline({"HF_HUB_OFFLINE": value}) is offline


@pytest.fixture
def prepared(load, tmp_path):
    from dstrain.__main__ import main

    assert main(["prepare", "small.yaml", "--out", "shards"]) == 0
    return tmp_path / "shards"


def test_prepared_shards_are_enough_without_text_or_network(load, prepared):
    for name in ("corpus.txt", "valid.txt"):
        os.unlink(name)
    recipe = load("data.prepared=shards", "tokenizer=bytes")
    found = needs_of(recipe, False, {"HF_HUB_OFFLINE": "1"}, libraries(network=False))
    assert where(found) == [("data.prepared", Path("shards"), False)]


@pytest.mark.parametrize("gone, said", [
    ("prepared.json", "is no prepared folder"), ("tokenizer/tokenizer.json", "tokenizer.json is missing"),
    ("data.valid.0/000000.shard", "000000.shard is missing: the source is not prepared to its end")])
def test_a_prepared_folder_that_lacks_something_is_refused(load, prepared, gone, said):
    (prepared / gone).unlink()
    with pytest.raises(UserError, match=said):
        needs_of(load("data.prepared=shards"), False, {}, libraries())


def test_a_shard_that_was_cut_off_is_refused(load, prepared):
    shard = prepared / "data.train.0" / "000000.shard"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match="000000.shard is damaged .its end is missing"):
        needs_of(load("data.prepared=shards"), False, {}, libraries())


def test_shards_of_other_words_are_refused(load, prepared):
    with pytest.raises(UserError, match="data.train.0.documents is 'file', but was 'lines' when shards was prepared"):
        needs_of(load("data.prepared=shards", "data.train.0.documents=file"), False, {}, libraries())
    with pytest.raises(UserError, match="tokenizer: the recipe's is 'gpt2', but .* holds 'bytes'; set tokenizer=bytes"):
        needs_of(load("data.prepared=shards", "tokenizer=gpt2"), False, {}, libraries())


def test_a_source_that_was_not_prepared_is_refused(load, prepared):
    with pytest.raises(UserError, match="data.train.1: shards was prepared without it"):
        needs_of(load("data.prepared=shards", "data.train=[{path: corpus.txt, documents: lines}, {path: valid.txt}]"),
                 False, {}, libraries())


def test_shards_of_another_form_are_refused_before_the_queue_as_training_refuses_them(load, prepared):
    description = json.loads((prepared / "prepared.json").read_text())
    (prepared / "prepared.json").write_text(json.dumps(description | {"form": 99}))
    with pytest.raises(UserError, match="prepared.json: has form 99, this dstrain knows form 1"):
        needs_of(load("data.prepared=shards"), False, {}, libraries())


def test_both_sides_of_parallel_text_must_be_where_the_nodes_see_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/train.en", "b/train.de"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "pairs.yaml").write_text(
        "family: translate\nmodel: {preset: tiny}\ntokenizer: {source: bytes, target: bpe:300}\n"
        "data: {languages: [en, de], train: [{source_path: a/train.en, target_path: b/train.de}]}\n"
        "batch: {tokens: 400, micro_tokens: 400, length: 50}\nrun: {name: p, steps: 2}\n")
    found = needs_of(load_recipe("pairs.yaml"), False, {}, libraries(network=False))
    assert where(found) == [("data.train.0", Path("a"), False), ("data.train.0", Path("b"), False)]
    (tmp_path / "b/train.de").unlink()
    with pytest.raises(UserError, match="data.train.0.target_path: 'b/train.de' matches no file"):
        needs_of(load_recipe("pairs.yaml"), False, {}, libraries())
