"""The doctor on translators: green in every form of pairs, and each fault that pairs can have is found by its proof."""

from __future__ import annotations

import gzip
import json

import pair_faults
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dstrain.config.load import load_recipe
from dstrain.data.reading.spelled_numbers import english, german
from dstrain.doctor.case import Case
from dstrain.doctor.proofs import gradient, labels, resume, same_curve, schedule

pytestmark = pytest.mark.ranks
PROOFS = {proof.__name__.rpartition(".")[2]: proof for proof in (labels, gradient, schedule, same_curve, resume)}
NUMBERS = range(0, 90_000, 301)
PAIRS = [(english(number), german(number)) for number in NUMBERS]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """300 numbers in parallel text; a vocabulary a side; smoothing; in windows of 64 pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    for side, texts in zip(("en", "de"), zip(*PAIRS)):
        (folder / f"all.{side}").write_text("".join(f"{text}\n" for text in texts))
    source = f"{{source_path: {folder}/all.en, target_path: {folder}/all.de}}"
    small = Case.of(load_recipe("numbers-en-de", [
        f"data.train=[{source}]", f"data.valid=[{source}]", "tokenizer={source: bpe:300, target: bytes}",
        "objective.label_smoothing=0.1", "engine.config=zero2_fp32", "log.samples=1", "batch.length=90"]))
    yield small
    small.close()


@pytest.mark.parametrize("proof", PROOFS)
def test_a_translator_is_proven(case, proof):
    finding = PROOFS[proof].prove(case)
    assert finding.passed, finding


@pytest.mark.parametrize("fault, proof", [
    ("no_start", "labels"), ("end_not_scored", "labels"), ("end_is_another_token", "labels"),
    ("padding_scored", "labels"), ("sources_of_the_neighbours", "labels"), ("target_lines_one_late", "labels"),
    ("drawn_with_replacement", "labels"), ("window_ends_lost", "labels"), ("second_rank_repeats_the_first", "labels"),
    ("validation_rest_lost", "labels")])
def test_a_fault_in_the_data_of_pairs_is_found(case, fault, proof):
    pair_faults.plant(None, fault)
    try:
        finding = PROOFS[proof].prove(case)
    finally:
        pair_faults.pull(None)
    assert not finding.passed and finding.cause, finding


@pytest.mark.parametrize("fault, proof", [
    ("mean_of_means", "gradient"), ("mean_of_means", "same_curve"), ("source_padding_seen", "gradient"),
    ("smoothing_forgotten", "gradient"), ("window_begun_anew", "resume")])
def test_a_fault_in_the_steps_of_pairs_is_found(case, fault, proof):
    """The reference of this process is a healthy one: only the ranks are ill."""
    groups = [case.ranks(world) for world in (1, 2)]
    for group in groups:
        group.run(pair_faults.plant, fault)
    try:
        finding = PROOFS[proof].prove(case)
    finally:
        for group in groups:
            group.run(pair_faults.pull)
    assert not finding.passed and finding.cause, finding


@pytest.mark.parametrize("over_long", ["drop", "cut"])
@pytest.mark.parametrize("form", ["tsv", "records", "columns", "parallel", "hub", "embedded"])
def test_pairs_are_counted_in_every_form_of_source(tmp_path, monkeypatch, form, over_long):
    monkeypatch.chdir(tmp_path)
    source = laid_out(tmp_path, form)
    small = Case.of(load_recipe("numbers-en-de", [
        f"data.train=[{source}]", f"data.valid=[{source}]", "tokenizer=bytes", "data.bad_share=0.05",
        f"batch={{tokens: 512, micro_tokens: 512, window: 64, length: 40, over_long: {over_long}}}"]))
    try:
        small.open_data()
        finding = labels.prove(small)
    finally:
        small.close()
    assert finding.passed, finding


def laid_out(folder, form):
    if form == "tsv":
        lines = [f"{german(number)}\t{number}\t{english(number)}\n" for number in NUMBERS]
        (folder / "all.tsv").write_text("".join([*lines[:7], "torn\n", *lines[7:]]))
        return "{path: all.tsv, columns: [2, 0]}"
    if form in ("records", "columns"):
        pairs = [dict(en=source, de=target) for source, target in PAIRS]
        with gzip.open(folder / "all.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"translation": pair} if form == "records" else pair) + "\n" for pair in pairs)
        return "{path: all.jsonl.gz}"
    if form == "hub":
        (folder / "set").mkdir()
        table = pa.table({"translation": [dict(en=source, de=target) for source, target in PAIRS]})
        pq.write_table(table, folder / "set" / "train.parquet")
        return f"{{hub: {folder}/set}}"
    if form == "parallel":
        for side, texts in zip(("en", "de"), zip(*PAIRS)):
            (folder / f"all.{side}").write_text("".join(f"{text}\n" for text in texts))
        return "{source_path: all.en, target_path: all.de}"
    return "{embedded: numbers-en-de, part: train}"
