"""Token shards: the same batches as from text, the same bytes on every way to them, nothing half taken for whole."""

import errno
import fcntl
import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from data_help import BYTES, global_steps, recipe_of, steps_of, write_jsonl

from dstrain.config.errors import UserError
from dstrain.config.prepared_form import DESCRIPTION
from dstrain.config.schema import Source
from dstrain.data.preparing import prepare as prepare_module
from dstrain.data.preparing.prepare import prepare
from dstrain.data.preparing.prepared import PreparedFolder, as_prepared, corpora_of, shard_path
from dstrain.data.preparing.shard_writer import UNFINISHED
from dstrain.data.validation import valid_batches


class Watch:
    """Remembers what was said and done."""

    def __init__(self):
        self.said, self.advanced, self.whole = [], 0, []

    def say(self, line):
        self.said.append(line)

    def begin(self, name, total_bytes):
        pass

    def checked(self, shard):
        self.whole.append(shard.path)

    def advance(self, read_bytes, tokens, documents):
        self.advanced += documents


@pytest.fixture
def text(tmp_path):
    """Three .jsonl files with blank lines, empty documents and malformed lines, and a .txt of lines."""
    folder = tmp_path / "text"
    folder.mkdir()
    for name, count in (("a", 120), ("b", 1), ("c", 70)):
        lines = [json.dumps({"text": f"{name}{n} " + "wörd " * (n * 7 % 23) if n % 11 else ""}) for n in range(count)]
        lines[count // 2:count // 2] = ["", "broken", '{"other": 1}']
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "d.txt").write_text("".join(f"line {n}\n\n" for n in range(150)))
    return folder


@pytest.fixture
def recipe(text):
    """More than an epoch of each source within 14 steps."""
    return recipe_of(text / "*.jsonl", Source(path=str(text / "d.txt"), documents="lines", weight=0.5),
                     valid=(text / "a.jsonl", text / "c.jsonl"), rows=12, lanes=6, length=160, block_tokens=500,
                     bad_share=0.1)


def prepared(recipe, folder, shard_tokens=1000, watch=None):
    prepare(recipe, folder, watch or Watch(), shard_tokens)
    return replace(recipe, data=replace(recipe.data, prepared=str(folder)))


