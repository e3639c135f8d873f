"""Pairs that are too long are said before the first step and counted while the run goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_run import environment
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RECIPE = """
family: translate
model: {width: 16, heads: 2, encoder_layers: 1, decoder_layers: 1, ff: 16, dropout: 0.0}
tokenizer: bytes
data: {languages: [en, de], train: [{source_path: pairs.en, target_path: pairs.de}]}
batch: {tokens: 120, micro_tokens: 120, window: 9, length: 10, over_long: %s}
run: {name: pairs, steps: 4}
log: {every: 1, norms_every: 0}
"""


@pytest.mark.parametrize("over_long, said", [
    ("drop", "3 with more than 10 tokens on a side were left out to fill its window of 9"),
    ("cut", "of them cut to 10 tokens a side")])
def test_over_long_pairs_are_said_and_counted(tmp_path: Path, over_long: str, said: str):
    """Of 12 pairs 3 have more than 9 bytes."""
    (tmp_path / "pairs.en").write_text("".join(f"{'s' * (n + 1)}\n" for n in range(12)))
    (tmp_path / "pairs.de").write_text("t\n" * 12)
    (tmp_path / "pairs.yaml").write_text(RECIPE % over_long)
    ended = subprocess.run([sys.executable, "-m", "dstrain", "train", "pairs.yaml"], cwd=tmp_path, env=environment(),
                           capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0 and said in ended.stdout, ended.stdout + ended.stderr
    board = EventAccumulator(str(tmp_path / "runs/pairs/tensorboard"))
    board.Reload()
    counted = [event.value for event in board.Scalars("data/over_long")]
    assert len(counted) == 4 and 3 <= sum(counted) <= 12
