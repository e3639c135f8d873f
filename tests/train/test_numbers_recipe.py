"""The recipe `numbers-en-de` learns: numbers that it has never seen, translated to the letter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from small_run import environment, read_lines


def test_a_third_of_the_recipe_translates_most_unseen_numbers_exactly(tmp_path: Path):
    command = [sys.executable, "-m", "dstrain", "train", "numbers-en-de", "run.steps=110", "valid.every=110"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    scores = read_lines(tmp_path / "runs/numbers-en-de/metrics.jsonl")[-1]
    assert scores["split"] == "valid" and scores["exact"] > 0.6, scores
    assert "scored by BLEU nrefs:1|case:mixed" in ended.stdout and "chrF nrefs:1" in ended.stdout