def files_in(folder):
    """Name -> bytes of all but the lock."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != ".lock"}


# ---- the same batches ----


def test_batches_from_shards_are_those_from_text_on_any_number_of_ranks(recipe, tmp_path):
    shards = prepared(recipe, tmp_path / "p")
    assert len(list((tmp_path / "p" / "data.train.0").iterdir())) > 5
    for world in (1, 2, 5):
        assert global_steps(shards, 14, world) == global_steps(recipe, 14, world)


def test_words_malformed_lines_and_complaints_are_the_same_too(recipe, tmp_path):
    shards = prepared(recipe, tmp_path / "p")
    heard, stats = {}, {}
    for name, each in (("text", recipe), ("shards", shards)):
        heard[name] = []
        stats[name] = [step.stats for step in steps_of(each, 14, warn=heard[name].append)]
    assert heard["text"] == heard["shards"] and any("b.jsonl, line 2: not JSON" in line for line in heard["text"])
    assert stats["text"] == stats["shards"] and stats["text"][-1]["bad_lines"] >= 6
    strict = {name: replace(each, data=replace(each.data, bad_share=0.0)) for name, each in
              (("text", recipe), ("shards", shards))}
    refusals = []
    for each in strict.values():
        with pytest.raises(UserError, match="malformed, more than") as refusal:
            steps_of(each, 14)
        refusals.append(str(refusal.value).split("): ", 1)[1])
    assert refusals[0] == refusals[1]


def test_validation_from_shards_scores_the_same_rows(recipe, tmp_path):
    shards = prepared(recipe, tmp_path / "p")
    passes = [[(batch.ids_BT.tolist(), batch.labels_BT.tolist(), batch.rows_B.tolist(), batch.words)
               for batch in valid_batches(each, BYTES, 1, 2, 4, warn=lambda line: None)] for each in (recipe, shards)]
    assert passes[0] == passes[1] and len(passes[0]) > 3


def test_a_run_goes_from_text_to_shards_and_back(recipe, tmp_path):
    whole = global_steps(recipe, 12, world=1)
    shards = prepared(recipe, tmp_path / "p")
    first = global_steps(recipe, 4, world=2)
    second = global_steps(shards, 4, world=3, place=json.loads(json.dumps(first[-1]["place"])))
    third = global_steps(recipe, 4, world=1, place=json.loads(json.dumps(second[-1]["place"])))
    assert first + second + third == whole


def test_shards_need_no_text(recipe, text, tmp_path):
    whole = global_steps(recipe, 6, world=1)
    shards = prepared(recipe, tmp_path / "p")
    shutil.rmtree(text)
    with pytest.raises(UserError, match="matches no file"):
        global_steps(recipe, 1, world=1)
    assert global_steps(shards, 6, world=1) == whole
    assert sum(batch.words for batch in valid_batches(shards, BYTES, 0, 1, 4, warn=lambda line: None)) > 500


def test_the_number_of_bytes_of_text_is_known_without_it(recipe, text, tmp_path):
    corpus = corpora_of(prepared(recipe, tmp_path / "p"), "train", BYTES)[1]
    assert corpus.text_bytes() == sum(len(f"line {n}") for n in range(150))


def test_documents_are_found_without_reading_those_before(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [f"document {n}" for n in range(5000)])
    shards = prepared(recipe_of(path), tmp_path / "p", shard_tokens=10_000)
    corpus = corpora_of(shards, "train", BYTES)[0]
    documents = corpus.documents(0, 4321)
    number, kept = next(documents)
    assert number == 4321 and bytes(kept.shard.document(kept.row)[0][:-1].astype(np.uint8)) == b"document 4321"
    assert [number for number, _ in documents] == list(range(4322, 5000))
    mapped = [shard.path.name for shard in corpus.shards if "_bytes" in vars(shard)]
    assert len(corpus.shards) == 7 and mapped == ["000005.shard", "000006.shard"]  # the others were never opened


@pytest.mark.parametrize("size, dtype", [(2**16, "<u2"), (2**16 + 1, "<u4")])
def test_tokens_take_two_bytes_where_the_vocabulary_allows(tmp_path, monkeypatch, size, dtype):
    class Large(type(BYTES)):
        name, vocab_size, eot = "bytes", size, size - 1

        def token_bytes(self):
            return np.ones(size, np.int64)

    monkeypatch.setattr("dstrain.data.preparing.describe.run_tokenizer", lambda *_: Large())
    path = write_jsonl(tmp_path / "a.jsonl", ["abc"])
    prepare(recipe_of(path), tmp_path / "p", Watch())
    shard = PreparedFolder(tmp_path / "p").corpora()[0].shards[0]
    assert shard.dtype == dtype and shard.document(0)[0].tolist() == [97, 98, 99, size - 1]


# ---- the same bytes, interrupted or not ----


def test_the_bytes_do_not_depend_on_the_number_of_workers(recipe, tmp_path):
    for workers in (1, 2, 4):
        prepared(replace(recipe, data=replace(recipe.data, workers=workers)), tmp_path / str(workers))
    assert files_in(tmp_path / "1") == files_in(tmp_path / "2") == files_in(tmp_path / "4")


def killed_in_child(act, name, times):
    """Runs `act` in a process that kills itself with SIGKILL just before its n-th call of that kind; whether it did."""
    owner, attribute = {"fsync": (os, "fsync"), "replace": (os, "replace"),
                        "document": (prepare_module.ShardWriter, "add")}[name]
    child = os.fork()
    if child == 0:
        real, calls = getattr(owner, attribute), [0]

        def counted(*arguments):
            calls[0] += 1
            if calls[0] == times:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        setattr(owner, attribute, counted)
        act()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("instant, step", [("document", 23), ("fsync", 1), ("replace", 1)])
def test_killed_before_any_of_its_writes_it_ends_in_the_same_bytes(text, tmp_path, instant, step):
    recipe = recipe_of(text / "[ab].jsonl", valid=(text / "c.jsonl",), bad_share=0.1, workers=1)
    prepared(recipe, tmp_path / "whole")
    kills = times = 0
    while True:  # each comes a little further than the one before
        times += step
        shutil.rmtree(tmp_path / "p", ignore_errors=True)
        if not killed_in_child(lambda: prepared(recipe, tmp_path / "p"), instant, times):
            break
        kills += 1
        prepared(recipe, tmp_path / "p")
        assert files_in(tmp_path / "p") == files_in(tmp_path / "whole")
    assert kills >= 8


def test_going_on_keeps_the_shards_that_are_there_also_within_a_file(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [f"{n:09d}" for n in range(1000)])
    recipe = recipe_of(path, workers=1)
    assert killed_in_child(lambda: prepared(recipe, tmp_path / "p"), "document", 555)
    assert (tmp_path / "p" / "data.train.0" / ("000005.shard" + UNFINISHED)).is_file()
    with pytest.raises(UserError, match=r"not prepared to its end \(.*000005.shard is missing\)"):
        steps_of(replace(recipe, data=replace(recipe.data, prepared=str(tmp_path / "p"))), 1)
    watch = Watch()
    prepared(recipe, tmp_path / "p", watch=watch)
    assert watch.advanced == 500 and len(watch.whole) == 5  # 10 targets a document, 100 documents a shard
    again = Watch()
    prepared(recipe, tmp_path / "p", watch=again)
    assert again.advanced == 0 and len(again.whole) == 11  # the last one is empty: the source ended with the tenth


@pytest.mark.parametrize("damage, seen_at_once", [
    (lambda held: held[:-1], True), (lambda held: held[:len(held) // 2], True), (lambda held: b"", True),
    (lambda held: held[:300] + held[301:], True),
    (lambda held: held[:-80] + bytes([held[-80] ^ 1]) + held[-79:], True),  # in its description
    (lambda held: bytes([held[0] ^ 1]) + held[1:], False)])                 # a token
def test_a_damaged_shard_is_found_and_written_anew(recipe, tmp_path, damage, seen_at_once):
    shards = prepared(recipe, tmp_path / "p")
    whole = files_in(tmp_path / "p")
    path = shard_path(tmp_path / "p" / "data.train.0", 2)
    path.write_bytes(damage(path.read_bytes()))
    if seen_at_once:
        with pytest.raises(UserError, match="000002.shard: is damaged: .* run the same dstrain prepare again"):
            steps_of(shards, 1)
    else:
        steps_of(shards, 1)
    watch = Watch()
    prepared(recipe, tmp_path / "p", watch=watch)
    assert files_in(tmp_path / "p") == whole
    assert len(watch.said) and "000002.shard: is damaged" in watch.said[0]


def test_a_whole_shard_in_anothers_place_is_found_and_written_anew(recipe, tmp_path):
    shards = prepared(recipe, tmp_path / "p")
    whole = files_in(tmp_path / "p")
    folder = tmp_path / "p" / "data.train.0"
    shutil.copy(shard_path(folder, 3), shard_path(folder, 2))
    with pytest.raises(UserError, match="000002.shard: is damaged: it begins at file 0, document "):
        steps_of(shards, 1)
    prepared(recipe, tmp_path / "p")
    assert files_in(tmp_path / "p") == whole


def test_a_full_disk_is_one_line_with_what_is_needed_and_then_it_goes_on(recipe, tmp_path, monkeypatch):
    prepared(recipe, tmp_path / "whole")
    real, calls = prepare_module.ShardWriter._write, [0]

    def full(self, values):
        calls[0] += 1
        if calls[0] > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, values)

    monkeypatch.setattr(prepare_module.ShardWriter, "_write", full)
    with pytest.raises(UserError, match=r"data.train.0: No space left on device: [0-9.]+ [MG]iB are free, and about "
                                        r"0\.0 MiB are needed for the rest of data.train.0; make room"):
        prepared(recipe, tmp_path / "p")
    assert not list((tmp_path / "p").rglob(f"*{UNFINISHED}"))
    monkeypatch.undo()
    prepared(recipe, tmp_path / "p")
    assert files_in(tmp_path / "p") == files_in(tmp_path / "whole")


def peak_bytes_of(act):
    """Resident memory at its highest, in a process of its own."""
    child = os.fork()
    if child == 0:
        act()
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return usage.ru_maxrss * 1024


def test_memory_is_the_same_for_a_file_eight_times_as_large(tmp_path):
    peaks = []
    for name, count in (("small", 500), ("large", 4_000)):  # 2 and 16 MB of text, 4 and 32 MB of tokens
        path = write_jsonl(tmp_path / f"{name}.jsonl", ["word " * 800] * count)
        peaks.append(peak_bytes_of(lambda: prepared(recipe_of(path), tmp_path / name, shard_tokens=2**19)))
    assert peaks[1] - peaks[0] < 10e6, peaks


# ---- what is refused ----


def test_two_at_once_in_one_folder_are_refused(recipe, tmp_path):
    (tmp_path / "p").mkdir()
    with open(tmp_path / "p" / ".lock", "a+") as lock:
        lock.write("process 7 on there\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being prepared by process 7 on there: wait for it"):
            prepared(recipe, tmp_path / "p")
    prepared(recipe, tmp_path / "p")


def other_documents(recipe, text):
    return replace(recipe, data=replace(recipe.data, train=(
        recipe.data.train[0], replace(recipe.data.train[1], documents="paragraphs"))))


def another_file(recipe, text):
    return replace(recipe, data=replace(recipe.data, train=(
        replace(recipe.data.train[0], path=str(text / "a.jsonl")), recipe.data.train[1])))


def a_file_that_is_nowhere(recipe, text):
    return replace(recipe, data=replace(recipe.data, train=(
        replace(recipe.data.train[0], path=str(text / "x.jsonl")), recipe.data.train[1])))


def changed_text(recipe, text):
    (text / "c.jsonl").write_text((text / "c.jsonl").read_text() + '{"text": "more"}\n')
    return recipe


def one_more(recipe, text):
    return replace(recipe, data=replace(recipe.data, train=(*recipe.data.train, recipe.data.train[1])))


@pytest.mark.parametrize("change, message", [
    (other_documents, "data.train.1.documents is 'paragraphs', but was 'lines' when .* was prepared; restore that"),
    (another_file, "data.train.0.path is '.*a.jsonl', which holds something else, but was "),
    (a_file_that_is_nowhere, "data.train.0.path is '.*', which is not here to be compared, but was '.*' when"),
    (changed_text, r"data.train.0 \(.*\): the files are others than they were when .* was prepared"),
    (one_more, "data.train.2: .* was prepared without it .* run dstrain prepare"),
])
def test_a_folder_of_something_else_is_refused(recipe, text, tmp_path, change, message):
    shards = prepared(recipe, tmp_path / "p")
    with pytest.raises(UserError, match=message):
        steps_of(change(shards, text), 1)


@pytest.mark.parametrize("change, message", [
    (other_documents, "data.train.1.documents is 'paragraphs', but was 'lines' when .* was begun; .* --out"),
    (another_file, r"data.train.0 \(.*\): the files are others than they were when .* was begun"),
    (changed_text, r"data.train.0 \(.*\): the files are others than they were when .* was begun"),
])
def test_going_on_with_something_else_is_refused_and_spoils_nothing(recipe, text, tmp_path, change, message):
    prepared(recipe, tmp_path / "p")
    before = files_in(tmp_path / "p")
    with pytest.raises(UserError, match=message):
        prepared(change(recipe, text), tmp_path / "p")
    assert files_in(tmp_path / "p") == before


def test_a_source_that_the_recipe_got_since_is_added(recipe, text, tmp_path):
    prepared(recipe, tmp_path / "p")
    before = files_in(tmp_path / "p")
    shards = prepared(one_more(recipe, text), tmp_path / "p")
    assert steps_of(shards, 2)[1].stats["targets_by_source"][2] > 0
    after = files_in(tmp_path / "p")
    assert all(after[name] == held for name, held in before.items() if name != DESCRIPTION)


def test_text_may_have_moved_and_weights_may_be_others(recipe, text, tmp_path):
    shards = prepared(recipe, tmp_path / "p")
    text.rename(tmp_path / "moved")
    path = str(tmp_path / "moved" / "*.jsonl")
    train = (replace(shards.data.train[0], path=path, weight=3.0), shards.data.train[1])
    steps_of(replace(shards, data=replace(shards.data, train=train)), 1)


def test_another_tokenizer_is_refused(recipe, tmp_path):
    class Other(type(BYTES)):
        name = "other"

        def save(self, folder):
            (folder / "tokenizer.json").write_text("other")
            return [folder / "tokenizer.json"]

    shards = prepared(recipe, tmp_path / "p")
    with pytest.raises(UserError, match="tokenizer: the recipe's is 'other', but .* was prepared with 'bytes'; set "
                                        "tokenizer=bytes, or prepare"):
        corpora_of(shards, "train", Other())


def test_what_is_no_prepared_folder_says_how_to_write_one(recipe, tmp_path):
    elsewhere = replace(recipe, data=replace(recipe.data, prepared=str(tmp_path)))
    with pytest.raises(UserError, match="is no prepared folder .* dstrain prepare RECIPE --out"):
        steps_of(elsewhere, 1)
    (tmp_path / DESCRIPTION).write_text("{")
    with pytest.raises(UserError, match="prepared.json: cannot be read"):
        steps_of(elsewhere, 1)


def test_text_of_which_hardly_a_line_is_right_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "SHARD_MALFORMED", 100)
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "x"}\n' * 5000)
    watch = Watch()
    with pytest.raises(UserError, match="100 of 100 lines read are malformed, more than data.bad_share 0.001 allows; "
                                        "the last is .*a.jsonl, line 100: no field 'text'.* data.train.0.text_field"):
        prepared(recipe_of(path, workers=1), tmp_path / "p", watch=watch)
    assert len(watch.said) == 3 and watch.advanced == 100
    with pytest.raises(UserError, match="100 of 100 lines"):  # and again, from the shard that is there
        prepared(recipe_of(path, workers=1), tmp_path / "p")


def test_text_without_a_document_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match=r"holds no document in 1 file\(s\)"):
        prepared(recipe_of(tmp_path / "a.jsonl"), tmp_path / "p")


def test_the_commit_of_a_hub_source_is_the_one_that_was_prepared(tmp_path):
    hub = Source(hub="name/space", revision="main")
    description = {"form": 1, "tokenizer": {}, "sources": {"data.train.0": {"source": {}, "commit": "a" * 40}}}
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    recipe = recipe_of(hub, Source(path="x.txt"), prepared=str(tmp_path))
    assert [source.revision for source in as_prepared(recipe).data.train] == ["a" * 40, None]
