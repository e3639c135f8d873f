"""The order of documents: per lane, per epoch, per source, by the seed alone."""

from collections import Counter
from statistics import pstdev

import pytest
from data_help import BYTES, EOT, global_steps, recipe_of, steps_of, targets_of_lane, texts_from, write_jsonl

from dstrain.config.errors import UserError
from dstrain.config.schema import Source
from dstrain.data.shares import lane_of


def test_every_target_of_an_epoch_comes_once_whatever_the_length_of_its_document(tmp_path):
    # targets, with the end: 2+1 and 7+1 (exactly a row) and 19+1 (two rows and a half); the empty text has none: 31
    texts = ["ab", "", "abcdefg", "ABCDEFGHIJKLMNOPQRS"]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    steps = global_steps(recipe_of(path, rows=1, lanes=1, length=8), 31, world=1)  # 31 rows of 8: 8 epochs of 31
    targets = targets_of_lane(steps, 0, 1)
    assert len(targets) == 8 * 31
    for epoch in range(8):
        assert sorted(texts_from(targets[31 * epoch:31 * epoch + 31])) == sorted(text for text in texts if text)
    state = steps[-1]["place"]["lanes"]["0"][0]
    assert (state["epoch"], state["seen"], state["given"]) == (8, 0, 8 * 31)  # `seen` counts within the epoch


def test_each_epoch_of_each_lane_has_all_its_documents_in_an_order_of_its_own(tmp_path):
    texts = [f"document {n} {'x' * (n % 37)}" for n in range(100)]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    steps = global_steps(recipe_of(path, rows=4, lanes=4, length=128, block_tokens=300), 24, world=1)
    for lane in range(4):
        own = [text for n, text in enumerate(texts) if lane_of(0, 0, n, 4) == lane]
        given = texts_from(targets_of_lane(steps, lane, 4))
        assert len(own) == 25 and len(given) >= 2 * 25
        first, second = given[:25], given[25:50]
        assert sorted(first) == sorted(second) == sorted(own)
        assert first != second and first != own


def test_labels_never_cross_a_document_and_each_input_is_the_label_before_it(tmp_path):
    texts = [chr(97 + n % 26) * (1 + n * 7 % 23) for n in range(60)]  # each document has one letter throughout
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    for step in global_steps(recipe_of(path, length=16), 12, world=1):
        for ids, labels, segments, positions, length in step["rows"].values():
            assert length == 16
            for t in range(16):
                starts = positions[t] == 0
                assert starts == (t == 0 or segments[t] != segments[t - 1])
                if not starts:
                    assert ids[t] == labels[t - 1] and ids[t] != EOT  # nothing comes after an end within a document
                    assert labels[t] in (ids[t], EOT) or ids[t] == EOT
                elif t > 0:
                    assert ids[t] == EOT and labels[t - 1] == EOT  # only a row's start continues a document


def test_a_piece_that_does_not_end_its_document_has_no_end_to_learn(tmp_path):
    # 20,000 characters in lines of 100: pieces of 16,300 and 3,700; one end in 20,001 targets, 2 in two epochs
    path = tmp_path / "a.txt"
    path.write_text(("x" * 99 + "\n") * 200)
    targets = targets_of_lane(global_steps(recipe_of(path, rows=1, lanes=1, length=40_002), 1, world=1), 0, 1)
    assert len(targets) == 40_002 and targets.count(EOT) == 2 and targets.count(ord("x")) == 2 * 19_800


def test_another_seed_is_another_order_of_the_same_documents_in_the_same_lanes(tmp_path):
    texts = [f"{n:03d}" for n in range(200)]  # 4 targets each, 50 documents a lane: 200 targets
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    orders = {}
    for seed in (1, 2):
        steps = global_steps(recipe_of(path, length=200, seed=seed), 1, world=1)
        orders[seed] = [texts_from(targets_of_lane(steps, lane, 4)) for lane in range(4)]
    assert orders[1] != orders[2]
    assert [sorted(lane) for lane in orders[1]] == [sorted(lane) for lane in orders[2]]


