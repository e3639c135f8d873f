"""The feed of pairs: an order that no rank decides, every pair once an epoch, places in the middle of a window."""

import gc
import json
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from pairs_help import (
    BOTH_BYTES, BYTES, global_steps, pair_recipe, pairs_by_rule, parallel, rows_in, steps_of, texts_of)

from dstrain.config.errors import UserError
from dstrain.config.shape import shape_of
from dstrain.config.translate import PairSource
from dstrain.data.pairs import blocks
from dstrain.data.pairs.feed import PairFeed, filler_pairs, merge_window_places
from dstrain.data.reading.pair_sources import pair_corpora


@pytest.fixture
def recipe(tmp_path):
    """Two sources of different lengths and weights; the second, of two files, comes to its third epoch in 24 steps."""
    for name in ("b1", "b2"):
        parallel(tmp_path, [(f"{name} {n}", "b" * (n % 7 + 1)) for n in range(20)], name)
    short = PairSource(source_path=str(tmp_path / "b*.en"), target_path=str(tmp_path / "b*.de"), weight=0.5)
    return pair_recipe(parallel(tmp_path, pairs_by_rule(300)), short, tokens=400)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 100 pairs, so that sources of a few hundred have several."""
    monkeypatch.setattr(blocks, "BLOCK_PAIRS", 100)


def one_source(folder, count=300, **more):
    return pair_recipe(parallel(folder, pairs_by_rule(count)), **more)


def test_rows_hashes_and_places_are_the_same_on_any_number_of_ranks(recipe):
    one = global_steps(recipe, 24, world=1)
    assert one[-1]["place"]["window"] > 1 and one[-1]["place"]["sources"][1]["epoch"] >= 2
    assert all(list(step["rows"]) == list(range(len(step["rows"]))) for step in one)
    for world in (2, 3, 5):
        assert global_steps(recipe, 24, world) == one


def test_rows_and_hashes_are_the_same_in_micro_batches_of_any_size(recipe):
    one = global_steps(recipe, 6, world=1)
    for micro_tokens in (50, 120, 399):
        small = replace(recipe, batch=replace(recipe.batch, micro_tokens=micro_tokens))
        for world in (1, 2):
            assert len(steps_of(small, 1, 0, world)[0].micro_batches) == shape_of(small, world).accumulation
            assert global_steps(small, 6, world) == one


def test_the_number_of_workers_and_of_steps_prepared_ahead_changes_nothing(recipe):
    one = global_steps(recipe, 12, world=1)
    for workers, ahead in ((1, 1), (5, 7)):
        other = replace(recipe, data=replace(recipe.data, workers=workers, prefetch_steps=ahead))
        assert global_steps(other, 12, world=1) == one


def test_every_pair_comes_once_an_epoch_and_in_another_order_each_time(tmp_path):
    # 320 pairs in windows of 64: an epoch is 5 windows
    windows, found = [], []
    for step in steps_of(one_source(tmp_path, 320), 300):
        found += texts_of([step])
        if step.place["batch"] == 0:
            windows.append(frozenset(found))
            found = []
    assert len(windows) >= 15
    epochs = [windows[start:start + 5] for start in (0, 5, 10)]
    assert all(frozenset().union(*epoch) == frozenset(pairs_by_rule(320)) for epoch in epochs)
    assert all(len(window) == 64 for window in windows)
    for number in range(5):                # what stands in the same window is chosen anew: a fifth of it by chance
        assert len(epochs[0][number] & epochs[1][number]) < 32 > len(epochs[1][number] & epochs[2][number])


def test_sources_of_several_blocks_give_every_pair_once_an_epoch_too(tmp_path, small_blocks):
    # four files of 80 pairs: blocks of 100 end inside files, and the last has 20
    for number in range(4):
        parallel(tmp_path, pairs_by_rule(80, str(number)), f"f{number}")
    source = PairSource(source_path=str(tmp_path / "*.en"), target_path=str(tmp_path / "*.de"))
    everything = sorted(pair for number in range(4) for pair in pairs_by_rule(80, str(number)))
    found, epochs = [], []
    for step in steps_of(pair_recipe(source), 250):
        found += texts_of([step])
        if step.place["window"] % 5 == 0 and step.place["batch"] == 0:
            epochs.append(found)
            found = []
    assert len(epochs) >= 2 and all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_a_whole_source_is_shuffled_and_not_only_neighbours(tmp_path):
    # of the first window's 64 pairs of 3,000, about a quarter comes from each quarter of the file
    steps = steps_of(one_source(tmp_path, 3000), 30)
    first = [pair for step in steps if step.place["window"] == 0 for pair in texts_of([step])]
    quarters = Counter(int(source[1:6]) // 750 for source, _ in first)
    assert set(quarters) == {0, 1, 2, 3}


def test_a_source_that_fits_into_one_block_is_parsed_once(tmp_path, monkeypatch):
    encoded = []

    class Counting(type(BYTES)):
        def encode(self, text):
            encoded.append(text)
            return super().encode(text)

    both = type(BOTH_BYTES)(Counting(), BYTES)
    for most, times in ((blocks.BLOCK_PAIRS, 1), (100, 3)):
        monkeypatch.setattr(blocks, "BLOCK_PAIRS", most)
        encoded.clear()
        feed = PairFeed(one_source(tmp_path, 150), both, 0, 1)
        while next(feed).stats["epochs"] != [3]:
            pass
        feed.close()
        assert (len(encoded) == 150) if times == 1 else len(encoded) >= 150 * times


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_run_that_stops_in_mid_window_goes_on_with_the_same_rows_on_any_number_of_ranks(recipe, world, small_blocks):
    whole = global_steps(recipe, 26, world=1)
    assert {step["place"]["window"] for step in whole} >= {0, 1, 2}
    for stop in range(1, 24, 3):
        place = json.loads(json.dumps(whole[stop - 1]["place"]))
        again = global_steps(recipe, 2, world, place)
        assert again == whole[stop:stop + 2]
        assert global_steps(recipe, 1, 1, json.loads(json.dumps(again[-1]["place"]))) == whole[stop + 2:stop + 3]


def test_another_seed_is_another_order_of_the_same_pairs(tmp_path):
    one, other = (texts_of(steps_of(one_source(tmp_path, 60, seed=seed, window=60, tokens=10_000), 1))
                  for seed in (1, 2))
    assert sorted(one) == sorted(other) and one != other    # of equal lengths, another one comes first
    orders = [[len(texts_of([step])) for step in steps_of(one_source(tmp_path, 64, seed=seed), 10)] for seed in (1, 2)]
    assert orders[0] != orders[1]                           # and the batches come otherwise


def test_the_place_is_after_the_step_taken_and_plain_json(recipe):
    feed = PairFeed(recipe, BOTH_BYTES, 0, 1)
    first = next(feed)
    time.sleep(0.2)  # the thread has prepared more by now
    second = next(feed)
    feed.close()
    assert (first.number, second.number) == (first.place["step"], second.place["step"]) == (1, 2)
    assert json.loads(json.dumps(first.place)) == first.place
    assert steps_of(recipe, 1, place=first.place)[0].rows_hash == second.rows_hash


def test_no_batch_is_larger_than_its_budget_and_micro_batches_by_a_pair_at_most(tmp_path):
    recipe = one_source(tmp_path, 500, tokens=300, micro_tokens=100)
    for world in (1, 2):
        shape = shape_of(recipe, world)
        for ranks in zip(*(steps_of(recipe, 40, rank, world) for rank in range(world))):
            rows = rows_in([batch for step in ranks for batch in step.micro_batches]).values()
            longest = max(max(len(source), len(labels)) for source, _, labels in rows)
            assert len(rows) * longest <= 300
            for step in ranks:
                assert len(step.micro_batches) == shape.accumulation
                for batch in step.micro_batches:
                    count, longest = len(batch.rows_B), max(batch.source_BS.shape[1], batch.ids_BT.shape[1])
                    assert (count - 1) * longest <= shape.micro_tokens


def test_ranks_get_rows_of_about_equal_lengths(tmp_path):
    recipe = one_source(tmp_path, 500, tokens=1000, window=256)
    ranks = [steps_of(recipe, 20, rank, 4) for rank in range(4)]
    for steps in zip(*ranks):
        filled = [step.stats["filled"] for step in steps]
        assert max(filled) - min(filled) <= 2 * 50 + 10       # one pair's difference, of 50 tokens a side at most


def test_short_and_long_batches_come_in_no_order(tmp_path):
    steps = steps_of(one_source(tmp_path, 2000, window=1000), 100)
    longest = [max(batch.ids_BT.shape[1] for batch in step.micro_batches) for step in steps if not step.place["window"]]
    rises = sum(a < b for a, b in zip(longest, longest[1:]))
    falls = sum(a > b for a, b in zip(longest, longest[1:]))
    assert len(longest) > 40 and rises > 10 and falls > 10
    assert max(longest[:10]) - min(longest[:10]) > 15


def test_sources_give_their_shares_of_the_target_tokens(recipe):
    given = [0, 0]
    for step in steps_of(recipe, 40):
        given = [a + b for a, b in zip(given, step.stats["targets_by_source"])]
    assert abs(given[0] / sum(given) - 2 / 3) < 0.03


def test_statistics_count_what_can_be_counted_by_hand(tmp_path):
    # two pairs in one batch: sources of 2 + 1 and 4 + 1 tokens, targets of 3 + 1 and 1 + 1; padded to 5 and 4
    recipe = pair_recipe(parallel(tmp_path, [("ab", "c d"), ("abcd", "e")]), window=2)
    step, = steps_of(recipe, 1)
    assert step.stats == {"scored": 6, "filled": 14, "positions": 18, "words": 5, "documents": 2, "cut": 0,
                          "dropped": 0, "window_dropped": 0, "targets_by_source": [6], "bad_lines": 0,
                          "epochs": [1]}


def test_pairs_that_are_too_long_are_dropped_or_cut_and_counted_on_the_first_rank(tmp_path):
    # sides of at most 10 tokens with their end; 4 of 12 pairs have a longer one
    pairs = [("s" * (n % 12 + 1), "t" * 5) for n in range(12)] + [("s", "t" * 10)]
    source = parallel(tmp_path, pairs)
    dropped = pair_recipe(source, length=10, window=9, tokens=100)
    ranks = [steps_of(dropped, 4, rank, 2) for rank in range(2)]
    in_window = [step.stats["dropped"] for step in ranks[0] if step.place["window"] * 9 <= 9]
    assert ranks[0][0].stats["window_dropped"] == ranks[0][0].stats["dropped"]
    assert sum(in_window) in (3, 4) and all(step.stats["dropped"] == 0 for step in ranks[1])
    texts = [pair for steps in zip(*ranks) for step in steps for pair in texts_of([step])]
    assert max(max(map(len, pair)) for pair in texts) == 9
    cut = pair_recipe(source, length=10, window=13, tokens=1000, over_long="cut")
    step, = steps_of(cut, 1)
    assert step.stats["cut"] == 4 and step.stats["dropped"] == 0 and step.stats["documents"] == 13
    rows = rows_in(step.micro_batches).values()
    assert max(len(source) for source, _, _ in rows) == 10 and all(source[-1] == BYTES.eot for source, _, _ in rows)
    unended = [labels for _, _, labels in rows if labels[-1] != BYTES.eot]
    assert unended == [(ord("t"),) * 10]


def test_a_source_of_which_nothing_is_left_is_one_clear_error(tmp_path, monkeypatch):
    for most in (blocks.BLOCK_PAIRS, 10):
        monkeypatch.setattr(blocks, "BLOCK_PAIRS", most)
        with pytest.raises(UserError, match="every pair has a side of more than batch.length tokens"):
            steps_of(pair_recipe(parallel(tmp_path, [("s" * 60, "t")] * 35)), 1)
        with pytest.raises(UserError, match="holds no document in 1 file"):
            steps_of(pair_recipe(parallel(tmp_path, [("", "")] * 3)), 1)


def test_malformed_lines_are_counted_named_by_the_first_rank_and_too_many_an_error(tmp_path):
    pairs = pairs_by_rule(1000)
    pairs[500] = ("", "alone")
    source, said = parallel(tmp_path, pairs), [[], []]
    for rank in range(2):
        step, = steps_of(pair_recipe(source, bad_share=0.01), 1, rank, 2, warn=said[rank].append)
        assert step.stats["bad_lines"] == (1 if rank == 0 else 0)
    assert "a.de, line 501: the side 'en' is empty, and the other one is not: skipped" in said[0][0] and not said[1]
    for rank in range(2):
        with pytest.raises(UserError, match=r"1 of \d+ lines read are malformed, .*Correct the lines or data.lang"):
            steps_of(pair_recipe(source, bad_share=0.0005), 1, rank, 2, warn=lambda line: None)


def test_malformed_lines_before_an_interruption_count_for_their_epoch(tmp_path, small_blocks):
    # 2 bad lines in the first block and 2 in the third: 4 of 300 are more than 1.1 %, 2 of the last 198 are not
    pairs = pairs_by_rule(300)
    for number in (10, 20, 250, 260):
        pairs[number] = ("alone", "")
    recipe = pair_recipe(parallel(tmp_path, pairs), window=50, bad_share=0.011)
    place = next(step.place for step in steps_of(recipe, 40) if step.place["window"] == 3)
    assert place["sources"] == [{"epoch": 0, "file": 0, "document": 102, "seen": 102, "bad": 2, "index": 50,
                                 "given": place["sources"][0]["given"]}]
    for start in (None, place):
        with pytest.raises(UserError, match="4 of 300 lines read are malformed"):
            steps_of(recipe, 60, place=start, warn=lambda line: None)


def test_a_place_of_another_order_is_refused(recipe, tmp_path):
    place = global_steps(recipe, 3, world=1)[-1]["place"]

    def refused(other, said, changed=place):
        with pytest.raises(UserError, match=said) as error:
            steps_of(other, 1, place=changed)
        assert "\n" not in str(error.value)

    refused(replace(recipe, batch=replace(recipe.batch, window=65)), "batch.window is 65, but the checkpoint was")
    refused(pair_recipe(recipe.data.train[0]), r"data.train has 1 source\(s\), but .* with 2")
    refused(recipe, "is none .KeyError", {**place, "files": [{}, {}]})
    refused(recipe, "is none .ValueError: it has", {name: place[name] for name in place if name != "batch"})
    refused(recipe, "is none .ValueError: a source has", {**place, "sources": [{}, {}]})
    refused(recipe, "counts to -1, which nothing does", {**place, "batch": -1})
    refused(recipe, "counts to '3', which", {**place, "step": "3"})
    refused(recipe, "stands at batch 999 of a window that has", {**place, "batch": 999})
    far = [{**state, "index": 10**6} for state in place["sources"]]
    refused(recipe, "stands at a pair that is not there", {**place, "sources": far})
    parallel(tmp_path, pairs_by_rule(301))
    refused(recipe, "data.train.0 .*: the files have changed")


def test_places_that_do_not_belong_together_are_not_merged(recipe):
    first, second = (step.place for step in steps_of(recipe, 2))
    assert merge_window_places([first, dict(first)]) == first
    with pytest.raises(ValueError, match="differ in step: 1 and 2"):
        merge_window_places([first, second])


def test_a_filler_scores_nothing_and_stands_where_a_rank_has_no_row(tmp_path):
    filler = filler_pairs()
    assert filler.rows_B.tolist() == [-1] and (filler.labels_BT == -100).all() and filler.words == 0
    assert filler.lengths_B.tolist() == filler.source_lengths_B.tolist() == [0]
    recipe = pair_recipe(parallel(tmp_path, [("a", "b")] * 2), window=2)        # two rows for three ranks
    batch, = steps_of(recipe, 1, rank=2, world=3)[0].micro_batches
    assert batch.rows_B.tolist() == [-1] and batch.filled() == 0


def feed_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(("train feed", "pairs of"))]


def test_closing_ends_the_threads_and_so_does_forgetting(recipe, tmp_path):
    feed = PairFeed(recipe, BOTH_BYTES, 0, 1)
    next(feed)
    assert feed_threads()
    feed.close()
    assert not feed_threads()
    feed = PairFeed(recipe, BOTH_BYTES, 0, 1)
    next(feed)
    del feed
    gc.collect()
    assert not feed_threads()


def test_closing_ends_a_long_search_at_once(tmp_path):
    source = tmp_path / "a.tsv"
    source.write_bytes(b"a\tb\n" * 3_000_000)
    recipe = pair_recipe(PairSource(path=str(source)))
    corpus, = pair_corpora(recipe.data, "train")
    place = {"step": 1, "window": 1, "batch": 0, "window_pairs": 64, "files": [corpus.fingerprint],
             "sources": [dict(epoch=0, file=0, document=2_999_990, seen=2_999_990, bad=0, index=0, given=0)]}
    feed = PairFeed(recipe, BOTH_BYTES, 0, 1, place)
    time.sleep(0.1)
    began = time.perf_counter()
    feed.close()
    assert time.perf_counter() - began < 0.5 and not feed_threads()


def test_an_error_of_one_source_surfaces_and_leaves_no_thread(tmp_path):
    (tmp_path / "bad.jsonl.gz").write_bytes(b"no gzip")
    recipe = pair_recipe(parallel(tmp_path, pairs_by_rule(300)), PairSource(path=str(tmp_path / "bad.jsonl.gz")))
    feed = PairFeed(recipe, BOTH_BYTES, 0, 1)
    with pytest.raises(UserError, match="bad.jsonl.gz: damaged"):
        next(feed)
    feed.close()
    assert not feed_threads()
