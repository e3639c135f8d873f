"""Malformed lines: skipped, counted, named, and too many of them an error."""

import json

import pytest
from data_help import BYTES, SHARED_DATA, recipe_of, steps_of

from dstrain.config.errors import UserError
from dstrain.config.schema import Source
from dstrain.data.feed import TrainFeed, valid_batches
from dstrain.data.reading.malformed import MalformedLines
from dstrain.data.reading.sources import Corpus
from dstrain.data.tokenizers.tokenizer import load_tokenizer


def lines(path, count, bad):
    path.write_text("".join("{broken\n" if n in bad else json.dumps({"text": f"d{n}"}) + "\n" for n in range(count)))
    return path


def test_few_malformed_lines_are_skipped_counted_and_the_first_named(tmp_path):
    # 5 of 1,000 lines: 0.5 %, allowed 1 %; three are named, all are counted. Targets of the others with their ends,
    # one epoch: 9 x "d0" 27, 90 x "d10" 360, 896 x "d100" 4,480, together 4,867
    path = lines(tmp_path / "a.jsonl", 1000, {3, 100, 200, 300, 400})
    said = []
    step = steps_of(recipe_of(path, lanes=1, rows=1, length=4867, bad_share=0.01), 1, warn=said.append)[0]
    assert step.stats["bad_lines"] == 5 and step.stats["epochs"] == [1]
    assert [line.split(": ")[0] for line in said] == [f"{path}, line {n}" for n in (4, 101, 201)]
    assert "not JSON" in said[0] and "only counted" in said[2]


def test_too_many_are_an_error_with_file_line_and_counts(tmp_path):
    path = lines(tmp_path / "a.jsonl", 100, {7, 50})
    with pytest.raises(UserError) as error:
        steps_of(recipe_of(path, lanes=1, rows=1, length=600, bad_share=0.01), 3, warn=lambda line: None)
    assert "2 of 100 lines read are malformed, more than data.bad_share 0.01 allows" in str(error.value)
    assert f"the last is {path}, line 51: not JSON" in str(error.value)


def test_a_broken_source_is_an_error_long_before_its_end(tmp_path):
    # every second of 100,000 lines, with 0.1 % allowed: 10 are let through, the 11th is line 22
    path = lines(tmp_path / "a.jsonl", 100_000, set(range(1, 100_000, 2)))
    with pytest.raises(UserError, match="11 of 22 lines read .* line 22: not JSON"):
        steps_of(recipe_of(path, lanes=1, rows=1), 1, warn=lambda line: None)


def test_no_tolerance_means_none(tmp_path):
    path = lines(tmp_path / "a.jsonl", 1000, {999})
    with pytest.raises(UserError, match="1 of 1000 lines"):
        steps_of(recipe_of(path, lanes=1, rows=1, length=1000, bad_share=0.0), 7)


def test_data_that_pass_on_one_rank_pass_on_four(tmp_path):
    # 2 of 400 lines, 0.5 % allowed; one rank of four sees 100 lines, and 1 or 2 bad ones among them
    path = lines(tmp_path / "a.jsonl", 400, {3, 4})
    recipe = recipe_of(path, lanes=4, rows=4, length=600, bad_share=0.005)
    for world in (1, 4):
        ranks = [steps_of(recipe, 2, rank, world, warn=lambda line: None)[0] for rank in range(world)]
        assert sum(step.stats["bad_lines"] for step in ranks) >= 2


def test_lines_that_are_read_again_for_a_slower_lane_count_once(tmp_path, monkeypatch):
    # with one scan open at a time, each lane that changes its epoch closes the others' scan; 20 rows of 300 for each
    # of 4 lanes are 24,000 of 1,881 targets an epoch: 12 whole epochs, and further lanes in their 13th or 14th
    path = lines(tmp_path / "a.jsonl", 400, {3, 4})
    recipe = recipe_of(path, lanes=4, rows=4, length=300, block_tokens=50, bad_share=0.005)
    counts = []
    for scans in (4, 1):
        monkeypatch.setattr("dstrain.data.scan._MOST_SCANS", scans)
        counts.append(steps_of(recipe, 20, warn=lambda line: None)[-1].stats["bad_lines"])
    assert counts[0] == counts[1] and 2 * 12 <= counts[0] <= 2 * 14