def test_files_change_their_order_from_epoch_to_epoch_and_blocks_cross_them(tmp_path):
    for n in range(10):
        write_jsonl(tmp_path / f"{n}.jsonl", [f"{n}-{d}" for d in range(3)])  # 4 targets a document, 120 an epoch
    order = []
    for block_tokens in (1, 10_000):
        recipe = recipe_of(tmp_path / "*.jsonl", rows=1, lanes=1, length=120, block_tokens=block_tokens)
        epochs = [texts_from(targets_of_lane([step], 0, 1)) for step in global_steps(recipe, 3, world=1)]
        files = [[text[0] for text in epoch[::3]] for epoch in epochs]
        order.append(files)
        assert [sorted(epoch) for epoch in epochs] == [sorted(epochs[0])] * 3
    assert all(sorted(files) == list("0123456789") for files in order[0])  # blocks of one document: file after file
    assert order[0][0] != order[0][1] != order[0][2]
    assert any(sorted(files) != list("0123456789") for files in order[1])  # one block: shuffled across files
    other = recipe_of(tmp_path / "*.jsonl", rows=1, lanes=1, length=120, block_tokens=1, seed=2)
    epoch = texts_from(targets_of_lane(global_steps(other, 1, world=1), 0, 1))
    assert [text[0] for text in epoch[::3]] != order[0][0]  # another seed, another order of the files


def test_sources_give_targets_by_their_weights(tmp_path):
    # 3 : 1 by targets although the documents of the second are ten times as long
    short = write_jsonl(tmp_path / "a.jsonl", ["a" * 9] * 40)
    long = write_jsonl(tmp_path / "b.jsonl", ["b" * 99] * 40)
    recipe = recipe_of(Source(path=str(short), weight=3.0), Source(path=str(long), weight=1.0), length=100)
    steps = global_steps(recipe, 50, world=1)
    for lane in range(4):
        targets = targets_of_lane(steps, lane, 4)
        share = Counter(text[0] for text in texts_from(targets) for _ in range(len(text) + 1))
        assert abs(share["a"] / sum(share.values()) - 0.75) < 0.02  # 5,000 targets: one long document is 2 %
        given = [source["given"] for source in steps[-1]["place"]["lanes"][str(lane)]]
        assert given == pytest.approx([3750, 1250], abs=100)


def test_a_lane_without_documents_says_what_to_do(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["one", "two", "three"])
    with pytest.raises(UserError) as error:
        steps_of(recipe_of(path, rows=8, lanes=8), 1)
    assert "data.train.0" in str(error.value) and "3 document(s) are too few for data.lanes 8" in str(error.value)
    assert "data.lanes=1" in str(error.value) and "documents=lines" in str(error.value)


@pytest.mark.parametrize("name, content", [("a.jsonl", ""), ("a.txt", ""), ("a.jsonl", "\n\n")])
def test_an_empty_source_is_an_error_and_no_endless_search(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="holds no document in 1 file"):
        steps_of(recipe_of(tmp_path / name), 1)


def test_a_source_of_empty_texts_is_an_error_and_no_endless_search(tmp_path):
    with pytest.raises(UserError, match="gets none with text"):
        steps_of(recipe_of(write_jsonl(tmp_path / "a.jsonl", [""] * 20)), 1)


def test_a_lane_far_ahead_of_another_leaves_it_all_its_documents(tmp_path):
    # two lanes: one document of 1 target + end, one of 2,000 + end: 1,000 epochs of the one within one of the other
    short, long = ("s", "l" * 2000) if lane_of(0, 0, 0, 2) == 0 else ("l" * 2000, "s")
    path = write_jsonl(tmp_path / "a.jsonl", [short, long])
    steps = global_steps(recipe_of(path, rows=2, lanes=2, length=100, block_tokens=10), 45, world=1)
    assert texts_from(targets_of_lane(steps, 0, 2)) == ["s"] * 2250
    assert texts_from(targets_of_lane(steps, 1, 2)) == ["l" * 2000] * 2


