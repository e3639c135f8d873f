"""The sample that a tokenizer is learned from: sources by weight, all files, bounded, always the same."""

from __future__ import annotations

import json

from data_help import recipe_of, write_jsonl

from dstrain.config.schema import Source
from dstrain.data.tokenizers.text_sample import _cost, text_sample


def sampled(*sources, sample_bytes: int = 10_000, read_bytes: int = 100_000) -> list:
    return [sample for _, sample in text_sample(recipe_of(*sources), lambda line: None, sample_bytes, read_bytes)]


def documents(name: str, count: int) -> list[str]:
    return [f"{name} {number:05} of a text" for number in range(count)]       # 17 bytes


def test_all_of_a_small_source_is_taken(tmp_path):
    sample, = sampled(write_jsonl(tmp_path / "a.jsonl", documents("a", 100)))
    assert sorted(sample.texts) == [text.encode() for text in documents("a", 100)]
    assert (sample.read_documents, sample.read_bytes, sample.malformed) == (100, 1700, 0)


def test_sources_give_by_their_weights_and_no_more_than_they_have(tmp_path):
    for name, count in (("a", 2000), ("b", 2000), ("c", 20)):
        write_jsonl(tmp_path / f"{name}.jsonl", documents(name, count))
    sizes = [sum(map(len, sample.texts)) for sample in sampled(
        Source(path=str(tmp_path / "a.jsonl"), weight=3.0), Source(path=str(tmp_path / "b.jsonl"), weight=1.0),
        Source(path=str(tmp_path / "c.jsonl"), weight=1.0))]
    assert 5_900 < sizes[0] <= 6_000 and 1_950 < sizes[1] <= 2_000 and sizes[2] == 20 * 17


def test_the_sample_comes_from_all_that_was_read_and_not_from_its_head(tmp_path):
    sample, = sampled(write_jsonl(tmp_path / "a.jsonl", documents("a", 4000)), sample_bytes=17 * 400)
    numbers = sorted(int(text.split()[1]) for text in sample.texts)
    assert len(numbers) == 400 == len(set(numbers))
    quarters = [sum(start <= number < start + 1000 for number in numbers) for start in (0, 1000, 2000, 3000)]
    assert min(quarters) > 70                                              # 100 each, give or take three deviations


def test_every_file_gives_something_and_what_is_read_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("dstrain.data.tokenizers.text_sample._LEAST_OF_A_FILE", 100)
    for number in range(20):
        write_jsonl(tmp_path / f"{number:02}.jsonl", documents(chr(97 + number), 1000))
    sample, = sampled(tmp_path / "*.jsonl", sample_bytes=20_000, read_bytes=40_000)
    assert {text[:1] for text in sample.texts} == {bytes([97 + number]) for number in range(20)}
    assert 40_000 <= sample.read_bytes < 41_000 and 19_900 < sum(map(len, sample.texts)) <= 20_000


def test_short_files_leave_what_they_do_not_use_to_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("dstrain.data.tokenizers.text_sample._LEAST_OF_A_FILE", 100)
    write_jsonl(tmp_path / "long.jsonl", documents("z", 5000))
    for number in range(9):
        write_jsonl(tmp_path / f"{number}.jsonl", documents("a", 1))
    sample, = sampled(tmp_path / "*.jsonl", sample_bytes=50_000, read_bytes=20_000)
    assert sample.read_bytes > 2_000 + 17                                  # more than the long file's tenth


def test_it_is_the_same_every_time_and_another_one_for_other_data(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents("a", 4000))
    first, again = (sampled(path)[0].texts for _ in range(2))
    assert first == again
    write_jsonl(path, documents("b", 4000))
    assert sampled(path)[0].texts != first


def test_malformed_lines_are_counted_and_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n{"text": 3}\nno json\n' + json.dumps({"text": "fine"}) + "\n")
    sample, = sampled(path)
    assert sorted(sample.texts) == [b"fine", b"good"] and sample.malformed == 2 and sample.read_documents == 4


def test_of_a_giant_document_the_start_is_taken(tmp_path):
    sample, = sampled(write_jsonl(tmp_path / "a.jsonl", ["x " * 2**20]), sample_bytes=10**7, read_bytes=10**7)
    assert len(sample.texts[0]) == 2**20


def test_text_without_spaces_counts_for_up_to_eight_times_its_bytes():
    assert _cost(b"of words that are short") == 23
    assert _cost("東京".encode() * 100) == 8 * 600 and _cost(b"a" * 32) == 64
