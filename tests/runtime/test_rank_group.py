"""Ranks whose caller is gone end without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GIVES_UP = """
from dstrain.runtime.rank_group import RankGroup

if __name__ == "__main__":
    group = RankGroup(2)
    for pipe in group._pipes:
        pipe.close()
    for process in group._processes:
        process.join(60)
    print([process.exitcode for process in group._processes])
"""


@pytest.mark.ranks
def test_ranks_that_were_given_up_while_they_started_end_quietly(tmp_path):
    (tmp_path / "gives_up.py").write_text(GIVES_UP)
    done = subprocess.run([sys.executable, "gives_up.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"})
    assert (done.stdout.strip(), done.stderr.strip()) == ("[0, 0]", "")