def test_a_lane_that_runs_ahead_does_not_have_the_documents_of_others_tokenized(tmp_path, monkeypatch):
    # two lanes: 2,000 + end and 1 + end: 4,500 of 2 targets and 3 of 2,001 at most are all that need a tokenizer
    short, long = ("s", "l" * 2000) if lane_of(0, 0, 0, 2) == 0 else ("l" * 2000, "s")
    path = write_jsonl(tmp_path / "a.jsonl", [short, long])
    asked, encode = Counter(), type(BYTES).encode
    monkeypatch.setattr(type(BYTES), "encode", lambda self, text: (asked.update([text[0]]), encode(self, text))[1])
    steps_of(recipe_of(path, rows=2, lanes=2, length=100, block_tokens=10, prefetch_steps=1), 45)
    assert asked["s"] >= 2250 and asked["l"] <= 4


def test_a_very_long_document_in_one_line_is_given_whole(tmp_path):
    text = "".join(chr(97 + n * n % 26) for n in range(300_000))
    path = write_jsonl(tmp_path / "a.jsonl", ["short", text])
    steps = global_steps(recipe_of(path, rows=1, lanes=1, length=100_000), 4, world=1)
    assert text in texts_from(targets_of_lane(steps, 0, 1))
    assert BYTES.encode(text).tolist()[5] == ord(text[5])


def test_sources_are_mixed_within_each_step_not_only_in_the_long_run(tmp_path):
    # 16 lanes, half and half, documents of twelve rows: each lane reads one source for twelve steps. Lanes that chose
    # by a coin would give 0.5 +- 0.125; lanes in step 0 or 1, which is 0.5 +- 0.5
    sources = [Source(path=str(write_jsonl(tmp_path / f"{letter}.jsonl", [letter * 3000] * 64))) for letter in "ab"]
    shares = []
    for seed in range(8):
        steps = global_steps(recipe_of(*sources, rows=16, lanes=16, length=256, seed=seed), 24, world=1)
        shares += [share_of("a", [step]) for step in steps]
    assert pstdev(shares) < 0.13 and all(0.2 < share < 0.8 for share in shares)
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("weight", [1, 3, 19])
def test_a_source_has_its_share_from_the_first_steps_on_however_small_it_is(tmp_path, weight):
    # 32 lanes, documents of six rows: one source of four, of ten, of twenty
    sources = [Source(path=str(write_jsonl(tmp_path / f"{letter}.jsonl", [letter * 1500] * 128)), weight=share)
               for letter, share in (("a", 1), ("b", weight))]
    runs = [global_steps(recipe_of(*sources, rows=32, lanes=32, length=256, seed=seed), 16, world=1)
            for seed in range(8)]
    for steps in (slice(0, 6), slice(6, 16)):
        shares = [share_of("a", run[steps]) for run in runs]
        assert sum(shares) / 8 == pytest.approx(1 / (1 + weight), abs=0.03)


def test_sources_of_short_and_of_long_documents_do_not_swing_together_in_all_lanes(tmp_path):
    # half and half, 150 and 1,500 targets: ten short ones for a long one; a lane's period is 3,000 targets, 12 rows.
    # After the first long documents each step is mixed; lanes in step would swing between 0 and 1
    sources = [Source(path=str(write_jsonl(tmp_path / f"{letter}.jsonl", [letter * length] * 128)))
               for letter, length in (("a", 150), ("b", 1500))]
    steps = global_steps(recipe_of(*sources, rows=32, lanes=32, length=256), 36, world=1)
    shares = [share_of("a", [step]) for step in steps[8:]]
    assert pstdev(shares) < 0.1 and sum(shares) / len(shares) == pytest.approx(0.5, abs=0.04)


def share_of(letter, steps):
    labels = [label for step in steps for row in step["rows"].values() for label in row[1]]
    return labels.count(ord(letter)) / len(labels)
