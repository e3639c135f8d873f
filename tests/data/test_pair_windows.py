"""Windows of pairs: cut under a budget into even batches with little padding."""

from itertools import islice

import numpy as np
import pytest
from pairs_help import SHARED_DATA, pair_recipe

from dstrain.config.shape import Shape, shape_of
from dstrain.config.translate import PairSource
from dstrain.data.pairs.pair import pair_parser
from dstrain.data.pairs.windows import cut_by_length, rows_of_rank, sorted_by_length
from dstrain.data.reading.pair_sources import pair_corpora
from dstrain.data.tokenizers.pair_tokenizer import pair_tokenizer


def lengths_by_rule(count):
    chance = np.random.default_rng(1)
    source = 2 + chance.poisson(12, count)
    return list(zip(source.tolist(), np.maximum(2, source + chance.integers(-4, 6, count)).tolist()))


def test_batches_by_hand():
    # longest sides 2, 2, 3, 5; a budget of 6: the two of 2 and no third (3 x 3 = 9); the 3 alone (2 x 5 = 10); the 5
    assert cut_by_length([(5, 1), (2, 2), (1, 3), (2, 1)], 6) == [[3, 1], [2], [0]]
    assert cut_by_length([(1, 1)] * 4, 1) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("tokens", [60, 200, 1000, 10**9])
def test_every_pair_is_in_one_batch_and_no_batch_above_the_budget(tokens):
    lengths = lengths_by_rule(3000)
    batches = cut_by_length(lengths, tokens)
    assert sorted(place for batch in batches for place in batch) == list(range(3000))
    for batch in batches:
        assert len(batch) * max(max(lengths[place]) for place in batch) <= tokens


def test_no_batch_is_a_small_rest():
    for count in (1000, 1100, 1237):
        lengths = lengths_by_rule(count)
        sizes = [len(batch) * max(max(lengths[place]) for place in batch) for batch in cut_by_length(lengths, 1000)]
        assert min(sizes) > 0.75 * max(sizes), sizes


def test_neighbours_are_alike_in_both_lengths():
    lengths = lengths_by_rule(3000)
    order, longest = sorted_by_length(lengths)
    assert (np.diff(longest) >= 0).all() and (longest == np.max(lengths, axis=1)[order]).all()
    source, target = np.array(lengths)[order].T
    jumps = np.abs(np.diff(source)) + np.abs(np.diff(target))
    assert jumps.mean() < 0.2 and sorted(order.tolist()) == list(range(3000))


@pytest.mark.parametrize("world, passes", [(1, 1), (1, 3), (4, 1), (3, 4)])
def test_each_row_is_run_once_and_neighbours_together(world, passes):
    shape = Shape(world, micro_rows=None, accumulation=passes, micro_tokens=10)
    for count in (1, 2, 11, 100):
        dealt = [rows_of_rank(count, rank, shape) for rank in range(world)]
        assert sorted(row for of_rank in dealt for part in of_rank for row in part) == list(range(count))
        assert all(len(of_rank) == passes for of_rank in dealt)
        sizes = [len(part) for of_rank in dealt for part in of_rank]
        assert max(sizes) <= -(-(-(-count // passes)) // world)
        for number in range(passes - 1):
            here = [row for of_rank in dealt for row in of_rank[number]]
            behind = [row for of_rank in dealt for row in of_rank[number + 1]]
            assert not here or not behind or max(here) < min(behind)


@pytest.fixture(scope="module")
def real_lengths():
    """Of 16,384 pairs of sentences in 8,192 shared tokens."""
    folder = SHARED_DATA / "multi30k"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/multi30k")
    source = PairSource(source_path=str(folder / "train.en.gz"), target_path=str(folder / "train.de.gz"))
    recipe = pair_recipe(source, tokenizer="bpe:8192")
    corpus, = pair_corpora(recipe.data, "train")
    parse = pair_parser(corpus, pair_tokenizer(recipe, say=lambda line: None), 256, "drop")
    pairs = [parse(raw) for _, raw in islice(corpus.documents(0), 16_384)]
    return [(len(pair.source), len(pair.targets)) for pair in pairs]


@pytest.mark.parametrize("world, micro_tokens, most", [(1, 4096, 0.08), (1, 1024, 0.04), (4, 4096, 0.08),
                                                       (4, 1024, 0.08)])
def test_less_than_a_tenth_of_the_positions_is_padding_on_real_sentences(real_lengths, world, micro_tokens, most):
    recipe = pair_recipe(tokens=4096, micro_tokens=micro_tokens)
    shape, filled, positions = shape_of(recipe, world), 0, 0
    for window in (real_lengths[:8192], real_lengths[8192:]):
        for batch in cut_by_length(window, 4096):
            for part in (part for rank in range(world) for part in rows_of_rank(len(batch), rank, shape)):
                lengths = [window[batch[row]] for row in part] or [(1, 1)]
                filled += sum(map(sum, lengths)) if part else 0
                positions += len(lengths) * sum(map(max, zip(*lengths)))
    print(f"{world} rank(s), micro_tokens {micro_tokens}: {100 * (1 - filled / positions):.1f} % padding")
    assert 1 - filled / positions < most
