"""The training feed: the same rows on any shape, exact places, a thread that ends."""

import gc
import json
import threading
import time

import pytest
import torch
from data_help import BYTES, EOT, global_steps, recipe_of, rows_in, steps_of, write_jsonl

from dstrain.config.errors import UserError
from dstrain.config.schema import Source
from dstrain.data.feed import TrainFeed, merge_places
from dstrain.data.reading.sources import Corpus


@pytest.fixture
def corpus(tmp_path):
    texts = [f"{n}:" + "x" * (n * 13 % 50) for n in range(90)] + [""] + ["long " * 60]
    return write_jsonl(tmp_path / "a.jsonl", texts)


@pytest.fixture
def recipe(corpus, tmp_path):
    """Two sources, blocks of few documents, several epochs within 12 steps."""
    text = tmp_path / "b.txt"
    text.write_text("".join(f"line {n} {'y' * (n % 11)}\n" for n in range(60)))
    return recipe_of(corpus, Source(path=str(text), documents="lines", weight=0.5), rows=12, lanes=6, length=36,
                     block_tokens=150)


def test_rows_and_hashes_are_the_same_on_any_number_of_ranks(recipe):
    one = global_steps(recipe, 12, world=1)
    assert all(sorted(step["rows"]) == list(range(12)) for step in one)
    assert one[-1]["place"]["lanes"]["0"][0]["epoch"] >= 1
    for world in (2, 3, 4, 5, 6):
        assert global_steps(recipe, 12, world) == one


def test_rows_and_hashes_are_the_same_in_micro_batches_of_any_size(recipe):
    one = global_steps(recipe, 3, world=1)
    for world in (1, 4):
        for micro_rows in (1, 2, 4):
            ranks = [steps_of(recipe, 3, rank, world, micro_rows=micro_rows) for rank in range(world)]
            for number, steps in enumerate(zip(*ranks)):
                rows = {row: value for step in steps for batch in step.micro_batches
                        for row, value in rows_in(batch).items()}
                assert rows == one[number]["rows"]
                assert sum(step.rows_hash for step in steps) % 2**64 == one[number]["hash"] % 2**64


def test_all_ranks_run_equally_many_micro_batches_of_equal_shape(recipe):
    # 6 lanes of 2 rows on 4 ranks: 4, 4, 2, 2 rows; micro-batches of 3 at most: 2 of 2 rows everywhere
    ranks = [steps_of(recipe, 1, rank, 4, micro_rows=3)[0] for rank in range(4)]
    assert [[tuple(batch.ids_BT.shape) for batch in step.micro_batches] for step in ranks] == [[(2, 36)] * 2] * 4
    assert [torch.cat([batch.rows_B for batch in step.micro_batches]).tolist() for step in ranks] == [
        [0, 4, 6, 10], [1, 5, 7, 11], [2, 8, -1, -1], [3, 9, -1, -1]]
    assert [step.stats["scored"] for step in ranks] == [144, 144, 72, 72]
    assert [step.stats["positions"] for step in ranks] == [144] * 4
    filler = ranks[2].micro_batches[1]
    assert (filler.labels_BT == -100).all() and filler.lengths_B.tolist() == [0, 0] and (filler.segments_BT == -1).all()


def test_resuming_after_any_step_gives_the_same_steps_also_the_second_time(recipe):
    whole = global_steps(recipe, 14, world=1)
    for stop in range(1, 12):
        place = json.loads(json.dumps(whole[stop - 1]["place"]))
        again = global_steps(recipe, 2, world=1, place=place)
        assert again == whole[stop:stop + 2]
        assert again[0]["place"]["step"] == stop + 1
        second = global_steps(recipe, 1, world=1, place=json.loads(json.dumps(again[0]["place"])))
        assert second == whole[stop + 1:stop + 2]


def test_a_run_that_stopped_on_two_ranks_goes_on_on_three(recipe):
    whole = global_steps(recipe, 9, world=1)
    two = global_steps(recipe, 4, world=2)
    three = global_steps(recipe, 3, world=3, place=json.loads(json.dumps(two[-1]["place"])))
    assert two + three == whole[:7]
    assert global_steps(recipe, 2, world=1, place=three[-1]["place"]) == whole[7:]


