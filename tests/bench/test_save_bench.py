"""The bench of saving runs to its end, and its tables say what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import save

HERE = Path(__file__).resolve().parent


@pytest.mark.slow
def test_all_parts_are_measured(tmp_path):
    done = subprocess.run([sys.executable, str(HERE / "save.py"), "--rounds", "1", "--rows", "4", "--length", "32",
                           "--folder", str(tmp_path), "--json", str(tmp_path / "save.json")],
                          capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads((tmp_path / "save.json").read_text())
    assert {case["how"] for case in seen["stall"][0]} == {"beside", "waiting"}
    assert list(seen["gather"]) == ["1", "2", "3"]
    assert {case["cache"] for case in seen["load"][1]} == {"cold", "warm"}
    assert [path.name for path in tmp_path.iterdir()] == ["save.json"]


def test_what_is_lost_is_the_stall_and_what_the_steps_beside_the_writer_take_longer():
    beside = {"how": "beside", "quiet_s": [1.0, 1.0], "stall_s": 0.1, "beside_s": [1.5, 1.2], "save_s": 2.0}
    waiting = {"how": "waiting", "quiet_s": [1.0], "stall_s": 2.0, "beside_s": [], "save_s": 2.0}
    lines = save.stall_table([beside, waiting])
    assert lines[3].split(" | ")[3].startswith("800 ms") and "+35 % (2 steps)" in lines[3]
    assert lines[4].split(" | ")[3].startswith("2,000 ms")
