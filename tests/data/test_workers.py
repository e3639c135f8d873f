"""Documents are parsed by several threads: the same batches, errors in their turn, bounded, ended at once."""

import gzip
import json
import re
import threading
import time
from threading import Event

import numpy as np
import pytest
from data_help import BYTES, global_steps, recipe_of, steps_of, write_jsonl

from dstrain.config.errors import UserError
from dstrain.config.schema import Source
from dstrain.data import one_pass, workers
from dstrain.data.tokenizers import encodings
from dstrain.data.feed import TrainFeed
from dstrain.data.parsed import Parsed
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.data.validation import valid_batches
from dstrain.data.workers import Ahead, Workers, in_order


class Watched(type(BYTES)):
    """Notes which threads it worked in; slow, or failing, on some texts."""

    def __init__(self, fails_on="\0", sleep_s=0.0):
        self.threads, self.texts, self._fails_on, self._sleep_s = set(), 0, fails_on, sleep_s

    def encode(self, text):
        self.threads.add(threading.current_thread().name)
        self.texts += 1
        time.sleep(self._sleep_s)
        if self._fails_on in text:
            raise RuntimeError("the tokenizer broke")
        return super().encode(text)


class Item:
    def __init__(self, content):
        self.content = content


@pytest.fixture
def recipe(tmp_path):
    """Two sources, one with a malformed line in 40, several epochs within 10 steps."""
    lines = [json.dumps({"text": f"{n}:" + "x" * (n * 37 % 300)}) if n % 40 else "broken" for n in range(400)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_text("".join(f"line {n}\n" for n in range(700)))
    text = Source(path=str(tmp_path / "b.txt"), documents="lines", weight=0.5)
    return lambda count: recipe_of(tmp_path / "a.jsonl", text, valid=(tmp_path / "a.jsonl",), rows=8, lanes=4,
                                   length=1200, block_tokens=3000, bad_share=0.1, workers=count)


def test_batches_places_and_complaints_are_the_same_with_any_number_of_workers(recipe):
    seen = {}
    for count in (1, 2, 5):
        said = []
        steps = steps_of(recipe(count), 10, warn=said.append)
        rows = global_steps(recipe(count), 10, world=2)
        seen[count] = rows, [(step.rows_hash, step.place, step.stats) for step in steps], said
    assert seen[1] == seen[2] == seen[5]
    assert seen[1][1][-1][2]["epochs"][0] >= 1 and seen[1][1][-1][2]["bad_lines"] > 10 and len(seen[1][2]) == 3


def test_validation_is_the_same_with_any_number_of_workers(recipe):
    passes = [[(batch.ids_BT.tolist(), batch.labels_BT.tolist(), batch.words) for batch in
               valid_batches(recipe(count), BYTES, 0, 1, 4, warn=lambda line: None)] for count in (1, 2, 5)]
    assert passes[0] == passes[1] == passes[2] and len(passes[0]) > 2


def test_the_work_is_shared_and_one_worker_has_no_thread_of_its_own(recipe, monkeypatch):
    monkeypatch.setattr(workers, "CHUNK_BYTES", 1000)
    threads = {}
    for count in (1, 4):
        tokenizer = Watched(sleep_s=0.0003)
        feed = TrainFeed(recipe(count), tokenizer, 0, 1, warn=lambda line: None)
        next(feed)
        feed.close()
        threads[count] = {name.split("_")[0] for name in tokenizer.threads}, len(tokenizer.threads)
    assert threads[1] == ({"train feed of rank 0"}, 1)
    assert threads[4][0] == {"train feed of rank 0", "tokenizing"} and threads[4][1] > 2


def test_an_error_surfaces_with_the_document_that_has_it_and_no_sooner(tmp_path):
    # one lane of 30-byte documents in one block: its order is shuffled, so whole steps come before the bad one
    path = write_jsonl(tmp_path / "a.jsonl", [f"{n:029d}" for n in range(60)] + ["bad"] + ["y" * 29] * 60)
    for count in (1, 3):
        feed = TrainFeed(recipe_of(path, rows=1, lanes=1, length=300, block_tokens=300, workers=count),
                         Watched(fails_on="bad"), 0, 1)
        for _ in range(6):
            next(feed)
        with pytest.raises(RuntimeError, match="the tokenizer broke"):
            next(feed)
        feed.close()


def test_no_more_is_parsed_ahead_than_some_chunks(monkeypatch):
    done = []

    def parse(content):
        done.append(content)
        return Parsed(np.empty(0, np.int32), 0)

    pool = Workers(3)
    ahead = Ahead(parse, pool, chunks=3)
    for number in range(1000):
        ahead.put(Item("x" * (workers.CHUNK_BYTES // 10)))
    ahead.start()
    ahead.take()
    time.sleep(0.2)
    assert 10 < len(done) <= 5 * 11  # one chunk of 11 taken from, 3 or 4 under way behind it
    pool.close()


def test_what_is_parsed_comes_in_the_order_in_which_it_was_put():
    def parse(content):
        time.sleep(0.002 * (len(content) % 3))
        return Parsed(np.array([len(content)], np.int32), 0)

    pool = Workers(4)
    found = list(in_order((Item("x" * size) for size in range(3000, 3200)), parse, pool))
    assert [int(parsed.targets[0]) for _, parsed in found] == list(range(3000, 3200))
    assert [len(item.content) for item, _ in found] == list(range(3000, 3200))
    pool.close()


def test_closing_ends_all_threads_at_once_with_much_still_to_do(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["word " * 4000] * 200)
    feed = TrainFeed(recipe_of(path, rows=4, lanes=4, length=64, block_tokens=1_000_000, workers=3),
                     Watched(sleep_s=0.05), 0, 1)  # 200 x 0.05 s until the first step
    time.sleep(0.3)
    began = time.perf_counter()
    feed.close()
    assert time.perf_counter() - began < 0.5
    time.sleep(0.2)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(("tokenizing", "train"))] == []


def test_targets_are_counted_by_source(recipe):
    steps = steps_of(recipe(2), 10, warn=lambda line: None)
    counts = np.array([step.stats["targets_by_source"] for step in steps])
    assert counts.sum(axis=1).tolist() == [step.stats["scored"] for step in steps] == [8 * 1200] * 10
    assert counts.sum(axis=0).tolist() == [
        sum(lane[source]["given"] for lane in steps[-1].place["lanes"].values()) for source in (0, 1)]
    assert counts.sum(axis=0)[0] / counts.sum() == pytest.approx(2 / 3, abs=0.02)  # weights 1.0 and 0.5
    again = steps_of(recipe(2), 2, place=steps[3].place, warn=lambda line: None)
    assert [step.stats["targets_by_source"] for step in again] == counts[4:6].tolist()


def test_a_long_skip_is_said_once_by_the_first_rank_alone(recipe, monkeypatch):
    place = global_steps(recipe(2), 3, world=1)[-1]["place"]
    quiet = []
    steps_of(recipe(2), 2, place=place, warn=quiet.append)
    assert not any("skipped" in line and "documents" in line for line in quiet)  # it took no 2 s
    monkeypatch.setattr(one_pass, "_LONG_SKIP_S", 0.0)
    for rank, sources in ((0, ["data.train.0"]), (1, [])):  # of the second source the first block is under way
        said = []
        steps_of(recipe(2), 6, rank=rank, world=2, place=place, warn=said.append)
        assert [line.split(":")[0] for line in said if "documents in" in line] == sources
    said = []
    steps_of(recipe(2), 2, warn=said.append)  # from the start: nothing is skipped
    assert not any("documents in" in line for line in said)


def test_a_skip_says_how_many_documents_it_passed_and_in_which_time(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", ["x"] * 2000)
    place = steps_of(recipe_of(path, rows=1, lanes=1), 1)[0].place
    place["lanes"]["0"][0].update(document=1234, index=0, token=0)
    said = []
    monkeypatch.setattr(one_pass, "_LONG_SKIP_S", 0.0)
    steps_of(recipe_of(path, rows=1, lanes=1), 1, place=place, warn=said.append)
    assert len(said) == 1 and re.fullmatch(r"data.train.0: skipped 1,234 documents in \d+\.\d s; `dstrain prepare` "
                                           r"makes this instant", said[0])


def test_a_stopped_reader_gives_up_between_two_documents(tmp_path):
    assert workers._parse_all(lambda content: content, [Item(1), Item(2)], Event()) == [1, 2]
    stopped = Event()
    stopped.set()
    assert workers._parse_all(lambda content: content, [Item(1), Item(2)], stopped) == []


def test_one_lane_alone_keeps_all_workers_busy(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["word " * 300] * 400)  # 600 kB
    tokenizer = Watched(sleep_s=0.0005)
    feed = TrainFeed(recipe_of(path, rows=1, lanes=1, length=64, block_tokens=300_000, workers=4), tokenizer, 0, 1)
    next(feed)
    feed.close()
    # The thread that packs the rows may take a document itself where none of the workers has begun it.
    assert len([name for name in tokenizer.threads if name.startswith("tokenizing_")]) == 4


def test_a_damaged_file_is_told_where_its_reading_ends_and_no_sooner(tmp_path):
    lines = [json.dumps({"text": f"{n:029d}"}) + "\n" for n in range(300)]
    packed = gzip.compress("".join(lines).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed[:-100])
    given = []
    for count in (1, 3):
        feed = TrainFeed(recipe_of(tmp_path / "a.jsonl.gz", rows=1, lanes=1, length=300, block_tokens=300,
                                   workers=count), BYTES, 0, 1)
        given.append(0)
        with pytest.raises(UserError, match="a.jsonl.gz: damaged or cut off"):
            while True:
                next(feed)
                given[-1] += 1
        feed.close()
    assert given[0] == given[1] > 10


def test_threads_do_not_share_one_encoding(shared_data, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    tokenizer = load_tokenizer("gpt2")
    texts = [f"some words, number {n}" for n in range(50)]
    used, tokens = [], []

    def work():
        tokens.append([tokenizer.encode(text).tolist() for text in texts])
        used.append(encodings._of_this_thread(tokenizer._encoding))
        assert encodings._of_this_thread(tokenizer._encoding) is used[-1]

    for thread in [threading.Thread(target=work) for _ in range(2)]:
        thread.start()
        thread.join()
    work()
    assert tokens[0] == tokens[1] == tokens[2] and used[2] is tokenizer._encoding
    assert len(set(map(id, used))) == 3