def test_the_place_is_after_the_step_taken_and_not_after_what_was_prepared(recipe):
    feed = TrainFeed(recipe, BYTES, 0, 1)
    first = next(feed)
    time.sleep(0.3)  # the thread has prepared 4 more steps by now
    second = next(feed)
    feed.close()
    assert (first.place["step"], second.place["step"]) == (1, 2)
    assert steps_of(recipe, 1, place=first.place)[0].rows_hash == second.rows_hash


def test_steps_are_numbered_from_one_and_their_places_are_plain_json(recipe):
    steps = steps_of(recipe, 3)
    assert [step.number for step in steps] == [1, 2, 3]
    for step in steps:
        assert json.loads(json.dumps(step.place)) == step.place
        numbers = [value for lane in step.place["lanes"].values() for state in lane for value in state.values()]
        assert all(type(value) is int for value in numbers) and len(numbers) == 6 * 2 * 8


def test_real_ends_are_scored_and_padding_is_not(corpus):
    # 92 documents, of which one is empty: 91 ends an epoch, each scored as the id that also stands before documents
    recipe = recipe_of(corpus, rows=1, lanes=1, length=1000)
    labels = torch.cat([batch.labels_BT for step in steps_of(recipe, 8) for batch in step.micro_batches])
    text_bytes = sum(len(json.loads(line)["text"]) for line in corpus.read_text().splitlines())
    assert (labels.flatten()[:text_bytes + 91] == EOT).sum() == 91


def test_statistics_count_what_started_and_what_was_cut(tmp_path):
    # one lane, rows of 8: documents of 20 targets, five in 100: rows end at 8, 16, 24, ..., 104
    path = write_jsonl(tmp_path / "a.jsonl", ["one two three four "] * 10)
    steps = steps_of(recipe_of(path, rows=1, lanes=1, length=8), 13)
    assert [step.stats["documents"] for step in steps] == [1, 0, 1, 0, 0] * 2 + [1, 0, 1]
    assert [step.stats["cut"] for step in steps] == [step.stats["documents"] for step in steps]
    assert [step.stats["words"] for step in steps] == [4 * step.stats["documents"] for step in steps]
    assert all(step.stats["scored"] == step.stats["positions"] == 8 for step in steps)


def test_a_place_of_another_order_is_refused(recipe, corpus, tmp_path):
    place = global_steps(recipe, 1, world=1)[0]["place"]
    with pytest.raises(UserError, match="data.lanes is 4, but the checkpoint was written with 6"):
        steps_of(recipe_of(*recipe.data.train, rows=12, lanes=4), 1, place=place)
    with pytest.raises(UserError, match="1 source"):
        steps_of(recipe_of(recipe.data.train[0], rows=12, lanes=6), 1, place=place)
    (tmp_path / "c.jsonl").write_text(corpus.read_text())
    more_files = Source(path=str(tmp_path / "*.jsonl"))
    with pytest.raises(UserError, match=r"2 file\(s\), but the checkpoint was written with 1"):
        steps_of(recipe_of(more_files, recipe.data.train[1], rows=12, lanes=6), 1, place=place)
    with pytest.raises(UserError, match="holds no lane 1"):
        steps_of(recipe, 1, rank=1, world=2, place=steps_of(recipe, 1, rank=0, world=2)[0].place)


def test_places_that_do_not_belong_together_are_not_merged(recipe):
    first, second = (step.place for step in steps_of(recipe, 2, rank=0, world=2))
    other = steps_of(recipe, 1, rank=1, world=2)[0].place
    assert list(merge_places([other, first])["lanes"]) == ["0", "1", "2", "3", "4", "5"]
    with pytest.raises(ValueError, match="differ in step"):
        merge_places([second, other])
    with pytest.raises(ValueError, match="the same lane"):
        merge_places([first, first])


def test_an_error_in_the_thread_surfaces_in_next_and_again_for_who_asks_again(tmp_path):
    (tmp_path / "b.jsonl.gz").write_bytes(b"no gzip")
    feed = TrainFeed(recipe_of(tmp_path / "b.jsonl.gz"), BYTES, 0, 1)
    for _ in range(2):
        with pytest.raises(UserError, match="b.jsonl.gz: damaged"):
            next(feed)
    feed.close()


def test_missing_files_are_an_error_before_the_first_step(tmp_path):
    with pytest.raises(UserError, match="matches no file"):
        TrainFeed(recipe_of(tmp_path / "none.jsonl"), BYTES, 0, 1)


