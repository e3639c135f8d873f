"""Real text, the GPT-2 vocabulary, the 16M preset, two ranks: small steps of what docs/LOG.md measured in full."""

from __future__ import annotations

import gzip
import subprocess

import pytest
from small_run import ROOT, environment, read_lines

pytestmark = [pytest.mark.ranks, pytest.mark.slow]


def test_wikitext2_tiny_learns_on_two_ranks(tmp_path, shared_data):
    with gzip.open(shared_data / "wikitext2/valid.txt.gz", "rt") as file:
        lines = [next(file) for _ in range(60)]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/valid.txt").write_text("".join(lines))
    (tmp_path / "texts/train.txt.gz").symlink_to(shared_data / "wikitext2/train.txt.gz")
    done = subprocess.run(
        ["bash", str(ROOT / "launch/local.sh"), "wikitext2-tiny",
         "data.folder=texts", "batch.rows=8", "batch.micro_rows=4", "batch.length=64", "run.steps=60",
         "schedule.warmup_steps=10", "valid.every=20", "checkpoint.every=60", "log.samples=0"],
        cwd=tmp_path, env={**environment(), "TIKTOKEN_CACHE_DIR": str(shared_data / "tiktoken")},
        capture_output=True, text=True, timeout=570, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert "16.0M parameters (16,025,344)" in done.stdout

    records = read_lines(tmp_path / "runs/wikitext2-tiny/metrics.jsonl")
    first, scores = records[0], [record for record in records if "split" in record]
    assert first["loss"] == pytest.approx(10.825, abs=0.05)              # ln(50,257)
    assert [score["step"] for score in scores] == [20, 40, 60]
    bits = [score["bits_per_byte"] for score in scores]
    # Untrained: 10.825 / ln 2 over 4.5 bytes a token.
    assert bits[0] > bits[1] > bits[2] and bits[0] < 3.4
    # WikiText counts a line's end as a word; the last one of each article is no part of it here: one or two words less.
    words = sum(len(line.split()) + 1 for line in lines)
    word_perplexity = scores[0]["perplexity"] ** (scores[0]["targets"] / words)
    assert scores[0]["word_perplexity"] == pytest.approx(word_perplexity, rel=0.01)
