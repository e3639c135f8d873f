"""The packaged recipes of experts and several heads, three steps of each in small, from a folder of text."""

from __future__ import annotations

import math

import pytest
from forked_commands import command
from small_run import read_lines

SMALL = ["model.width=32", "model.heads=2", "model.layers=2", "model.ff=64", "model.experts=4", "model.expert_ff=32",
         "tokenizer=bytes", "batch.rows=4", "batch.micro_rows=2", "batch.length=64", "run.steps=3",
         "schedule.warmup_steps=1", "valid.every=3", "checkpoint.every=3", "log.samples=1", "log.prompt=a",
         "data.folder=texts"]


@pytest.mark.parametrize("name", ["moe-mtp-small", "moe-mtp-medium"])
def test_it_trains_from_a_folder_of_text(tmp_path, name):
    (tmp_path / "texts").mkdir()
    for split in ("train", "valid"):
        text = "".join(f" = Article {n} = \n" + f" the number {n} and what follows it is {n + 1} .\n" * 20
                       for n in range(30 if split == "train" else 2))
        (tmp_path / f"texts/{split}.txt").write_text(text)
    ended = command(tmp_path, "train", name, *SMALL)
    assert ended.codes == [0], ended.errors
    assert "moe, 0.0" in ended.out and "active a token; 4 experts in each layer" in ended.out
    records = read_lines(tmp_path / f"runs/{name}/metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 3]
    assert records[0]["terms"]["next4"] == pytest.approx(math.log(257), rel=0.05)
    assert records[-1]["heads"].keys() == {"1", "2", "3", "4"}