def feed_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("train feed")]


def test_closing_ends_the_thread_at_once_even_in_the_middle_of_a_long_search(tmp_path):
    # this rank's lane starts behind 2,000,000 lines
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "x"}\n' * 2_000_000)
    place = {"step": 1, "lane_count": 1, "files": [Corpus(Source(path=str(path)), 0, "train").fingerprint],
             "lanes": {"0": [dict(epoch=0, file=0, document=1_999_990, index=0, token=0, given=0, seen=0, bad=0)]}}
    feed = TrainFeed(recipe_of(path, rows=1, lanes=1), BYTES, 0, 1, place)
    time.sleep(0.1)
    began = time.perf_counter()
    feed.close()
    feed.close()
    assert time.perf_counter() - began < 0.3 and not feed_threads()
    with pytest.raises(StopIteration):
        next(feed)


def test_a_waiting_consumer_is_woken_by_close(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "x"}\n' * 3_000_000)
    place = {"step": 1, "lane_count": 1, "files": [Corpus(Source(path=str(path)), 0, "train").fingerprint],
             "lanes": {"0": [dict(epoch=0, file=0, document=2_999_990, index=0, token=0, given=0, seen=0, bad=0)]}}
    feed = TrainFeed(recipe_of(path, rows=1, lanes=1), BYTES, 0, 1, place)
    taken = []
    consumer = threading.Thread(target=lambda: taken.extend(feed), daemon=True)
    consumer.start()
    time.sleep(0.1)
    feed.close()
    consumer.join(5)
    assert not consumer.is_alive() and taken == []


def test_a_feed_that_nobody_holds_any_more_ends_its_thread(recipe):
    feed = TrainFeed(recipe, BYTES, 0, 1)
    next(feed)
    assert len(feed_threads()) == 1
    del feed
    gc.collect()
    assert not feed_threads()


def test_the_thread_waits_without_work_when_enough_is_prepared(recipe):
    feed = TrainFeed(recipe, BYTES, 0, 1)
    next(feed)
    time.sleep(0.5)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1
    store = feed._steps._store
    assert len(store._items) == recipe.data.prefetch_steps == 4
    feed.close()


def test_waiting_for_data_is_measured(recipe):
    feed = TrainFeed(recipe, BYTES, 0, 1)
    first = next(feed)
    time.sleep(0.3)
    assert first.wait_s > 0 and next(feed).wait_s < 0.05
    feed.close()


@pytest.mark.parametrize("change", [
    lambda lines: [line.replace("document", "DOCUMENT") for line in lines],       # other texts
    lambda lines: [*lines, *lines[:3]],                                           # the file grew
    lambda lines: lines[::-1],                                                    # another order, the same size
])
def test_going_on_with_changed_files_is_refused(tmp_path, change):
    lines = [json.dumps({"text": f"document {n:03d}"}) + "\n" for n in range(40)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(lines))
    recipe = recipe_of(path, rows=2, lanes=2)
    place = steps_of(recipe, 3)[-1].place
    path.write_text("".join(change(lines)))
    with pytest.raises(UserError, match="data.train.0 .* the files have changed"):
        steps_of(recipe, 1, place=place)


def test_files_may_move_to_another_folder(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / "a.jsonl", [f"document {n}" for n in range(40)])
    here, there = (recipe_of(tmp_path / folder / "a.jsonl", rows=2, lanes=2) for folder in ("here", "there"))
    place = steps_of(here, 3)[-1].place
    assert steps_of(here, 1, place=place)[0].rows_hash == steps_of(there, 1, place=place)[0].rows_hash


def test_a_document_that_no_tokenizer_takes_is_malformed_and_named(tmp_path):
    class Picky(type(BYTES)):
        def encode(self, text):
            if "x" in text:
                raise ValueError("Max stack size exceeded")
            return super().encode(text)

    path = write_jsonl(tmp_path / "a.jsonl", ["abc", "x", "def"])
    said = []
    feed = TrainFeed(recipe_of(path, rows=1, lanes=1, bad_share=0.5), Picky(), 0, 1, warn=said.append)
    next(feed)
    feed.close()
    assert any("a.jsonl, line 2" in line and "cannot be tokenized" in line for line in said), said
