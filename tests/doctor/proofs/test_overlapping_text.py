"""Copies of the evaluation in the training text are found, and clean splits of real text pass."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.proofs import overlap


def sentences(count: int, seed: int, words: int = 40) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(f"w{chance.randrange(5_000)}" for _ in range(words)) for _ in range(count)]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return f"{{path: {path}}}"


def judged(*overrides: str, recipe: str = "quickstart") -> Finding:
    return overlap.prove(Case(load_recipe(recipe, list(overrides)), Path()))


def of_texts(folder: Path, train: list[str], valid: list[str]) -> Finding:
    return judged(f"data.train=[{write(folder / 'train.jsonl', train)}]",
                  f"data.valid=[{write(folder / 'valid.jsonl', valid)}]")


def test_one_document_of_twenty_copied_into_the_training_text_fails_and_is_named(tmp_path):
    valid = sentences(200, seed=1)
    clean = of_texts(tmp_path, sentences(2_000, seed=2), valid)
    planted = of_texts(tmp_path, [*sentences(2_000, seed=2), *valid[100:110]], valid)
    assert clean.passed and clean.figure.startswith("0.0% of 5,600 n-grams")
    assert not planted.passed and planted.figure.startswith("5.0% of 5,600 n-grams")
    assert "5.0% of its words stand in documents that are there whole" in planted.figure
    assert any(valid[number][:40] in planted.figure for number in range(100, 110)) and planted.remedy


def test_two_documents_of_two_hundred_are_what_clean_splits_have(tmp_path):
    valid = sentences(200, seed=1)
    assert of_texts(tmp_path, [*sentences(2_000, seed=2), *valid[:2]], valid).passed


def test_a_split_in_which_every_fiftieth_word_was_changed_fails_by_its_n_grams(tmp_path):
    valid = sentences(100, seed=1, words=200)
    changed = [" ".join("other" if place % 50 == 25 else word for place, word in enumerate(text.split()))
               for text in valid]
    finding = of_texts(tmp_path, changed, valid)
    assert not finding.passed and "0.0% of its words stand in documents that are there whole" in finding.figure


def test_copies_with_one_word_changed_in_each_fail(tmp_path):
    valid = sentences(100, seed=1)
    reworded = [" ".join("other" if place == 20 else word for place, word in enumerate(text.split()))
                for text in valid[:3]]
    finding = of_texts(tmp_path, [*sentences(2_000, seed=2), *reworded], valid)
    assert not finding.passed and finding.figure.startswith("1.6% of 2,800 n-grams")
    assert "in documents that are there whole, 3.0% in such of which half or more is; 54% of it: " in finding.figure
    assert of_texts(tmp_path, [*sentences(2_000, seed=2), *reworded[:2]], valid).passed


def test_passages_that_are_less_than_half_of_any_document_fail_by_their_n_grams(tmp_path):
    valid = sentences(100, seed=1, words=200)
    passages = [" ".join(text.split()[:60]) for text in valid]
    assert not of_texts(tmp_path, [*sentences(500, seed=2), *passages], valid).passed
    assert of_texts(tmp_path, [*sentences(500, seed=2), *passages[:30]], valid).passed


def test_the_tables_of_the_embedded_corpus_are_left_out_and_that_is_said(tmp_path):
    """Named like them elsewhere they are not."""
    (tmp_path / "encodings").mkdir()
    text = "\n".join(sentences(50, seed=1))
    for name in ("one", "two"):
        (tmp_path / "encodings" / f"{name}.txt").write_text(text)
    split = [f"data.{split}=[{{path: {tmp_path}/encodings/{name}.txt}}]" for split, name in (("train", "one"),
                                                                                            ("valid", "two"))]
    assert not judged(*split).passed
    assert "files of tables in the standard library's encodings are left out" in judged().figure


def test_copies_are_found_over_the_borders_of_a_long_documents_pieces(tmp_path):
    """A .txt file is handed out in pieces, which end elsewhere when something stands before."""
    text = "\n".join(sentences(2_000, seed=1))
    (tmp_path / "valid.txt").write_text(text)
    (tmp_path / "train.txt").write_text("\n".join(sentences(77, seed=2)) + "\n" + text)
    finding = judged(f"data.train=[{{path: {tmp_path}/train.txt}}]", f"data.valid=[{{path: {tmp_path}/valid.txt}}]")
    assert finding.figure.startswith("100.0% of") and "100.0% of its words" in finding.figure


def test_short_texts_count_as_a_whole_and_by_their_words(tmp_path):
    """Headings stand in both sides of any split: half of the documents here, and a hundredth of the words."""
    headings = [f"= {name} =" for name in ("History", "Notes", "See also")] * 10
    valid = [*sentences(30, seed=1, words=300), *headings]
    finding = of_texts(tmp_path, [*sentences(500, seed=2), *headings], valid)
    assert finding.passed and "0.0% of its words stand in documents that are there whole" not in finding.figure
    assert not of_texts(tmp_path, [*sentences(500, seed=2), *headings], headings).passed


def test_pairs_are_compared_with_both_of_their_sides(tmp_path):
    """A caption may come again with another translation; the same pair may not."""
    sources, targets = sentences(100, seed=1, words=9), sentences(100, seed=2, words=9)
    others = list(zip(sentences(500, seed=3, words=9), sentences(500, seed=4, words=9)))

    def of_pairs(train: list[tuple[str, str]]) -> Finding:
        for name, pairs in (("train", train), ("valid", list(zip(sources, targets)))):
            (tmp_path / f"{name}.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
        return judged(f"data.train=[{{path: {tmp_path}/train.tsv}}]", f"data.valid=[{{path: {tmp_path}/valid.tsv}}]",
                      recipe="numbers-en-de")

    assert of_pairs([*others, *zip(sources[:5], sentences(5, seed=5, words=9))]).passed
    assert not of_pairs([*others, *zip(sources[:5], targets[:5])]).passed


def test_of_many_files_the_beginnings_of_all_are_looked_at_and_it_is_said(tmp_path, monkeypatch):
    valid = sentences(50, seed=1)
    (tmp_path / "many").mkdir()
    for number in range(20):
        texts = [*(valid if number == 19 else []), *sentences(500, seed=number + 2)]
        write(tmp_path / "many" / f"{number:02}.jsonl", texts)
    monkeypatch.setattr(overlap, "MOST_TRAIN", 400_000)
    finding = judged(f"data.train=[{{path: {tmp_path}/many/*.jsonl}}]",
                     f"data.valid=[{write(tmp_path / 'valid.jsonl', valid)}]")
    assert not finding.passed and "are in data.train (the first 0.4 MB)" in finding.figure


def test_a_long_document_that_is_not_read_to_its_end_does_not_run_into_the_next(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("\n".join(sentences(1_000, seed=number)))
    looked = overlap.Looked()
    recipe = load_recipe("quickstart", [f"data.valid=[{{path: {tmp_path}/*.txt}}]"])
    sample, = overlap.samples(recipe, "valid", 90_000, looked)
    assert len(sample.ends) == len(sample.shown) == 3 and not looked.whole and sum(sample.sizes) == sample.ends[-1]


def test_without_evaluation_text_nothing_is_proven(tmp_path):
    with pytest.raises(NotProven, match="data.valid is empty"):
        judged("data.valid=[]")


def test_the_embedded_corpora_and_real_clean_splits_pass(shared_data):
    wikipedia = [f"data.{split}=[{{path: {shared_data}/enwiki/{split}.jsonl.gz}}]" for split in ("train", "valid")]
    found = [judged(), judged(recipe="numbers-en-de"), judged(*wikipedia),
             judged(f"data.folder={shared_data}/wikitext2", recipe="wikitext2-tiny"),
             judged(f"data.folder={shared_data}/multi30k", recipe="multi30k-en-de")]
    assert [finding.passed for finding in found] == [True] * 5
    assert [finding.figure.split("%")[0] for finding in found[1:]] == ["0.0", "0.2", "0.3", "0.0"]
