"""The bench of the step: its yardstick does the same work as dstrain, and it says so when that is not true."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import step

HERE = Path(__file__).resolve().parent


@pytest.mark.slow
def test_all_loops_reach_the_same_losses_at_every_stage_and_one_bare_loop_is_the_yardstick(tmp_path):
    done = subprocess.run([sys.executable, str(HERE / "step.py"), "--vocab", "300", "--length", "16", "--rounds", "2",
                           "--allocator", "kept", "--threads", "1", "--json", str(tmp_path / "step.json")],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    fp32, bf16 = json.loads((tmp_path / "step.json").read_text())["cases"]
    assert [name for name in fp32["contenders"] if "zero" in name] == ["zero0", "zero1", "zero2", "zero3"]
    assert [name for name in bf16["contenders"] if "zero" in name] == ["zero1", "zero2", "zero3"]
    for case, bound in ((fp32, 1e-5), (bf16, 2e-2)):
        assert case["allocator_kept"] and case["yardstick"].startswith("bare")
        assert max(contender["loss_off"] for contender in case["contenders"].values()) <= bound
        assert case["contenders"][case["yardstick"]]["wall_ratio"]["median"] == 1.0
    assert done.stdout.count("(yardstick)") == 4  # a table after each case, and one of all


def test_ratios_between_loops_with_other_losses_are_refused(monkeypatch, capsys):
    case = {"vocab": 300, "precision": "fp32", "allocator_kept": True, "yardstick": "bare", "same_work": False,
            "contenders": {}}
    monkeypatch.setattr(step, "run_case", lambda *_: case)
    monkeypatch.setattr(sys, "argv", ["step.py", "--vocab", "300", "--precision", "fp32", "--allocator", "kept"])
    with pytest.raises(SystemExit, match="do not do the same work"):
        step.main()
