"""A short set of the broken saves of disk_calls.py; the whole set is its command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_after_broken_saves_the_newest_committed_checkpoint_is_loaded():
    """In a process of its own: it forks an engine that no other test may share."""
    script = "import test_disk_calls as here; here.short_set()"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=Path(__file__).parent, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("held") == len(SHORT_SET)


SHORT_SET = (("write_at", 1, "half written"), ("write_file", 3, "no space"), ("sync_folder", 6, "I/O error"),
             ("rename", 1, "killed before"), ("rename", 1, "killed after"), ("rename", 2, "killed before"))


def short_set() -> None:
    from disk_calls import Case
    from one_engine import Trained
    case = Case(Trained(), background=True)
    for operation, at, kind in SHORT_SET:
        outcome, wrong = case.break_at(operation, at, kind)
        print(operation, at, kind, outcome, "held" if not wrong else f"BROKEN {wrong}")
        assert not wrong
    blind = case.wrong_after
    case.found = lambda: (case.folder / "checkpoints/step_00000004")  # the harness itself must be able to fail
    assert any("is the newest good one" in words for words in blind("returned"))
