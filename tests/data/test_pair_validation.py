"""Validation on pairs: every target scored once on any number of ranks, and the texts in their own order."""

import pytest
from pairs_help import BOTH_BYTES, EOT, pair_recipe, pairs_by_rule, parallel, rows_in, texts_in

from dstrain.config.errors import UserError
from dstrain.config.shape import shape_of
from dstrain.data.pairs.feed import valid_pairs, valid_texts


def ranks_of(recipe, world):
    return [batch for rank in range(world) for batch in valid_pairs(recipe, BOTH_BYTES, rank, world)]


def recipe_of(folder, pairs, **more):
    return pair_recipe(parallel(folder, [("a", "b")] * 2), valid=(parallel(folder, pairs, "v"),), **more)


def test_every_pair_is_scored_once_on_any_number_of_ranks(tmp_path):
    recipe = recipe_of(tmp_path, pairs_by_rule(150), tokens=300, micro_tokens=130)   # three windows of 64 at most
    one = rows_in(ranks_of(recipe, 1))
    assert list(one) == list(range(150))
    for world in (2, 3, 7):
        assert rows_in(ranks_of(recipe, world)) == one
    assert texts_in(ranks_of(recipe, 2)) == pairs_by_rule(150) == valid_texts(recipe)


def test_batches_stay_within_what_a_pass_may_hold(tmp_path):
    recipe = recipe_of(tmp_path, pairs_by_rule(150), tokens=300, micro_tokens=130)
    for world in (1, 3):
        batches = ranks_of(recipe, world)
        most = max(shape_of(recipe, world).micro_tokens, 50)
        assert all((len(b.rows_B) - 1) * max(b.source_BS.shape[1], b.ids_BT.shape[1]) <= most for b in batches)
        assert len(batches) < 90


def test_pairs_that_are_too_long_are_cut_so_that_every_line_counts(tmp_path):
    pairs = [("s", "t"), ("s" * 30, "t"), ("s", "t" * 30), ("", ""), ("s", "t" * 9)]
    for over_long in ("drop", "cut"):
        recipe = recipe_of(tmp_path, pairs, length=10, tokens=1000, over_long=over_long)
        rows = list(rows_in(ranks_of(recipe, 1)).values())
        assert [(len(source), len(labels)) for source, _, labels in rows] == [(2, 2), (10, 2), (2, 10), (2, 10)]
        assert [labels[-1] == EOT for _, _, labels in rows] == [True, True, False, True]
        assert valid_texts(recipe) == [pair for pair in pairs if pair != ("", "")]


def test_words_are_counted_once(tmp_path):
    pairs = [("a", "one two  three"), ("b", "four"), ("c", "five six " + "x" * 60)]
    recipe = recipe_of(tmp_path, pairs, length=50, tokens=120)
    for world in (1, 2):
        assert sum(batch.words for batch in ranks_of(recipe, world)) == 4 + 2 + 3   # the cut one has no end to count


def test_malformed_validation_lines_hold_the_same_rule(tmp_path):
    pairs = pairs_by_rule(100)
    pairs[50] = ("", "alone")
    for share in (0.02, 0.005):
        recipe = recipe_of(tmp_path, pairs, bad_share=share)
        said = []
        if share == 0.02:
            assert len(rows_in(valid_pairs(recipe, BOTH_BYTES, 0, 1, warn=said.append))) == 99
            assert "line 51" in said[0] and len(valid_texts(recipe)) == 99
        else:
            with pytest.raises(UserError, match="1 of 100 lines read are malformed"):
                list(valid_pairs(recipe, BOTH_BYTES, 0, 1, warn=said.append))
            with pytest.raises(UserError, match="1 of 100 lines read are malformed"):
                valid_texts(recipe)


def test_without_validation_data_there_is_nothing(tmp_path):
    recipe = pair_recipe(parallel(tmp_path, [("a", "b")]))
    assert list(valid_pairs(recipe, BOTH_BYTES, 0, 1)) == valid_texts(recipe) == []