def test_a_share_just_within_the_limit_stays_within_it_for_any_number_of_epochs_and_resumes(tmp_path):
    # 2 of 400 lines at the very front, 0.5 % allowed: 41 epochs are 16,400 lines; 82 of them would be more than 0.5 %
    # of 16,005. Resumed each time in the middle of an epoch, with lanes in different ones
    path = lines(tmp_path / "a.jsonl", 400, {0, 1})
    recipe = recipe_of(path, lanes=4, rows=4, length=300, block_tokens=50, bad_share=0.005)
    assert steps_of(recipe, 70, warn=lambda line: None)[-1].stats["epochs"][0] >= 41
    place = None
    for _ in range(12):
        place = steps_of(recipe, 1, place=place, warn=lambda line: None)[-1].place


def test_what_a_lane_read_before_an_interruption_counts_for_its_epoch(tmp_path):
    # 1 of 100 lines before, 1,000 after: 1 of 1,100 is within 0.1 %, and 2 of 1,100 are not
    corpus = Corpus(Source(path=str(lines(tmp_path / "a.jsonl", 1, set()))), 0, "train")
    for bad in (0, 1):
        tally = MalformedLines(corpus, 0.001, 1, warn=lambda line: None)
        tally.continue_from(0, seen=100, bad=1)
        for _ in range(1000):
            tally.see(0)
        for _ in range(bad):
            tally.skip(0, 0, 0, "not JSON")
        if bad:
            with pytest.raises(UserError, match="2 of 1100 lines"):
                tally.end_of_epoch(0)
        else:
            tally.end_of_epoch(0)


@pytest.mark.parametrize("bad, refused", [(20, False), (400, True)])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_malformed_lines_are_judged_alike_on_any_number_of_ranks(tmp_path, world, bad, refused):
    # 0.1 % of 20,000 lines is 20; 4 lanes of 5,000 expect 5 each and may have 5 + 3 x 2.2 + 1; 400 are 100 each
    every = 20_000 // bad
    path = lines(tmp_path / "a.jsonl", 20_000, set(range(every - 1, 20_000, every)))
    recipe = recipe_of(path, lanes=4, rows=4, length=40_000)
    ends = []
    for rank in range(world):
        try:
            steps_of(recipe, 1, rank, world, warn=lambda line: None)
            ends.append(False)
        except UserError as error:
            assert "of 4 are malformed, more than data.bad_share 0.001 allows" in str(error)
            ends.append(True)
    assert any(ends) == refused


def test_malformed_lines_are_counted_in_the_lane_and_not_in_the_rank(tmp_path):
    # 60 bad of the first 600 lines, then 20,000 sound ones; 0.1 % allowed. Whoever pools four lanes and whoever reads
    # one must come to the same end
    path = lines(tmp_path / "a.jsonl", 20_600, set(range(9, 600, 10)))
    recipe = recipe_of(path, lanes=4, rows=4, length=1000)
    for world in (1, 4):
        with pytest.raises(UserError, match="for lane"):
            for rank in range(world):
                steps_of(recipe, 1, rank, world, warn=lambda line: None)


def test_validation_holds_the_same_rule(tmp_path):
    path = lines(tmp_path / "a.jsonl", 100, {7, 50})
    for share in (0.01, 0.02):
        recipe = recipe_of(path, valid=(path,), lanes=1, bad_share=share)
        batches = valid_batches(recipe, BYTES, 0, 1, 4, warn=lambda line: None)
        if share == 0.01:
            with pytest.raises(UserError, match="2 of 100 lines"):
                list(batches)
        else:
            assert list(batches)


def test_a_million_blanks_which_tiktoken_alone_gives_up_on_are_text_like_any_other(tmp_path, monkeypatch):
    if not (SHARED_DATA / "tiktoken").is_dir():
        pytest.skip("needs tiktoken's files for gpt2")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED_DATA / "tiktoken"))
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one", " " * 1_000_000 + "a", "two")))
    said = []
    feed = TrainFeed(recipe_of(path, rows=1, lanes=1, bad_share=0.5), load_tokenizer("gpt2"), 0, 1, warn=said.append)
    next(feed)
    feed.close()
    assert said == []
