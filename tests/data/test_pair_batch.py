"""A batch of pairs: starts, ends and labels, padding that nobody reads, and the hash of its rows."""

import dataclasses

import numpy as np
import torch
from pairs_help import BOTH_BYTES, EOT, pair_recipe, pairs_by_rule, parallel, steps_of

from dstrain.data.pairs.pair import pair_parser
from dstrain.data.pairs.pair_batch import collate_pairs, hash_of_pairs
from dstrain.data.reading.pair_text import TwoSides
from dstrain.data.reading.pair_sources import PairCorpus


def pairs_of(folder, *texts, length=50, over_long="drop"):
    corpus = PairCorpus(parallel(folder, [("a", "b")]), 0, "train", ("en", "de"))
    parse = pair_parser(corpus, BOTH_BYTES, length, over_long)
    return [parse(TwoSides(source, target)) for source, target in texts]


def test_a_target_has_a_start_and_both_sides_an_end(tmp_path):
    batch = collate_pairs(pairs_of(tmp_path, ("ab", "xyz"), ("c", "w")), [4, 9], EOT)
    a, b, c, w, x, y, z = map(ord, "abcwxyz")
    assert batch.source_BS.tolist() == [[a, b, EOT], [c, EOT, 0]] and batch.source_lengths_B.tolist() == [3, 2]
    assert batch.ids_BT.tolist() == [[EOT, x, y, z], [EOT, w, 0, 0]] and batch.lengths_B.tolist() == [4, 2]
    assert batch.labels_BT.tolist() == [[x, y, z, EOT], [w, EOT, -100, -100]]
    assert batch.rows_B.tolist() == [4, 9] and batch.words == 4
    assert (batch.positions(), batch.filled()) == (14, 11)
    assert set(batch.inputs()) == {"source_BS", "source_lengths_B", "ids_BT", "lengths_B"}


def test_real_ends_and_starts_are_scored_though_their_id_is_that_of_padding_too(tmp_path):
    # in this vocabulary the end is id 0, which also stands in padding; one target even holds it as a token
    class Zero(type(BOTH_BYTES.source)):
        eot = 0

    both = type(BOTH_BYTES)(Zero(), Zero())
    corpus = PairCorpus(parallel(tmp_path, [("a", "b")]), 0, "train", ("en", "de"))
    parse = pair_parser(corpus, both, 50, "drop")
    pairs = [parse(TwoSides("a", "x\0y")), parse(TwoSides("a", "x"))]
    batch = collate_pairs(pairs, [0, 1], 0)
    assert batch.labels_BT.tolist() == [[ord("x"), 0, ord("y"), 0], [ord("x"), 0, -100, -100]]
    assert batch.ids_BT.tolist() == [[0, ord("x"), 0, ord("y")], [0, ord("x"), 0, 0]]
    assert batch.lengths_B.tolist() == [4, 2] and batch.source_lengths_B.tolist() == [2, 2]


def test_only_labels_hold_what_is_not_an_id(tmp_path):
    recipe = pair_recipe(parallel(tmp_path, pairs_by_rule(200)), tokens=600)
    for step in steps_of(recipe, 5):
        for batch in step.micro_batches:
            for ids, lengths in ((batch.source_BS, batch.source_lengths_B), (batch.ids_BT, batch.lengths_B)):
                padding = torch.arange(ids.shape[1]) >= lengths[:, None]
                assert (ids[padding] == 0).all() and (ids >= 0).all() and ids.shape[1] == lengths.max()
            assert ((batch.labels_BT == -100) == padding).all()
            assert int((batch.labels_BT == EOT).sum()) == len(batch.rows_B)


def test_a_pair_of_exactly_the_length_is_whole_and_one_of_a_token_more_is_not(tmp_path):
    whole, source, target = pairs_of(tmp_path, ("abcd", "wxyz"), ("abcde", "wxyz"), ("abcd", "v wxyz"), length=5,
                                     over_long="cut")
    ids = {name: list(map(ord, name)) for name in ("abcd", "wxyz", "v wxy"[:5])}
    assert whole.source.tolist() == ids["abcd"] + [EOT] and whole.targets.tolist() == ids["wxyz"] + [EOT]
    assert not whole.over_long and source.over_long and target.over_long
    assert source.source.tolist() == ids["abcd"] + [EOT] and source.targets.tolist() == ids["wxyz"] + [EOT]
    assert target.targets.tolist() == ids["v wxy"] and (whole.words, target.words) == (2, 2)
    dropped, = pairs_of(tmp_path, ("abcde", "wxyz"), length=5)
    assert dropped.over_long and len(dropped.targets) == 0


def test_the_hash_is_of_numbers_and_contents_and_not_of_padding(tmp_path):
    short, long = pairs_of(tmp_path, ("ab", "xyz"), ("abcdef", "uvwxyz"))
    alone, beside = collate_pairs([short], [3], EOT), collate_pairs([short, long], [3, 4], EOT)
    assert hash_of_pairs(alone) + hash_of_pairs(collate_pairs([long], [4], EOT)) == hash_of_pairs(beside)
    assert hash_of_pairs(alone) != hash_of_pairs(collate_pairs([short], [4], EOT))
    for name in ("source_BS", "ids_BT", "labels_BT"):
        changed = getattr(alone, name).clone()
        changed[0, 1] += 1
        assert hash_of_pairs(dataclasses.replace(alone, **{name: changed})) != hash_of_pairs(alone)
    moved = pairs_of(tmp_path, ("abx", "yz"))                # the same tokens, but another side's
    assert hash_of_pairs(collate_pairs(moved, [3], EOT)) != hash_of_pairs(alone)


def test_a_batch_moves_whole(tmp_path):
    batch = collate_pairs(pairs_of(tmp_path, ("ab", "xyz")), [0], EOT)
    moved = batch.to("meta")
    assert all(tensor.device.type == "meta" for tensor in (*moved.inputs().values(), moved.labels_BT, moved.rows_B))
    assert moved.words == batch.words and np.array(batch.rows_B).dtype == np.int64
