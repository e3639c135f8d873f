"""The recipe `arc-quickstart` learns: puzzles that it has never seen, answered whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from small_run import environment, read_lines


def test_a_small_part_of_the_recipe_answers_more_unseen_puzzles_than_copying_does(tmp_path: Path):
    """A twenty-fifth of its steps, on 350 puzzles of which copying the input answers ten."""
    command = [sys.executable, "-m", "dstrain", "train", "arc-quickstart", "run.steps=300", "valid.every=300",
               "checkpoint.every=300", "log.samples=1"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=1500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    scores = read_lines(tmp_path / "runs/arc-quickstart/metrics.jsonl")[-1]
    assert scores["split"] == "valid" and set(scores["by_category"]) == {
        "copy", "count", "fill", "flip", "gravity", "recolour", "rotate"}
    assert scores["copy_baseline"] == 10 / 350 and scores["answered"] > 0.95, scores
    assert scores["grid_accuracy_2"] >= scores["grid_accuracy"] > 0.04, scores
    assert scores["shape_accuracy"] > 0.5 and scores["changed_found"] > 0.2, scores
    assert "whole grids" in ended.stdout and "by copying 0.0286" in ended.stdout
