"""The benches of experts and heads run, and compare what they say that they compare."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def run(script: str, *options: str) -> str:
    done = subprocess.run([sys.executable, str(HERE / script), *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_experts_take_turns_with_a_dense_model_of_as_many_active_parameters(tmp_path):
    said = run("experts.py", "--rows", "2", "--length", "16", "--rounds", "2", "--threads", "1", "--json",
               str(tmp_path / "experts.json"))
    active, dense = (int(number.replace(",", "")) for number in
                     re.search(r"active parameters ([\d,]+), dense ([\d,]+)", said).groups())
    assert abs(active / dense - 1) < 0.01  # the router is what is more
    result = json.loads((tmp_path / "experts.json").read_text())
    assert list(result) == ["dense", "experts", "deepspeed", "deepspeed, drops"]
    assert result["dense"]["speed_to_dense"]["median"] == result["deepspeed"]["speed_to_deepspeed"]["median"] == 1.0


@pytest.mark.slow
def test_the_peak_is_that_of_a_process_with_one_head_and_of_one_with_four():
    said = run("heads_memory.py", "--preset", "tiny", "--rows", "2", "--length", "64", "--vocab", "257")
    one, four = (float(gib) for gib in re.findall(r"head\(s\): ([\d.]+) GiB", said))
    ratio = float(re.search(r"ratio ([\d.]+)", said).group(1))
    assert 0.1 < one <= four and ratio == pytest.approx(four / one, abs=0.06)
