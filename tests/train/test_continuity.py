"""What a recipe may change when its run goes on, what it may not, and what is said of it."""

from __future__ import annotations

import pytest

from dstrain.config.errors import UserError
from dstrain.config.load import recipe_from_dict
from dstrain.train.continuity import changes_since, shape_change

RECIPE = {"family": "lm", "model": {"preset": "tiny"}, "batch": {"rows": 4, "micro_rows": 2, "length": 8},
          "data": {"train": [{"hub": "some/texts", "revision": "a" * 40}]}, "run": {"name": "one", "steps": 10}}


def changed(section: str, **values):
    return recipe_from_dict({**RECIPE, section: {**RECIPE.get(section, {}), **values}})


@pytest.mark.parametrize("section, key, value", [("optim", "name", "muon"), ("batch", "rows", 8), ("run", "seed", 2),
                                                 ("model", "width", 128)])
def test_what_would_be_another_run_is_refused(section, key, value):
    with pytest.raises(UserError, match=f"{section}.{key} is {value!r}.*would be another run"):
        changes_since(recipe_from_dict(RECIPE), changed(section, **{key: value}), "there")


@pytest.mark.parametrize("key, value", [("experts", 4), ("top_k", 1), ("expert_ff", 8), ("shared_experts", 1),
                                        ("every", 2), ("next_tokens", 3), ("further", "sequential")])
def test_other_experts_or_heads_would_be_another_run(key, value):
    """Some of them change no parameter's shape: nothing else would notice."""
    moe = recipe_from_dict({**RECIPE, "family": "moe"})
    other = recipe_from_dict({**RECIPE, "family": "moe", "model": {"preset": "tiny", key: value}})
    with pytest.raises(UserError, match=f"model.{key} is {value!r}.*would be another run"):
        changes_since(moe, other, "there")


@pytest.mark.parametrize("section, key, value", [
    ("model", "kind", "encoder-decoder"), ("data", "demonstrations", 2), ("data", "symmetries", False),
    ("data", "colours", "none"), ("batch", "window", 8), ("batch", "length", 300)])
def test_puzzles_shown_or_seen_otherwise_would_be_another_run(section, key, value):
    """None of these changes a parameter's shape (kinds may share one), and some not even a row's size."""
    puzzles = {"family": "arc", "model": {"width": 32, "heads": 2, "ff": 64, "encoder_layers": 1, "decoder_layers": 1},
               "data": {"train": [{"embedded": "puzzles", "part": "train"}]}, "run": {"name": "one", "steps": 10},
               "batch": {"tokens": 600, "micro_tokens": 600, "length": 400}}
    other = {**puzzles, section: {**puzzles[section], key: value}}
    with pytest.raises(UserError, match=f"{section}.{key} is {value!r}.*would be another run"):
        changes_since(recipe_from_dict(puzzles), recipe_from_dict(other), "there")


def test_what_a_run_was_upcycled_from_is_no_matter_once_it_has_begun():
    begun = recipe_from_dict({**RECIPE, "family": "moe", "model": {"preset": "tiny", "upcycle": "runs/dense"}})
    assert changes_since(begun, recipe_from_dict({**RECIPE, "family": "moe"}), "there") == []


def test_what_may_change_is_said_and_where_data_lie_is_nobodys_business():
    assert changes_since(recipe_from_dict(RECIPE), changed("optim", lr=0.5), "there") == ["optim.lr: 0.0006 -> 0.5"]
    assert changes_since(recipe_from_dict(RECIPE), changed("data", workers=1, prepared="shards"), "there") == []


def test_a_dataset_may_move_because_its_fingerprint_is_compared_when_it_is_opened():
    moved = changed("data", train=[{"hub": "/copy/of/texts", "revision": None}])
    said = changes_since(recipe_from_dict(RECIPE), moved, "there")
    assert [line.partition(":")[0] for line in said] == ["data.train.0.hub", "data.train.0.revision"]


def test_another_shape_is_said_in_a_line_and_an_unknown_one_is_not():
    before = {"ranks": 2, "zero_stage": 1, "precision": "fp32", "micro_rows": 4, "accumulation": 1}
    now = {"ranks": 1, "zero_stage": 3, "precision": "bf16", "micro_rows": 2, "accumulation": 4}
    assert shape_change(before, now) == ["shape: was 2 ranks, ZeRO-1, fp32, 1 x 4 rows; "
                                         "now 1 rank, ZeRO-3, bf16, 4 x 2 rows"]
    assert shape_change(before, before) == shape_change({}, now) == []
