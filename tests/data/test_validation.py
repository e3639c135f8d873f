"""Validation: one pass, every target once, the same rows on any number of ranks."""

import gzip
from collections import Counter

import pytest
from data_help import BYTES, EOT, recipe_of, rows_in, texts_from, write_jsonl

from dstrain.config.errors import UserError
from dstrain.config.schema import Source
from dstrain.data.feed import filler_batch, valid_batches

TEXTS = ["ab", "", "abcdefg", "ABCDEFGHIJKLMNOPQRS", "x y", "z\n"]


def rows_on(recipe, world, micro_rows):
    rows, words = {}, 0
    for rank in range(world):
        for batch in valid_batches(recipe, BYTES, rank, world, micro_rows):
            assert batch.ids_BT.shape == (micro_rows, recipe.batch.length)
            assert not set(rows) & set(rows_in(batch))
            rows |= rows_in(batch)
            words += batch.words
    return rows, words


@pytest.mark.parametrize("lanes", [1, 4, 12])
def test_every_target_is_scored_once_on_any_number_of_ranks(tmp_path, lanes):
    # targets: 2+1, 0, 7+1, 19+1, 3+1, 2+1 = 38; words: 1 + 1 + 1 + 2 + (1 and a line end)
    recipe = recipe_of(write_jsonl(tmp_path / "a.jsonl", TEXTS), valid=(tmp_path / "a.jsonl",), rows=12, lanes=lanes)
    one, words = rows_on(recipe, 1, 2)
    assert words == 7
    assert sum(length for *_, length in one.values()) == 38
    assert sum(label != -100 for row in one.values() for label in row[1]) == 38
    found = [text for lane in range(lanes) for text in texts_from(
        [label for number in sorted(one) if number % lanes == lane for label in one[number][1] if label != -100])]
    assert Counter(found) == Counter(text for text in TEXTS if text)
    for world in (2, 3, 4):
        for micro_rows in (1, 3):
            assert rows_on(recipe, world, micro_rows) == (one, 7)


def test_ends_are_scored_and_padding_never(tmp_path):
    recipe = recipe_of(tmp_path / "a.jsonl", valid=(write_jsonl(tmp_path / "a.jsonl", TEXTS),))
    rows, _ = rows_on(recipe, 1, 4)
    assert sum(label == EOT for row in rows.values() for label in row[1]) == 5
    for ids, labels, segments, positions, length in rows.values():
        assert all(label != -100 for label in labels[:length])
        assert set(zip(ids[length:], labels[length:], segments[length:], positions[length:])) <= {(0, -100, -1, 0)}


def test_several_sources_and_packed_ones_are_read_after_each_other(tmp_path):
    plain = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    both, words = rows_on(recipe_of(plain, valid=(plain, packed)), 2, 2)
    assert sum(length for *_, length in both.values()) == 2 * 38 and words == 14


def test_fewer_documents_than_lanes_and_more_ranks_than_lanes_are_fine(tmp_path):
    recipe = recipe_of(tmp_path / "a.jsonl", valid=(write_jsonl(tmp_path / "a.jsonl", ["abc"]),), lanes=4)
    batches = [list(valid_batches(recipe, BYTES, rank, 6, 2)) for rank in range(6)]
    assert sorted(len(of_rank) for of_rank in batches) == [0, 0, 0, 0, 0, 1]
    assert filler_batch(recipe, 2).labels_BT.shape == (2, 8)


def test_a_second_pass_is_the_same_and_starts_at_the_beginning(tmp_path):
    recipe = recipe_of(tmp_path / "a.jsonl", valid=(write_jsonl(tmp_path / "a.jsonl", TEXTS),))
    assert rows_on(recipe, 1, 2) == rows_on(recipe, 1, 2)


def test_an_empty_validation_source_is_an_error_and_none_at_all_is_no_batch(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match="data.valid.0 .* holds no document"):
        list(valid_batches(recipe_of(tmp_path / "a.txt", valid=(tmp_path / "a.txt",)), BYTES, 0, 1, 2))
    assert list(valid_batches(recipe_of(tmp_path / "a.txt"), BYTES, 0, 1, 2)) == []


def test_text_that_spells_end_of_text_is_not_one(tmp_path):
    recipe = recipe_of(tmp_path / "a.jsonl", lanes=1,
                       valid=(write_jsonl(tmp_path / "a.jsonl", ["a<|endoftext|>b"]),))
    rows, _ = rows_on(recipe, 1, 1)
    assert [label for number in sorted(rows) for label in rows[number][1] if label == EOT] == [EOT]
    assert sum(length for *_, length in rows.values()) == 16


def test_a_source_of_the_standard_library_is_ready_without_any_file():
    recipe = recipe_of(valid=(Source(embedded="python-stdlib", part="valid"),), length=512)
    batch = next(valid_batches(recipe, BYTES, 0, 1, 4))
    assert batch.lengths_B.tolist() == [512] * 4
